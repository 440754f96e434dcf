package bench;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;

/** What is kept of a team: the time of its last fact, its tier and subscription, that one's plan and since when it runs, its owner. */
record Team(
        long last, String tier, String subscription, boolean active, String plan, String since, String email, String name, String userId) {

    static final Team NEW = new Team(0, "free", null, false, "", "", null, null, null);

    static Serde<Team> serde() {
        return Serdes.serdeFrom((topic, team) -> team == null ? null : team.pack(), (topic, bytes) -> bytes == null ? null : unpack(bytes));
    }

    private byte[] pack() {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream(256);
        try (DataOutputStream out = new DataOutputStream(bytes)) {
            out.writeLong(last);
            out.writeUTF(tier);
            out.writeUTF(orEmpty(subscription));
            out.writeBoolean(active);
            out.writeUTF(plan);
            out.writeUTF(since);
            out.writeUTF(orEmpty(email));
            out.writeUTF(orEmpty(name));
            out.writeUTF(orEmpty(userId));
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
        return bytes.toByteArray();
    }

    private static Team unpack(byte[] bytes) {
        try (DataInputStream in = new DataInputStream(new ByteArrayInputStream(bytes))) {
            long last = in.readLong();
            String tier = in.readUTF();
            String subscription = orNull(in.readUTF());
            boolean active = in.readBoolean();
            String plan = in.readUTF();
            String since = in.readUTF();
            return new Team(last, tier, subscription, active, plan, since, orNull(in.readUTF()), orNull(in.readUTF()), orNull(in.readUTF()));
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    private static String orEmpty(String text) {
        return text == null ? "" : text;
    }

    private static String orNull(String text) {
        return text.isEmpty() ? null : text;
    }
}
