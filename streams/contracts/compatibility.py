"""Whether a change of a JSON Schema breaks those who rely on it. Pure.

For what tierstream writes (``out``), each new value must be one that a reader of the old contract can expect. For what it reads (``in``), each
old value must still be taken: senders are not changed at once, and records of long ago are read again. A field more breaks nobody, unless
it is required of senders; a field less always does.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from streams.contracts.messages import Direction

Json = Mapping[str, Any]

_ANNOTATIONS: Final = frozenset({"title", "description", "default", "examples", "deprecated", "$schema", "$id", "$comment"})
_LOWER: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems")
_UPPER: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems")
_FORMS: Final = ("pattern", "format")
_UNDERSTOOD: Final = frozenset(
    {"type", "enum", "const", "anyOf", "properties", "required", "additionalProperties", "items", *_LOWER, *_UPPER, *_FORMS}
)
_ANY: Final = "any"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. ``where`` is the field's path (empty for the whole), ``what`` says what is different and whom it breaks, if anybody."""

    where: str
    what: str
    breaks: bool

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


def changes(old: Json, new: Json, direction: Direction) -> list[Change]:
    """Return every difference between two schemas that concerns values; descriptions do not count."""
    return list(_Comparison(direction).of(old, new, ""))


class _Comparison:
    """The comparison for one direction."""

    def __init__(self, direction: Direction) -> None:
        self._out = direction == "out"

    def of(self, old: Json, new: Json, where: str) -> Iterator[Change]:
        if old == new:  # also what ends the descent into what is not there
            return
        before, after = _alternatives(old), _alternatives(new)
        if before is None or after is None:
            if _values(old) != _values(new):
                yield Change(where, "is described in another way, which can not be compared", breaks=True)
            return
        if before.keys() != after.keys() and _ANY in (*before, *after):
            yield self._wider(where, "may be anything now") if _ANY in after else self._narrower(where, f"has to be {_list(after)} now")
            return
        for name in before:
            if name in after:
                yield from self._same_type(before[name], after[name], where)
            elif name == "integer" and "number" in after:
                yield from self._same_type(before[name], after["number"], where)
            elif name == "number" and "integer" in after:
                yield self._narrower(where, "is a whole number only now")
                yield from self._same_type(before[name], after["integer"], where)
            else:
                yield self._narrower(where, f"is no longer {name}")
        for name in after:
            if name == "number" and "integer" in before and name not in before:
                yield self._wider(where, "may have a fraction now")
            elif name not in before and not (name == "integer" and "number" in before):
                yield self._wider(where, f"may be {name} now")

    def _same_type(self, old: Json, new: Json, where: str) -> Iterator[Change]:
        unknown = {
            name for name in {*old, *new} - _UNDERSTOOD - _ANNOTATIONS if not name.startswith("x-") and old.get(name) != new.get(name)
        }
        for name in sorted(unknown):
            yield Change(where, f"{name} has changed, which can not be compared", breaks=True)
        yield from self._choices(old, new, where)
        for name in _LOWER:
            yield from self._bound(old, new, where, name, sign=1)
        for name in _UPPER:
            yield from self._bound(old, new, where, name, sign=-1)
        for name in _FORMS:
            yield from self._form(old, new, where, name)
        yield from self._fields(old, new, where)
        yield from self.of(old.get("items", {}), new.get("items", {}), f"{where}[]")

    def _choices(self, old: Json, new: Json, where: str) -> Iterator[Change]:
        before, after = _choices(old), _choices(new)
        if before is None or after is None:
            if before is not None:
                yield self._wider(where, f"may be more than {_list(before)} now")
            elif after is not None:
                yield self._narrower(where, f"has to be {_list(after)} now")
            return
        more, less = [each for each in after if each not in before], [each for each in before if each not in after]
        if more:
            yield self._wider(where, f"may be {_list(more)} now")
        if less:
            # A reader of what is written waits for it in vain, though it could read all that comes.
            yield Change(where, f"is never {_list(less)} any more", breaks=True)

    def _bound(self, old: Json, new: Json, where: str, name: str, *, sign: int) -> Iterator[Change]:
        before, after = old.get(name), new.get(name)
        if before == after:
            return
        said = f"{name} is {'no longer set' if after is None else after} now, and was {'not set' if before is None else before}"
        narrower = before is None or (after is not None and (after - before) * sign > 0)
        yield self._narrower(where, said) if narrower else self._wider(where, said)

    def _form(self, old: Json, new: Json, where: str, name: str) -> Iterator[Change]:
        before, after = old.get(name), new.get(name)
        if before == after:
            return
        if before is None:
            yield self._narrower(where, f"has the {name} {after} now")
        elif after is None:
            yield self._wider(where, f"has no longer the {name} {before}")
        else:
            yield Change(where, f"has the {name} {after} now, and had {before}", breaks=True)

    def _fields(self, old: Json, new: Json, where: str) -> Iterator[Change]:
        before, after = old.get("properties", {}), new.get("properties", {})
        needed_before, needed_after = old.get("required", ()), new.get("required", ())
        more_before, more_after = _more(old), _more(new)
        for name in before:
            field = f"{where}.{name}" if where else name
            if name not in after:
                yield Change(field, "is gone", breaks=True)
                continue
            if name in needed_before and name not in needed_after:
                yield self._wider(field, "may be absent now")
            elif name in needed_after and name not in needed_before:
                yield self._narrower(field, "has to be there now")
            yield from self.of(before[name], after[name], field)
        for name in (name for name in after if name not in before):
            field = f"{where}.{name}" if where else name
            if name in needed_after:
                yield Change(field, "is new, and always there", breaks=not self._out or more_before is False)
            else:
                yield Change(field, "is new, and may be absent", breaks=self._out and more_before is False)
        if (more_before is False) != (more_after is False):
            yield (
                self._narrower(where, "has no further fields now")
                if more_after is False
                else self._wider(where, "may have further fields now")
            )
        elif more_before is not False and more_after is not False:
            yield from self.of(more_before, more_after, f"{where}.*" if where else "*")

    def _wider(self, where: str, what: str) -> Change:
        """More values than before: what a reader can not expect."""
        return Change(where, what, breaks=self._out)

    def _narrower(self, where: str, what: str) -> Change:
        """Fewer values than before: what a sender, or an old record, does not keep to."""
        return Change(where, what, breaks=not self._out)


def _alternatives(schema: Json) -> dict[str, Json] | None:
    """Return what a value may be, by JSON type; None where two alternatives have the same type."""
    found: dict[str, Json] = {}
    for each in schema.get("anyOf", (schema,)):
        types = each.get("type")
        if types is None:
            types = sorted({_type_of(value) for value in _choices(each) or ()}) or [_ANY]
        for name in [types] if isinstance(types, str) else types:
            if name in found or "anyOf" in each:
                return None
            found[name] = each
    return found


def _choices(schema: Json) -> list[object] | None:
    if "const" in schema:
        return [schema["const"]]
    return schema.get("enum")


def _more(schema: Json) -> Json | Literal[False]:
    """What further fields may be; False where there may be none."""
    more = schema.get("additionalProperties", True)
    return {} if more is True else more


def _type_of(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "string"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    return "array" if isinstance(value, list) else "object"


def _values(schema: Json) -> object:
    """The part of a schema that says which values there are, at every depth."""
    if isinstance(schema, Mapping):
        return {name: _values(value) for name, value in schema.items() if name not in _ANNOTATIONS}
    return [_values(each) for each in schema] if isinstance(schema, list) else schema


def _list(values: Iterable[object]) -> str:
    return ", ".join(sorted(map(str, values)))
