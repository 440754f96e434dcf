package tiers;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.consumer.CommitFailedException;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.RebalanceInProgressException;
import org.apache.kafka.common.errors.TimeoutException;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Follow tierstream from another service with Kafka's own client: the same program as tiers.py, line for line of what it prints.
 *
 * <p>{@code java -cp 'target/tiers.jar:target/lib/*' tiers.Tiers --bootstrap 127.0.0.1:9092 [--topic-prefix P] [--group G] [--exit-at-end]}
 * prints one line for each thing it learns; ../README.md says which, and what a copy must keep.
 */
public final class Tiers {
    private static final Duration READ = Duration.ofMillis(250);
    private static final String CONNECT_MS = "10000";
    private static final ObjectMapper JSON = new ObjectMapper();

    /** The kinds of audit.events that say something about a tier. There are others, and there will be more. */
    private static final Set<String> KINDS =
            Set.of(
                    "onboarding.claimed",
                    "subscription.upgraded",
                    "subscription.downgraded",
                    "subscription.canceled",
                    "admin.tier_changed");

    private final String bootstrap;
    private final String prefix;
    private final String group;
    private final boolean exitAtEnd;

    /** Every team's tier, as far as tier.current has been read. */
    private final Map<String, JsonNode> tiers = new TreeMap<>();

    private Tiers(Map<String, String> options) {
        bootstrap = options.get("--bootstrap");
        prefix = options.getOrDefault("--topic-prefix", "");
        group = options.getOrDefault("--group", "example.tiers");
        exitAtEnd = options.containsKey("--exit-at-end");
    }

    /** What ends the program, in one sentence. */
    private static final class Failed extends RuntimeException {
        Failed(String sentence) {
            super(sentence);
        }
    }

    private interface Following {
        void run(KafkaConsumer<byte[], byte[]> consumer);
    }

    /** Read tier.current from its start: print the picture once it is whole, and from then on each change. */
    private void followTiers(KafkaConsumer<byte[], byte[]> consumer) {
        List<TopicPartition> partitions = partitionsOf(consumer, prefix + "tier.current");
        consumer.assign(partitions); // without a group: it gets every partition
        consumer.seekToBeginning(partitions);
        Map<TopicPartition, Long> end = consumer.endOffsets(partitions);
        while (!hasReached(consumer, end)) {
            for (ConsumerRecord<byte[], byte[]> record : consumer.poll(READ)) {
                apply(record);
            }
        }
        for (String team : List.copyOf(tiers.keySet())) {
            reportTier("tier", team);
        }
        while (!exitAtEnd) {
            for (ConsumerRecord<byte[], byte[]> record : consumer.poll(READ)) {
                if (apply(record)) {
                    reportTier("now", new String(record.key(), StandardCharsets.UTF_8));
                }
            }
        }
    }

    /** Read audit.events with a group: print each event about a tier, and commit what was printed. */
    private void followEvents(KafkaConsumer<byte[], byte[]> consumer) {
        String topic = prefix + "audit.events";
        partitionsOf(consumer, topic);
        consumer.subscribe(List.of(topic));
        Map<TopicPartition, Long> end = Map.of();
        while (true) {
            var records = consumer.poll(READ);
            for (ConsumerRecord<byte[], byte[]> record : records) {
                reportEvent(record.value());
            }
            if (!records.isEmpty()) {
                try {
                    consumer.commitSync();
                } catch (CommitFailedException | RebalanceInProgressException dealtAnew) {
                    // The group has dealt its partitions anew meanwhile: their new owner reads these events again.
                }
            }
            if (exitAtEnd && !consumer.assignment().isEmpty()) { // empty until the group has dealt out its partitions
                if (!end.keySet().equals(consumer.assignment())) {
                    end = consumer.endOffsets(consumer.assignment());
                }
                if (hasReached(consumer, end)) {
                    return;
                }
            }
        }
    }

    /** Whether everything before the {@code end} offsets has been read. */
    private static boolean hasReached(KafkaConsumer<byte[], byte[]> consumer, Map<TopicPartition, Long> end) {
        return end.entrySet().stream().allMatch(each -> consumer.position(each.getKey()) >= each.getValue());
    }

    private static List<TopicPartition> partitionsOf(KafkaConsumer<byte[], byte[]> consumer, String topic) {
        List<PartitionInfo> found = consumer.partitionsFor(topic);
        if (found == null || found.isEmpty()) {
            throw new Failed("Kafka has no topic " + topic + "; check --topic-prefix.");
        }
        return found.stream().map(each -> new TopicPartition(topic, each.partition())).toList();
    }

    /** Take one record in and say whether it changed its team. */
    private boolean apply(ConsumerRecord<byte[], byte[]> record) {
        if (record.key() == null) {
            return false;
        }
        String team = new String(record.key(), StandardCharsets.UTF_8);
        if (record.value() == null) { // a tombstone
            return tiers.remove(team) != null;
        }
        JsonNode envelope = readEnvelope(record.value());
        if (envelope == null || !envelope.path("type").asText().equals("tier.current")) {
            return false;
        }
        JsonNode data = envelope.get("data");
        return !data.equals(tiers.put(team, data));
    }

