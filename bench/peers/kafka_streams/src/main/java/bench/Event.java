package bench;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.util.LinkedHashMap;
import java.util.Map;

/** One envelope of team.events, as far as the job needs it. */
final class Event {
    static final JsonFactory JSON = new JsonFactory();

    String id;
    String source;
    String type;
    String time;
    String subject;
    String correlationId;
    String eventId;
    String subscriptionId;
    String timeSource;
    String planId;
    String tier;
    long occurredAt;
    int paidCount;
    boolean scheduled;
    String email;
    String name;
    String userId;
    String resourceType;

    static Event read(byte[] value) throws IOException {
        Event event = new Event();
        try (JsonParser parser = JSON.createParser(value)) {
            parser.nextToken();
            while (parser.nextToken() == JsonToken.FIELD_NAME) {
                String field = parser.currentName();
                parser.nextToken();
                switch (field) {
                    case "id" -> event.id = parser.getText();
                    case "source" -> event.source = parser.getText();
                    case "type" -> event.type = parser.getText();
                    case "time" -> event.time = parser.getText();
                    case "subject" -> event.subject = parser.getText();
                    case "correlationid" -> event.correlationId = parser.getText();
                    case "data" -> event.readData(parser);
                    default -> parser.skipChildren();
                }
            }
        }
        return event;
    }

    private void readData(JsonParser parser) throws IOException {
        while (parser.nextToken() == JsonToken.FIELD_NAME) {
            String field = parser.currentName();
            parser.nextToken();
            switch (field) {
                case "event_id" -> eventId = parser.getText();
                case "subscription_id" -> subscriptionId = parser.getText();
                case "time_source" -> timeSource = parser.getText();
                case "plan_id" -> planId = parser.getText();
                case "tier" -> tier = parser.getText();
                case "occurred_at" -> occurredAt = parser.getLongValue();
                case "paid_count" -> paidCount = parser.getIntValue();
                case "has_scheduled_changes" -> scheduled = parser.getBooleanValue();
                case "email" -> email = parser.getText();
                case "name" -> name = parser.getText();
                case "user_id" -> userId = parser.getText();
                case "resource_type" -> resourceType = parser.getText();
                default -> parser.skipChildren();
            }
        }
    }

    /** The fields of a service's data, in their order; whole numbers as Long, everything else as text. */
    static Map<String, Object> data(byte[] value) throws IOException {
        Map<String, Object> data = new LinkedHashMap<>();
        try (JsonParser parser = JSON.createParser(value)) {
            parser.nextToken();
            while (parser.nextToken() == JsonToken.FIELD_NAME) {
                boolean wanted = parser.currentName().equals("data");
                parser.nextToken();
                if (!wanted) {
                    parser.skipChildren();
                    continue;
                }
                while (parser.nextToken() == JsonToken.FIELD_NAME) {
                    String field = parser.currentName();
                    Object content = parser.nextToken() == JsonToken.VALUE_NUMBER_INT ? (Object) parser.getLongValue() : parser.getText();
                    data.put(field, content);
                }
            }
        }
        return data;
    }
}
