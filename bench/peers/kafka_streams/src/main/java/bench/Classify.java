package bench;

import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.core.util.ByteArrayBuilder;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Map;
import java.util.UUID;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;

/** Decides on each event of a team; the same decision as that of the Python peers. */
final class Classify implements Processor<String, byte[], String, byte[]> {
    static final String STORE = "teams";
    static final String AUDIT = "audit";
    static final String CURRENT = "current";

    private static final Map<String, Integer> RANKS =
            Map.of("anonymous", 0, "free", 1, "hobby", 2, "hobby_plus", 3, "pro", 4, "growth", 5, "team", 6);
    private static final UUID NAMESPACE = UUID.fromString("7f1f2c38-6b4e-5d0e-9d53-7d8f0f0e5b1a");

    private final Runnable onEvent;
    private final MessageDigest sha1;
    private ProcessorContext<String, byte[]> context;
    private KeyValueStore<String, Team> teams;

    Classify(Runnable onEvent) {
        this.onEvent = onEvent;
        try {
            sha1 = MessageDigest.getInstance("SHA-1");
        } catch (NoSuchAlgorithmException error) {
            throw new IllegalStateException(error);
        }
    }

    @Override
    public void init(ProcessorContext<String, byte[]> context) {
        this.context = context;
        teams = context.getStateStore(STORE);
    }

