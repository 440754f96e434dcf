"""The gateway's OpenAPI document: what ``GET /openapi.json`` answers.

The shape of an event is that of the models that check it; the statuses are those of the routes, and a test compares them.
"""

from functools import cache
from typing import Any

from schemas.service_events import IngestEvent
from schemas.team_events import SERVICE_DATA
from streams.gateway.http import MAX_BODY_BYTES
from streams.gateway.ingest import MAX_EVENTS

Json = dict[str, Any]

_SCHEMAS = "#/components/schemas/"

_SERVER = {
    "400": "This is no HTTP request, or one that two servers may read in two ways.",
    "408": "The headers or the body did not arrive in time.",
    "431": "The headers are too many or too large.",
    "503": "Kafka did not acknowledge in time, or too many connections are open: send it again after Retry-After.",
}
"""What any request may be answered, by its connection, before there is a route."""

_SENT = {
    "401": "The signature or the token is missing or wrong.",
    "413": f"The body is larger than {MAX_BODY_BYTES} bytes, or a record is larger than its topic takes.",
    "429": "Too many requests of this address could not prove where they come from.",
    "500": "The gateway failed; nothing was accepted.",
}
_WEBHOOK = {**_SENT, "403": "Webhooks are not taken from this address."}


def _reply(status: str, description: str, schema: str = "Error") -> Json:
    reply: Json = {"description": description, "content": {"application/json": {"schema": {"$ref": _SCHEMAS + schema}}}}
    if status in ("429", "503"):
        reply["headers"] = {"Retry-After": {"description": "Seconds to wait.", "required": True, "schema": {"type": "integer"}}}
    return reply


def _operation(name: str, summary: str, success: tuple[str, str, str], refusals: Json, **more: Any) -> Json:
    status, description, schema = success
    responses = {status: _reply(status, description, schema)}
    responses |= {refused: _reply(refused, why) for refused, why in sorted(refusals.items()) if refused != "422"}
    if "422" in refusals:
        responses["422"] = _reply("422", refusals["422"], "Faults")
    return {"operationId": name, "summary": summary, "responses": dict(sorted(responses.items())), **more}


def _body(description: str, schema: Json, *, required: bool = True) -> Json:
    return {"description": description, "required": required, "content": {"application/json": {"schema": schema}}}


def _header(name: str, description: str, **schema: Any) -> Json:
    return {"name": name, "in": "header", "description": description, "required": False, "schema": {"type": "string", **schema}}


def _event_schemas() -> dict[str, Json]:
    """Return the schema of an event of each kind, by a name for it. Models within models are written out."""
    head: Json = IngestEvent.model_json_schema()["properties"]
    schemas: dict[str, Json] = {}
    for kind, model in SERVICE_DATA.items():
        properties = {**head, "kind": {"type": "string", "enum": [kind.value]}, "data": model.model_json_schema()}
        schemas[model.__name__] = {
            "type": "object",
            "properties": properties,
            "required": ["kind", "team_id", "data"],
            "additionalProperties": False,
        }
    return schemas


def document() -> Json:
    """Return the OpenAPI 3.1 document of the public port, as JSON. Pure."""
    events = _event_schemas()
    event: Json = {"anyOf": [{"$ref": _SCHEMAS + name} for name in events]}
    text: Json = {"type": "string", "minLength": 1}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tierstream gateway",
            "version": "1",
            "description": "Takes Razorpay's and Loops' webhooks and services' events. What is answered with 2xx is on Kafka.",
        },
        "paths": {
            "/webhooks/razorpay": {
                "post": _operation(
                    "razorpayWebhook",
                    "One delivery of Razorpay's, signed over its raw bytes.",
                    ("200", "Kafka has the body, byte for byte.", "Accepted"),
                    {
                        **_SERVER,
                        **_WEBHOOK,
                        "400": "The body is signed but is no JSON object, and is kept as a dead letter; or this is no HTTP request.",
                    },
                    security=[{"razorpaySignature": []}],
                    parameters=[_header("X-Razorpay-Event-Id", "Razorpay's id of the event; without one, a hash of the body.")],
                    requestBody=_body("The body as Razorpay sends it, whatever its event.", {"type": "object"}),
                )
            },
            "/webhooks/loops": {
                "post": _operation(
                    "loopsWebhook",
                    "One delivery of Loops', signed by the Standard Webhooks scheme.",
                    ("200", "Kafka has the body, byte for byte.", "Accepted"),
                    {**_SERVER, **_WEBHOOK},
                    security=[{"webhookSignature": []}],
                    parameters=[
                        _header("webhook-id", "The message's id, which is signed: 401 without it."),
                        _header("webhook-timestamp", "When it was sent, in Unix seconds, which is signed: 401 without it."),
                    ],
                    requestBody=_body("The body as Loops sends it.", {}, required=False),
                )
            },
            "/v1/events": {
                "post": _operation(
                    "sendEvents",
                    "A service's own event, or a list of them: all are taken, or none.",
                    ("202", "Kafka has all of them.", "Ids"),
                    {**_SERVER, **_SENT, "422": "Something of the request is wrong; nothing was accepted."},
                    security=[{"ingestToken": []}],
                    requestBody=_body(
                        "One event, or a list.", {"anyOf": [*event["anyOf"], {"type": "array", "items": event, "maxItems": MAX_EVENTS}]}
                    ),
                )
            },
            "/healthz": {
                "get": _operation("alive", "Whether the gateway is alive.", ("200", "It is.", "Alive"), _SERVER, security=[]),
                "head": {
                    "operationId": "aliveHead",
                    "summary": "The same without a body.",
                    "responses": {"200": {"description": "It is."}},
                },
            },
            "/openapi.json": {
                "get": _operation("openapi", "This document.", ("200", "The document.", "Document"), _SERVER, security=[]),
            },
        },
        "components": {
            "schemas": {
                **events,
                "Accepted": {"type": "object", "properties": {"status": {"const": "accepted"}}, "required": ["status"]},
                "Alive": {"type": "object", "properties": {"status": {"const": "alive"}}, "required": ["status"]},
                "Document": {"type": "object", "required": ["openapi", "info", "paths"]},
                "Ids": {"type": "object", "properties": {"ids": {"type": "array", "items": text}}, "required": ["ids"]},
                "Error": {"type": "object", "properties": {"error": text}, "required": ["error"], "additionalProperties": False},
                "Faults": {
                    "type": "object",
                    "properties": {
                        "error": text,
                        "errors": {
                            "type": "array",
                            "minItems": 1,
                            "items": {
                                "type": "object",
                                "properties": {"index": {"type": "integer"}, "field": {"type": "string"}, "problem": text},
                                "required": ["index", "field", "problem"],
                            },
                        },
                    },
                    "required": ["error", "errors"],
                },
            },
            "securitySchemes": {
                "razorpaySignature": _key("X-Razorpay-Signature", "HMAC-SHA256 of the raw body with the webhook's secret, in hex."),
                "webhookSignature": _key(
                    "webhook-signature", "`v1,` and base64 of HMAC-SHA256 over id, time and body; several with spaces."
                ),
                "ingestToken": {"type": "http", "scheme": "bearer", "description": "A token of TIERSTREAM_INGEST_TOKENS."},
            },
        },
    }


def _key(name: str, description: str) -> Json:
    return {"type": "apiKey", "in": "header", "name": name, "description": description}


@cache
def statuses(path: str, method: str = "post") -> frozenset[int]:
    """Return the statuses that the document names for a route. Raises KeyError for one that there is not."""
    return frozenset(map(int, document()["paths"][path][method]["responses"]))
