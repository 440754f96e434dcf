"""Laws of the comparison of contracts: what is called compatible breaks nobody, whatever the schemas are."""

import copy
import re
from collections.abc import Mapping
from typing import Any

from hypothesis import assume, given
from hypothesis import event as note
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from streams.contracts.compatibility import changes
from streams.contracts.messages import Direction

Json = dict[str, Any]

NAMES = ("a", "b", "c")
TEXTS = ("x", "yy", "zzz")


def bounded(kind: str, low: str, high: str) -> st.SearchStrategy[Json]:
    limits = st.fixed_dictionaries({}, optional={low: st.integers(0, 2), high: st.integers(2, 4)})
    return limits.map(lambda found: {"type": kind, **found})


SCALARS = st.one_of(
    bounded("string", "minLength", "maxLength"),
    bounded("integer", "minimum", "maximum"),
    bounded("number", "minimum", "maximum"),
    st.just({"type": "boolean"}),
    st.lists(st.sampled_from(TEXTS), min_size=1, unique=True).map(lambda values: {"type": "string", "enum": values}),
    st.sampled_from(TEXTS).map(lambda value: {"const": value}),
    st.just({}),
)


def objects(inner: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    def with_required(properties: Json) -> st.SearchStrategy[Json]:
        names = st.lists(st.sampled_from(sorted(properties)), unique=True) if properties else st.just([])
        more = st.sampled_from([{}, {"additionalProperties": False}, {"additionalProperties": True}])
        return st.builds(lambda required, more: {"type": "object", "properties": properties, "required": required, **more}, names, more)

    return st.dictionaries(st.sampled_from(NAMES), inner, max_size=3).flatmap(with_required)


def schemas_of(inner: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    nullable = inner.filter(lambda schema: schema != {}).map(lambda schema: {"anyOf": [schema, {"type": "null"}]})
    arrays = st.builds(lambda items: {"type": "array", "items": items}, inner)
    return st.one_of(objects(inner), arrays, nullable)


SCHEMAS = st.recursive(SCALARS, schemas_of, max_leaves=4)
OBJECTS = objects(SCHEMAS)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-1, 5), st.sampled_from([0.5, 2.5]), st.sampled_from([*TEXTS, "", "wwww", "vvvvv"])),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.sampled_from(NAMES), inner, max_size=3)),
    max_leaves=4,
)
DIRECTIONS: st.SearchStrategy[Direction] = st.sampled_from(["in", "out"])


def breaks(old: Json, new: Json, direction: Direction) -> bool:
    return any(change.breaks for change in changes(old, new, direction))


@st.composite
def related(draw: st.DrawFn) -> tuple[Json, Json]:
    """Two schemas of objects that have most in common."""
    old = draw(OBJECTS)
    new: Json = copy.deepcopy(old)
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=2, unique=True)):
        new["properties"][name] = draw(SCHEMAS)
        if name in new["required"]:
            new["required"].remove(name)
        if draw(st.booleans()):
            new["required"].append(name)
    if draw(st.booleans()):
        new["additionalProperties"] = draw(st.booleans())
    return old, new


def fitting(schema: Json) -> st.SearchStrategy[Any]:
    """Values of which most fit ``schema``."""
    if "anyOf" in schema:
        return st.one_of(*map(fitting, schema["anyOf"]))
    if "const" in schema or "enum" in schema:
        return st.sampled_from([schema["const"]] if "const" in schema else schema["enum"])
    if schema.get("type") == "object":
        required = {name: fitting(schema["properties"][name]) for name in schema["required"]}
        optional = {name: fitting(inner) for name, inner in schema["properties"].items() if name not in required}
        return st.fixed_dictionaries(required, optional=optional)
    if schema.get("type") == "array":
        return st.lists(fitting(schema["items"]), max_size=2)
    return VALUES


@given(SCHEMAS, DIRECTIONS)
def test_contract_has_not_changed_from_itself(schema: Json, direction: Direction) -> None:
    assert changes(schema, copy.deepcopy(schema), direction) == []


@given(st.data(), related(), DIRECTIONS)
def test_contract_change_that_is_called_compatible_leaves_every_value_valid(
    data: st.DataObject, pair: tuple[Json, Json], direction: Direction
) -> None:
    old, new = pair
    assume(not breaks(old, new, direction))
    written_by, read_by = (new, old) if direction == "out" else (old, new)

    value = data.draw(fitting(written_by))

    assume(Draft202012Validator(written_by).is_valid(value))
    note("changed" if changes(old, new, direction) else "as it was")
    assert Draft202012Validator(read_by).is_valid(value)


@given(OBJECTS, SCHEMAS, DIRECTIONS)
def test_contract_with_one_more_optional_field_breaks_nobody_who_ignores_what_he_does_not_know(
    old: Json, field: Json, direction: Direction
) -> None:
    old.pop("additionalProperties", None)

    assert not breaks(old, with_field(old, "new", field), direction)


@given(OBJECTS, SCHEMAS)
def test_contract_that_asks_one_more_field_of_its_senders_breaks_them_and_no_reader(old: Json, field: Json) -> None:
    old.pop("additionalProperties", None)
    new = with_field(old, "new", field)
    new["required"] = [*old["required"], "new"]

    assert breaks(old, new, "in")
    assert not breaks(old, new, "out")


@given(OBJECTS, SCHEMAS, DIRECTIONS)
def test_contract_without_a_field_that_it_had_breaks(new: Json, field: Json, direction: Direction) -> None:
    assert breaks(with_field(new, "gone", field), new, direction)


@given(related())
def test_contract_change_breaks_readers_where_its_undoing_breaks_senders(pair: tuple[Json, Json]) -> None:
    old, new = pair
    both = [str(change) for pair in ((old, new), (new, old)) for change in changes(*pair, "out")]
    assume(not re.search("is gone|is never", " ".join(both)))  # a field or a choice less breaks both: somebody waits for it, or sends it

    assert breaks(old, new, "out") == breaks(new, old, "in")


def with_field(schema: Mapping[str, Any], name: str, field: Json) -> Json:
    return {**schema, "properties": {**schema["properties"], name: field}}