    @Override
    public void process(Record<String, byte[]> record) {
        try {
            decide(record);
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
        onEvent.run();
    }

    private void decide(Record<String, byte[]> record) throws IOException {
        Event event = Event.read(record.value());
        Team known = teams.get(record.key());
        Team team = known == null ? Team.NEW : known;
        switch (event.type) {
            case "subscription.charged", "subscription.updated" -> start(record, event, team);
            case "subscription.cancelled", "subscription.halted", "subscription.completed" -> end(record, event, team);
            case "onboarding.claimed" -> {
                Team claimed =
                        new Team(team.last(), team.tier(), team.subscription(), team.active(), team.plan(), team.since(), event.email, event.name, event.userId);
                teams.put(record.key(), claimed);
                service(record, event, claimed, team.tier(), "claimed", "Team claimed, on " + team.tier());
                if (known == null) {
                    current(record, event, team.tier(), event.time, team.subscription());
                }
            }
            case "near_quota_wall" -> service(record, event, team, null, "passed_through", "Near the limit of api_calls");
            case "experiment.conversion" -> service(record, event, team, null, "passed_through", "Experiment converted");
            default -> { }
        }
    }

    private void start(Record<String, byte[]> record, Event event, Team team) throws IOException {
        if (event.occurredAt <= team.last() || event.scheduled) {
            return;
        }
        boolean sameRun = team.active() && event.subscriptionId.equals(team.subscription()) && event.planId.equals(team.plan());
        String since = sameRun ? team.since() : event.time;
        String before = team.tier();
        String after = event.tier;
        Team next = new Team(event.occurredAt, after, event.subscriptionId, true, event.planId, since, team.email(), team.name(), team.userId());
        teams.put(record.key(), next);
        boolean changed = !after.equals(before);
        if (changed) {
            boolean up = RANKS.get(after) > RANKS.get(before);
            String reason = up ? "upgraded" : "downgraded";
            String summary = (up ? "Upgraded" : "Downgraded") + " from " + before + " to " + after;
            transition(record, event, next, "subscription." + reason, before, after, reason, summary);
        }
        if (changed || !team.active()) {
            current(record, event, after, since, event.subscriptionId);
        }
    }

    private void end(Record<String, byte[]> record, Event event, Team team) throws IOException {
        if (event.occurredAt <= team.last()) {
            return;
        }
        boolean halted = event.type.equals("subscription.halted");
        String before = team.tier();
        Team next =
                new Team(
                        event.occurredAt,
                        team.active() ? "hobby" : before,
                        halted ? team.subscription() : null,
                        false,
                        team.plan(),
                        team.since(),
                        team.email(),
                        team.name(),
                        team.userId());
        teams.put(record.key(), next);
        if (!team.active()) {
            return;
        }
        String summary = before.equals("hobby") ? "Subscription canceled, still on hobby" : "Subscription canceled, from " + before + " to hobby";
        transition(record, event, next, "subscription.canceled", before, "hobby", "canceled", summary);
        current(record, event, "hobby", event.time, null);
    }

    // What is written

    private void transition(
            Record<String, byte[]> record, Event event, Team team, String kind, String before, String after, String reason, String summary)
            throws IOException {
        Envelope out = new Envelope(event, kind, "schemas/audit-event/v1");
        JsonGenerator json = out.json;
        json.writeStringField("actor", "system");
        json.writeStringField("resource_type", "subscription");
        json.writeStringField("summary", summary);
        json.writeObjectFieldStart("metadata");
        json.writeStringField("from", before);
        json.writeStringField("to", after);
        json.writeStringField("reason", reason);
        json.writeStringField("event_id", event.eventId);
        json.writeStringField("occurred_at", event.time);
        json.writeStringField("subscription_id", event.subscriptionId);
        json.writeStringField("plan_id", event.planId);
        json.writeStringField("time_source", event.timeSource);
        json.writeNumberField("paid_count", event.paidCount);
        json.writeEndObject();
        json.writeStringField("created_at", event.time);
        people(json, team, event.email);
        context.forward(record.withValue(out.bytes()), AUDIT);
    }

    private void service(Record<String, byte[]> record, Event event, Team team, String tier, String reason, String summary) throws IOException {
        Envelope out = new Envelope(event, event.type, "schemas/audit-event/v1");
        JsonGenerator json = out.json;
        json.writeStringField("actor", "agent");
        if (event.resourceType != null) {
            json.writeStringField("resource_type", event.resourceType);
        }
        json.writeStringField("summary", summary);
        json.writeObjectFieldStart("metadata");
        for (Map.Entry<String, Object> each : Event.data(record.value()).entrySet()) {
            if (each.getKey().equals("email") || each.getKey().equals("name")) {
                continue;
            }
            if (each.getValue() instanceof Long number) {
                json.writeNumberField(each.getKey(), number);
            } else {
                json.writeStringField(each.getKey(), (String) each.getValue());
            }
        }
        json.writeStringField("reason", reason);
        json.writeStringField("event_id", event.id);
        json.writeStringField("occurred_at", event.time);
        if (tier != null) {
            json.writeStringField("from", tier);
            json.writeStringField("to", tier);
        }
        json.writeEndObject();
        json.writeStringField("created_at", event.time);
        people(json, team, null);
        context.forward(record.withValue(out.bytes()), AUDIT);
    }

    private static void people(JsonGenerator json, Team team, String payer) throws IOException {
        if (team.userId() != null) {
            json.writeStringField("user_id", team.userId());
        }
        String email = team.email() == null ? payer : team.email();
        if (email == null) {
            return;
        }
        json.writeObjectFieldStart("contact");
        json.writeStringField("email", email);
        if (team.email() != null) {
            json.writeStringField("name", team.name());
        }
        json.writeEndObject();
    }

    private void current(Record<String, byte[]> record, Event event, String tier, String since, String subscription) throws IOException {
        Envelope out = new Envelope(event, "tier.current", "schemas/tier-current/v1");
        JsonGenerator json = out.json;
        json.writeStringField("team_id", event.subject);
        json.writeStringField("tier", tier);
        json.writeStringField("since", since);
        json.writeStringField("subscription_id", subscription);
        context.forward(record.withValue(out.bytes()), CURRENT);
    }

    /** One envelope under way: its head is written, its data are open. */
    private final class Envelope {
        private final ByteArrayBuilder bytes = new ByteArrayBuilder(1024);
        final JsonGenerator json = Event.JSON.createGenerator(bytes);

        Envelope(Event event, String kind, String schema) throws IOException {
            json.writeStartObject();
            json.writeStringField("specversion", "1.0");
            json.writeStringField("id", derivedId(event, kind));
            json.writeStringField("source", "tierstream/classify");
            json.writeStringField("type", kind);
            json.writeStringField("time", event.time);
            json.writeStringField("datacontenttype", "application/json");
            json.writeStringField("dataschema", schema);
            json.writeStringField("causationid", event.id);
            json.writeStringField("correlationid", event.correlationId);
            json.writeStringField("subject", event.subject);
            json.writeObjectFieldStart("data");
        }

        byte[] bytes() throws IOException {
            json.writeEndObject();
            json.writeEndObject();
            json.close();
            return bytes.getClearAndRelease();
        }
    }

    private String derivedId(Event event, String kind) {
        String name = String.join("\u001f", "classify", event.source, event.id, event.subject, kind);
        sha1.update(ByteBuffer.allocate(16).putLong(NAMESPACE.getMostSignificantBits()).putLong(NAMESPACE.getLeastSignificantBits()).flip());
        ByteBuffer digest = ByteBuffer.wrap(sha1.digest(name.getBytes(StandardCharsets.UTF_8)));
        long most = digest.getLong() & ~0xF000L | 0x5000L;
        long least = digest.getLong() & 0x3FFFFFFFFFFFFFFFL | 0x8000000000000000L;
        return new UUID(most, least).toString();
    }
}
