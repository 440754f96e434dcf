"""Changes of a body's structure: what is JSON before is JSON afterwards, but for NaN and Infinity."""

import json
import uuid
from collections.abc import Callable
from typing import Any

from tests.fuzz.values import EVENT_NAMES, PLANS, STATUSES, SUBSCRIPTIONS, TEAMS, Chance, odd_value

Json = Any
Slot = tuple[dict[str, Json] | list[Json], Any]
"""A container and the key or index of one of its values."""

_TARGETS = frozenset(
    {"id", "plan_id", "event", "kind", "created_at", "occurred_at", "notes", "team_id", "status", "paid_count", "current_end", "email"}
    | {"customer_email", "ended_at", "has_scheduled_changes", "entity", "subscription", "payment", "payload", "data", "tier", "to"}
)
"""What the stages read: changed as often as all the rest together."""


def restructured(chance: Chance, body: bytes) -> tuple[bytes, list[str]]:
    """Return ``body`` with some changes of its structure, and their names; as it is, where it is no JSON."""
    try:
        document: Json = [json.loads(body)]
    except ValueError:
        return body, []  # one of the demo's bodies is none of JSON's objects
    _settle(chance, document[0])
    names = []
    for _ in range(chance.choice((1, 1, 2, 3, 5))):
        slots = _slots(document)
        if not slots:
            break
        targets = [slot for slot in slots if slot[1] in _TARGETS]
        container, key = chance.choice(targets if targets and chance.random() < 0.5 else slots)
        change = chance.choice(STRUCTURAL_CHANGES)
        change(chance, container, key)
        names.append(change.__name__.strip("_"))
    text = json.dumps(document[0] if document else None, ensure_ascii=chance.random() < 0.7)
    return text.encode("utf-8", "surrogatepass"), names


def _settle(chance: Chance, document: Json) -> None:
    """Have the document be about one of a few teams and subscriptions, so that what comes later meets what is there."""
    team = chance.choice(TEAMS)
    if isinstance(document, dict) and "team_id" in document:
        document |= {"team_id": team, "id": f"event-{chance.randrange(5_000)}"}
        return
    payload = document.get("payload") if isinstance(document, dict) else None
    entity = payload.get("subscription", {}).get("entity") if isinstance(payload, dict) else None
    if isinstance(entity, dict) and chance.random() < 0.9:
        number = chance.randrange(len(SUBSCRIPTIONS))
        entity |= {"id": SUBSCRIPTIONS[number], "plan_id": chance.choice(PLANS), "paid_count": chance.randrange(30)}
        if chance.random() < 0.8:
            entity["notes"] = {"team_id": team if chance.random() < 0.1 else TEAMS[number // 2]}
        document["created_at"] = chance.now - int(chance.expovariate(1 / 86_400))


def _slots(value: Json) -> list[Slot]:
    found: list[Slot] = []
    waiting = [value]
    while waiting:
        container = waiting.pop()
        for key, inner in container.items() if isinstance(container, dict) else enumerate(container):
            found.append((container, key))
            if isinstance(inner, dict | list):
                waiting.append(inner)
    return found


def _drop(_: Chance, container: Json, key: Any) -> None:
    del container[key]


def _copy(chance: Chance, container: Json, key: Any) -> None:
    if isinstance(container, dict):
        container[chance.choice((f"{key}2", str(key).upper(), "id", "entity", ""))] = container[key]
    else:
        container.append(container[key])


def _rename(chance: Chance, container: Json, key: Any) -> None:
    if isinstance(container, dict):
        name = chance.choice((str(key).title(), f" {key}", f"{key}\u0000", "é", "\ud800", str(key)[:-1], "x" * 2_000))
        container[name] = container.pop(key)


def _retype(chance: Chance, container: Json, key: Any) -> None:
    container[key] = odd_value(chance)


def _swap(chance: Chance, container: Json, key: Any) -> None:
    other = chance.choice(list(container) if isinstance(container, dict) else range(len(container)))
    container[key], container[other] = container[other], container[key]


def _wrap(chance: Chance, container: Json, key: Any) -> None:
    inner = container[key]
    container[key] = chance.choice(([inner], {"entity": inner}, {str(key): inner}, [inner, inner], {"": inner}, [[[inner]]]))


def _unwrap(chance: Chance, container: Json, key: Any) -> None:
    inner = container[key]
    if isinstance(inner, dict | list) and inner:
        container[key] = chance.choice(list(inner.values()) if isinstance(inner, dict) else inner)


def _list_of(_: Chance, container: Json, key: Any) -> None:
    inner = container[key]
    container[key] = (
        list(inner.values()) if isinstance(inner, dict) else dict.fromkeys(map(str, inner)) if isinstance(inner, list) else [inner]
    )


def _as_text(chance: Chance, container: Json, key: Any) -> None:
    text = json.dumps(container[key])
    container[key] = text if chance.random() < 0.8 else f" {text[: chance.randrange(len(text) + 1)]}"


def _another_id(chance: Chance, container: Json, key: Any) -> None:
    container[key] = chance.choice(
        (*SUBSCRIPTIONS, *TEAMS, "sub_" + "9" * 96, "sub_" + "9" * 97, "sub_é", "sub\n1", " sub_A ", "jane@example.com")
    )


def _another_team(chance: Chance, container: Json, key: Any) -> None:
    team = chance.choice(TEAMS)
    forms = (team, team.upper(), f"{{{team}}}", f"urn:uuid:{team}", team.replace("-", ""), str(uuid.UUID(int=0)), team[:-1], f"{team}\n", 7)
    container[key] = {"team_id": chance.choice(forms)} if key == "notes" else chance.choice(forms)


def _another_time(chance: Chance, container: Json, key: Any) -> None:
    at = chance.now + chance.randint(-500 * 86_400, 86_400)
    numbers = (
        at,
        at,
        at,
        -at,
        at * 1_000,
        float(at),
        at + 0.5,
        str(at),
        f" {at} ",
        0,
        253_402_300_799,
        253_402_300_800,
        10**18,
        chance.now + 301,
    )
    container[key] = chance.choice((*numbers, "2026-05-28T20:26:40Z", "2026-05-28T20:26:40", "2026-02-30T00:00:00Z", "yesterday"))


def _another_plan(chance: Chance, container: Json, key: Any) -> None:
    container[key] = chance.choice(
        (*PLANS, "plan\nx", "plan_" + "p" * 990, "PLAN_PRO", " plan_pro ", "plan\u2028of jane@example.com", 7, 1.5)
    )


def _another_event(chance: Chance, container: Json, key: Any) -> None:
    container[key] = chance.choice((*EVENT_NAMES, *STATUSES))


def _address(chance: Chance, container: Json, key: Any) -> None:
    number = chance.randrange(1_000)
    container[key] = chance.choice(
        (f"fuzz{number}@mail.example", f'"{number}"@mail.example', f"{number}@é.example", "void@razorpay.com", "@", "a@b@c")
    )


STRUCTURAL_CHANGES: tuple[Callable[[Chance, Json, Any], None], ...] = (
    *(_drop, _copy, _rename, _retype, _retype, _swap, _wrap, _unwrap, _list_of, _as_text),
    *(_another_id, _another_team, _another_time, _another_time, _another_plan, _another_event, _address),
)
