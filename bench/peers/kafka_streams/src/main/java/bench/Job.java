package bench;

import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.StateRestoreListener;
import org.apache.kafka.streams.state.Stores;

/** Kafka Streams: RocksDB with a changelog. With the argument "eos": exactly_once_v2 and its default commit interval. */
public final class Job {
    public static void main(String[] arguments) throws InterruptedException {
        boolean exactlyOnce = arguments.length > 0 && arguments[0].equals("eos");
        Map<String, String> environment = System.getenv();
        AtomicLong left = new AtomicLong(Long.parseLong(environment.get("BENCH_EVENTS")));
        CountDownLatch done = new CountDownLatch(1);
        Runnable onEvent = () -> {
            if (left.decrementAndGet() == 0) {
                done.countDown();
            }
        };

        Topology topology = new Topology();
        topology.addSource("events", Serdes.String().deserializer(), Serdes.ByteArray().deserializer(), environment.get("BENCH_INPUT"));
        topology.addProcessor("classify", () -> new Classify(onEvent), "events");
        topology.addStateStore(
                Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore(Classify.STORE), Serdes.String(), Team.serde()).withCachingEnabled(),
                "classify");
        topology.addSink(
                Classify.AUDIT, environment.get("BENCH_AUDIT_EVENTS"), Serdes.String().serializer(), Serdes.ByteArray().serializer(), "classify");
        topology.addSink(
                Classify.CURRENT, environment.get("BENCH_TIER_CURRENT"), Serdes.String().serializer(), Serdes.ByteArray().serializer(), "classify");

        KafkaStreams streams = new KafkaStreams(topology, settings(environment, exactlyOnce));
        Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            Runtime.getRuntime().halt(1);
            return null;
        });
        streams.setGlobalStateRestoreListener(new Restored());
        streams.start();
        done.await();
        streams.close(); // commits what is left
    }

    /** Prints what was restored of each partition: records, and the milliseconds at which it began and ended. */
    private static final class Restored implements StateRestoreListener {
        private final Map<TopicPartition, Long> began = new ConcurrentHashMap<>();

        @Override
        public void onRestoreStart(TopicPartition partition, String store, long start, long end) {
            began.put(partition, System.currentTimeMillis());
        }

        @Override
        public void onBatchRestored(TopicPartition partition, String store, long end, long records) {}

        @Override
        public void onRestoreEnd(TopicPartition partition, String store, long records) {
            System.out.println("restored " + records + " " + began.get(partition) + " " + System.currentTimeMillis());
        }
    }

    private static Properties settings(Map<String, String> environment, boolean exactlyOnce) {
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, environment.get("BENCH_GROUP"));
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, environment.get("BENCH_BOOTSTRAP_SERVERS"));
        settings.put(StreamsConfig.STATE_DIR_CONFIG, environment.get("BENCH_STATE_DIRECTORY"));
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, environment.getOrDefault("BENCH_THREADS", "1"));
        settings.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, "1");
        settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 64L << 20);
        settings.put("auto.offset.reset", "earliest");
        settings.put("max.poll.records", "5000");
        settings.put("max.partition.fetch.bytes", "4194304");
        settings.put("producer.linger.ms", "20");
        settings.put("producer.batch.size", "262144");
        settings.put("producer.buffer.memory", "134217728");
        settings.put("producer.compression.type", "lz4");
        if (exactlyOnce) {
            settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        } else {
            settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, "5000");
        }
        return settings;
    }
}