    private void reportTier(String name, String team) {
        JsonNode data = tiers.get(team);
        if (data == null) {
            report("gone", team);
        } else {
            report(name, team, text(data, "tier"), text(data, "since"));
        }
    }

    /** Print one event, unless it is of a kind that this program does not know. */
    private static void reportEvent(byte[] value) {
        JsonNode envelope = value == null ? null : readEnvelope(value);
        if (envelope == null || !KINDS.contains(envelope.path("type").asText())) {
            return;
        }
        JsonNode metadata = envelope.get("data").path("metadata");
        report(
                "event",
                text(envelope, "subject"),
                text(envelope, "type"),
                text(metadata, "from"),
                text(metadata, "to"),
                text(metadata, "reason"),
                text(envelope, "id"));
    }

    /** Return the CloudEvents envelope (JSON, version 1.0) that {@code value} holds, or null when it holds none. */
    private static JsonNode readEnvelope(byte[] value) {
        try {
            JsonNode envelope = JSON.readTree(value);
            boolean isOne = envelope.path("specversion").asText().equals("1.0") && envelope.path("data").isObject();
            return isOne ? envelope : null;
        } catch (JsonProcessingException noJson) {
            return null;
        } catch (java.io.IOException noText) {
            return null;
        }
    }

    private static String text(JsonNode node, String field) {
        String found = node.path(field).asText("");
        return node.path(field).isNull() || found.isEmpty() ? "-" : found;
    }

    /** Print one line. Two threads print. */
    private static synchronized void report(String... fields) {
        System.out.println(String.join("\t", fields));
        System.out.flush();
    }

    private KafkaConsumer<byte[], byte[]> consumer(String group) {
        Properties properties = new Properties();
        properties.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
        properties.put(ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed");
        properties.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        properties.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, "false");
        properties.put(ConsumerConfig.ALLOW_AUTO_CREATE_TOPICS_CONFIG, "false");
        properties.put(ConsumerConfig.DEFAULT_API_TIMEOUT_MS_CONFIG, CONNECT_MS);
        properties.put(ConsumerConfig.REQUEST_TIMEOUT_MS_CONFIG, CONNECT_MS);
        if (group != null) {
            properties.put(ConsumerConfig.GROUP_ID_CONFIG, group);
        }
        return new KafkaConsumer<>(properties, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    /** Follow both topics until SIGINT or SIGTERM, or until their ends with {@code --exit-at-end}; return what went wrong, or null. */
    private String run() throws InterruptedException {
        AtomicReference<String> failure = new AtomicReference<>();
        List<KafkaConsumer<byte[], byte[]>> consumers = List.of(consumer(null), consumer(group));
        List<Following> followings = List.of(this::followTiers, this::followEvents);
        List<Thread> threads = new ArrayList<>();
        for (int number = 0; number < consumers.size(); number++) {
            KafkaConsumer<byte[], byte[]> consumer = consumers.get(number);
            Following following = followings.get(number);
            threads.add(
                    new Thread(
                            () -> {
                                try (consumer) {
                                    following.run(consumer);
                                } catch (WakeupException stopped) {
                                    // told to stop
                                } catch (TimeoutException away) {
                                    failure.compareAndSet(null, "Kafka can not be reached at " + bootstrap + "; check --bootstrap.");
                                } catch (Failed | KafkaException error) {
                                    failure.compareAndSet(null, error.getMessage());
                                }
                                if (failure.get() != null) {
                                    consumers.forEach(KafkaConsumer::wakeup);
                                }
                            }));
        }
        Runtime.getRuntime().addShutdownHook(new Thread(() -> stop(consumers, threads)));
        threads.forEach(Thread::start);
        for (Thread thread : threads) {
            thread.join();
        }
        return failure.get();
    }

    /** On a signal: let both threads close their consumers, and end with 0, for it is an orderly end. */
    private static void stop(List<KafkaConsumer<byte[], byte[]>> consumers, List<Thread> threads) {
        if (threads.stream().noneMatch(Thread::isAlive)) {
            return; // the program ends by itself, with its own status
        }
        consumers.forEach(KafkaConsumer::wakeup);
        try {
            for (Thread thread : threads) {
                thread.join();
            }
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
        Runtime.getRuntime().halt(0);
    }

    private static Map<String, String> parse(String[] arguments) {
        Map<String, String> options = new HashMap<>();
        for (int number = 0; number < arguments.length; number++) {
            String name = arguments[number];
            if (name.equals("--exit-at-end")) {
                options.put(name, "");
            } else if (Set.of("--bootstrap", "--topic-prefix", "--group").contains(name) && number + 1 < arguments.length) {
                options.put(name, arguments[++number]);
            } else {
                throw new Failed(name + " is no option, or has no value; there are --bootstrap, --topic-prefix, --group, --exit-at-end.");
            }
        }
        if (!options.containsKey("--bootstrap")) {
            throw new Failed("--bootstrap is missing.");
        }
        return options;
    }

    public static void main(String[] arguments) throws InterruptedException {
        Map<String, String> options;
        try {
            options = parse(arguments);
        } catch (Failed wrong) {
            System.err.println("tiers: " + wrong.getMessage());
            System.exit(2);
            return;
        }
        String failure = new Tiers(options).run();
        if (failure != null) {
            System.err.println("tiers: " + failure);
            System.exit(1);
        }
    }
}
