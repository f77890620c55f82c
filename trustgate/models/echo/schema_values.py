"""A value that is valid by a JSON schema: small, and the same for the same schema every time.

Owns what is chosen. Objects get what is required (and what ``minProperties`` asks for besides), lists one item where
they may, numbers are the nearest to 0, texts are the one given (cut, filled up, or made to fit a format or pattern),
of alternatives the first that can be met is taken. ``not``, ``if``, ``contains``, ``dependentRequired`` and
``patternProperties`` are not looked at. Source: JSON Schema, draft 2020-12, core and validation; OpenAI's guide,
"Structured outputs", "Supported schemas".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any
from urllib.parse import unquote

from trustgate.models.echo.patterns import text_matching, work_of

#: At this depth lists stay empty where they may, and alternatives that end are taken first.
_DEEP = 4
_DEPTH_MOST = 100
#: How much is made and looked at for one answer: members of schemas (a few microseconds each), and characters of texts.
_STEPS_MOST = 5_000
_CHARACTERS_MOST = 1_000_000
#: What else costs as much as so many members: a number within bounds; and how many characters of what is read do.
_NUMBER_STEPS = 5
_REFERENCE_CHARACTERS = 8

#: Texts of the formats that are known (validation, section 7.3).
_FORMATS = {
    "date-time": "2025-01-01T00:00:00Z",
    "date": "2025-01-01",
    "time": "00:00:00Z",
    "duration": "P1D",
    "email": "user@example.com",
    "idn-email": "user@example.com",
    "hostname": "example.com",
    "idn-hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "url": "https://example.com/",
    "iri": "https://example.com/",
    "uri-reference": "/",
    "iri-reference": "/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "json-pointer": "",
    "regex": ".*",
}

_Schema = Mapping[str, Any]


class SchemaUnmet(Exception):
    """No value was found that a schema allows."""


class SchemaTooLarge(SchemaUnmet):
    """What is asked for takes too much work: no alternative is tried any more."""


class SchemaWork:
    """The work that has gone into the values of one answer. Schemas come with requests, so it has a bound."""

    def __init__(self) -> None:
        self._steps = 0
        self._characters = 0

    def step(self, number: int) -> None:
        """Count what is about to be done, in members of schemas. Raises ``SchemaTooLarge``."""
        self._steps += number
        if self._steps > _STEPS_MOST:
            raise _too_large()

    def counted(self, text: str) -> str:
        """Returns the text. Raises ``SchemaTooLarge``."""
        self._characters += len(text)
        if self._characters > _CHARACTERS_MOST:
            raise _too_large()
        return text


def _too_large() -> SchemaTooLarge:
    return SchemaTooLarge("The JSON schema asks for too large a value.")


def value_for(schema: Any, text: str, work: SchemaWork | None = None) -> Any:
    """Returns a value valid by ``schema``. Raises ``SchemaUnmet``.

    ``text``: what texts are filled with. ``work``: of the same answer's values before; None: there were none.
    """
    try:
        return _Maker(schema, text, work or SchemaWork()).make(schema, 0, 0)
    except (RecursionError, TypeError, ValueError, ArithmeticError, AttributeError, LookupError):
        raise SchemaUnmet("The JSON schema is not valid, or nested too deeply.") from None


class _Maker:
    def __init__(self, root: Any, text: str, work: SchemaWork) -> None:
        self._root = root
        self._text = text
        self._work = work
        self._step = work.step
        self._counted = work.counted
        #: What was found before: what references point at, and the texts of patterns by their lengths.
        self._at: dict[str, dict[str, Any]] = {}
        self._texts: dict[tuple[str, int, float], str] = {}

    def make(self, schema: Any, depth: int, index: int) -> Any:
        """Returns a value valid by ``schema``. ``index``: the item's place in its list, so that items can differ."""
        self._step(1)
        if depth > _DEPTH_MOST:
            raise SchemaUnmet("The JSON schema refers to itself without an end, or is nested too deeply.")
        if schema is False:
            raise SchemaUnmet("The JSON schema allows no value.")
        if not isinstance(schema, dict):
            return self._counted(self._text if index == 0 else f"{self._text} {index}")
        schema = self._flat(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            allowed = schema["enum"]
            if not allowed:
                raise SchemaUnmet("An enum in the JSON schema is empty.")
            return allowed[index % len(allowed)]
        for word in ("anyOf", "oneOf"):
            if word in schema:
                return self._first_of(schema, word, depth, index)
        return self._of_type(schema, depth, index)

    def _flat(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Returns the schema with what ``$ref`` and ``allOf`` name put beside its own words."""
        for _ in range(_DEPTH_MOST):
            self._step(_size(schema))
            if "$ref" in schema:
                own = {word: value for word, value in schema.items() if word != "$ref"}
                schema = _merged(self._found(schema["$ref"]), own)
            elif "allOf" in schema:
                whole = {word: value for word, value in schema.items() if word != "allOf"}
                for part in schema["allOf"]:
                    if part is False:
                        raise SchemaUnmet("The JSON schema allows no value.")
                    whole = _merged(self._flat(part) if isinstance(part, dict) else {}, whole)
                schema = whole
            else:
                return schema
        raise SchemaUnmet("The JSON schema refers to itself without an end.")

    def _found(self, reference: str) -> dict[str, Any]:
        """Returns what a reference within the schema points at (RFC 6901)."""
        known = self._at.get(reference)
        if known is not None:
            return known
        self._step(len(reference) // _REFERENCE_CHARACTERS)
        found = self._root
        if not reference.startswith("#"):
            raise SchemaUnmet(f"The JSON schema refers to {reference[:100]!r}, which is not within it.")
        for step in unquote(reference[1:]).split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            try:
                found = found[int(name)] if isinstance(found, list) else found[name]
            except (LookupError, TypeError, ValueError):
                raise SchemaUnmet(f"The JSON schema refers to {reference[:100]!r}, which it does not have.") from None
        self._at[reference] = found = found if isinstance(found, dict) else {}
        return found

    def _first_of(self, schema: dict[str, Any], word: str, depth: int, index: int) -> Any:
        self._step(len(schema[word]))
        rest = {name: value for name, value in schema.items() if name != word}
        options = [option if isinstance(option, dict) else {} for option in schema[word] if option is not False]
        if depth >= _DEEP:
            options.sort(key=_may_go_on)
        unmet = SchemaUnmet(f"An {word} in the JSON schema is empty.")
        for option in options:
            try:
                return self.make(_merged(self._flat(option), rest), depth + 1, index)
            except SchemaTooLarge:
                raise
            except SchemaUnmet as error:
                unmet = error
        raise unmet

    def _of_type(self, schema: _Schema, depth: int, index: int) -> Any:
        kind = schema.get("type") or _implied(schema)
        if isinstance(kind, list):
            kind = next((each for each in kind if each != "null"), "null")
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "integer" | "number":
                self._step(_NUMBER_STEPS)
                return _number(schema, index, whole=kind == "integer")
            case "boolean":
                return index % 2 == 1
            case "null":
                return None
        return self._counted(self._fitted(schema, index))

    def _object(self, schema: _Schema, depth: int) -> dict[str, Any]:
        properties = schema.get("properties") or {}
        names = list(dict.fromkeys(map(str, schema.get("required") or ())))
        least = schema.get("minProperties", 0)
        self._step(max(least, len(names)))
        required = set(names)
        names += [name for name in properties if name not in required][: max(0, least - len(names))]
        further = schema.get("additionalProperties", True)
        # The counter begins behind all names, so that none is taken.
        names += [f"property_{number}" for number in range(least - len(names))]
        return {name: self.make(properties.get(name, further), depth + 1, 0) for name in names}

    def _array(self, schema: _Schema, depth: int) -> list[Any]:
        first = schema.get("prefixItems") or []
        rest = schema.get("items", True)
        least, most = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        self._step(least)
        made = [self.make(each, depth + 1, 0) for each in first[: int(min(most, len(first)))]]
        while len(made) < least:
            made.append(self.make(rest, depth + 1, len(made)))
        if not made and most >= 1 and depth < _DEEP and rest is not False:
            try:
                return [self.make(rest, depth + 1, 0)]
            except SchemaTooLarge:
                raise
            except SchemaUnmet:
                return []
        return made

    def _fitted(self, schema: _Schema, index: int) -> str:
        """Returns a text of the schema's format, pattern and length."""
        least, most = int(schema.get("minLength", 0)), schema.get("maxLength", math.inf)
        if least > _CHARACTERS_MOST or least > most:
            raise SchemaUnmet("The JSON schema wants a text that is too long.")
        known = _FORMATS.get(schema["format"]) if isinstance(schema.get("format"), str) else None
        if known is not None:
            return known
        pattern = schema.get("pattern")
        if isinstance(pattern, str):
            return self._matching(pattern, least, most)
        text = self._text
        if index:
            text = f"{index} {text}"
        if len(text) < least:
            text = (text or " ") * (least // max(1, len(text)) + 1)
            return text[:least]
        return text if len(text) <= most else text[: int(most)]

    def _matching(self, pattern: str, least: int, most: float) -> str:
        found = self._texts.get((pattern, least, most))
        if found is None:
            self._step(work_of(pattern))
            found = text_matching(pattern, least, most)
            if found is None:
                raise SchemaUnmet(f"No text was found for the pattern {pattern[:100]!r} of the JSON schema.")
            self._texts[pattern, least, most] = found
        return found


def _size(schema: _Schema) -> int:
    """Returns how many members are copied where the schema is merged with another."""
    inner = (schema.get(word) for word in ("properties", "required"))
    return 1 + len(schema) + sum(len(each) for each in inner if isinstance(each, dict | list))


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Returns both schemas as one; of a word that both have ``other``'s, of lists of names and properties both."""
    both = {**one, **other}
    if "properties" in one and "properties" in other:
        both["properties"] = {**one["properties"], **other["properties"]}
    if "required" in one and "required" in other:
        both["required"] = [*one["required"], *other["required"]]
    for word, choose in (("minimum", max), ("maximum", min), ("minLength", max), ("maxLength", min)):
        if word in one and word in other:
            both[word] = choose(one[word], other[word])
    return both


def _may_go_on(option: _Schema) -> bool:
    return not {"$ref", "properties", "items", "anyOf", "oneOf", "allOf"}.isdisjoint(option)


def _implied(schema: _Schema) -> str:
    """Returns the type of a schema that does not name one, by its other words."""
    for kind, words in (
        ("object", ("properties", "required", "minProperties")),
        ("array", ("items", "prefixItems", "minItems")),
        ("number", ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
    ):
        if any(word in schema for word in words):
            return kind
    return "string"


def _number(schema: _Schema, index: int, *, whole: bool) -> int | float:
    """Returns the number in bounds that is nearest to 0, or the one ``index`` steps behind it."""
    exact = {
        word: Fraction(str(value))
        for word in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
        if isinstance(value := schema.get(word), int | float) and not isinstance(value, bool)
    }
    low, high = exact.get("minimum"), exact.get("maximum")
    over, under = exact.get("exclusiveMinimum"), exact.get("exclusiveMaximum")
    step = exact.get("multipleOf", Fraction(1))
    if whole:
        step = Fraction(step.numerator)  # the smallest whole multiple of it
    lows = [math.ceil(low / step)] if low is not None else []
    lows += [math.floor(over / step) + 1] if over is not None else []
    highs = [math.floor(high / step)] if high is not None else []
    highs += [math.ceil(under / step) - 1] if under is not None else []
    least, most = max(lows, default=None), min(highs, default=None)
    nearest = 0
    if least is not None and least > 0:
        nearest = least
    elif most is not None and most < 0:
        nearest = most
    if (least is None or nearest >= least) and (most is None or nearest <= most):
        moved = nearest + index
        if most is not None and moved > most:
            moved = nearest - index if least is None else least + (nearest - least + index) % (most - least + 1)
        return _plain(moved * step)
    between = [bound for bound in (low, over, under, high) if bound is not None]
    if whole or "multipleOf" in exact or min(between) == max(between):
        raise SchemaUnmet("The JSON schema allows no number here.")
    # No whole number lies between the bounds.
    lowest, highest = max(b for b in (low, over) if b is not None), min(b for b in (high, under) if b is not None)
    if lowest > highest:
        raise SchemaUnmet("The JSON schema allows no number here.")
    return _plain(lowest + (highest - lowest) / (index + 2))


def _plain(number: Fraction) -> int | float:
    return int(number) if number.denominator == 1 else float(number)
