"""The outgoing body: byte for byte where nothing changes, and never two opinions about what it says."""

from __future__ import annotations

import json
import string
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustgate.gateway.api.member_names import misnamed
from trustgate.gateway.path.json_edit import outgoing

#: Text that UTF-8 can say: half a surrogate pair is refused before a body comes here.
texts = st.text(st.characters(codec="utf-8"))
#: Names without escapes: a name with one may hide another (``"mod\u0065l"``), so such a body is written anew.
names = st.text(string.ascii_letters + string.digits + " _-.$", max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)
members = st.dictionaries(names, json_values, max_size=6)
styles: list[dict[str, Any]] = [
    {"separators": (",", ":")},
    {},
    {"indent": 2},
    {"indent": "\t", "separators": (" ,", " : ")},
    {"ensure_ascii": False, "separators": (",", ":")},
]


raw_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def dump(value: object, style: dict[str, Any]) -> bytes:
    return json.dumps(value, **style).encode("utf-8", "surrogatepass")


@given(members, st.sampled_from(styles), st.sampled_from([b"", b" ", b"\n\t "]))
def test_a_body_in_which_nothing_changes_keeps_its_bytes(
    value: dict[str, Any], style: dict[str, Any], blank: bytes
) -> None:
    body = blank + dump({**value, "model": "m"}, style) + blank
    assert outgoing(body, {"model": "m"}, {}, {}) == body


@given(members, st.sampled_from(styles))
def test_setting_a_member_changes_that_member_alone(value: dict[str, Any], style: dict[str, Any]) -> None:
    body = dump(value, style)
    changed = json.loads(outgoing(body, {"model": "other"}, {}, {}))
    assert changed == {**value, "model": "other"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model":"dear","model":"cheap"}', "model"),
        (b'{"model": "dear", "model": "cheap"}', "model"),
        (b'{"model":"same","model":"same"}', None),
        (b'{"model":"dear","mod\\u0065l":"cheap"}', "model"),
        (b'{"mod\\u0065l":"cheap"}', "model"),
        (b'{"stream":true,"model":"cheap","stream":true}', None),
        (b'{"a":12,"model":"x","a":1}', "a"),
        (b'{"a":1,"b":2,"a":3,"c":4}', "a"),
    ],
)
def test_a_name_said_twice_or_in_escapes_is_found(body: bytes, param: str | None) -> None:
    fault = misnamed(body, raw_members(body))
    assert fault is not None
    assert fault.param in (param, "model", None)


@given(members.filter(bool), st.sampled_from(styles))
def test_names_said_once_are_in_order_however_the_body_is_written(value: dict[str, Any], style: dict[str, Any]) -> None:
    body = dump(value, style)
    if b"\\ud" in body or any("\\" in json.dumps(name) and name.isascii() for name in value):
        return
    assert misnamed(body, raw_members(body)) is None


@pytest.mark.parametrize("body", [b"{}", b" { }", b"{}\n"])
def test_an_object_without_members_names_nothing_twice(body: bytes) -> None:
    assert misnamed(body, raw_members(body)) is None


@given(members.filter(bool), st.sampled_from(styles), st.data())
def test_whichever_name_comes_twice_is_found(value: dict[str, Any], style: dict[str, Any], data: st.DataObject) -> None:
    again = data.draw(st.sampled_from(sorted(value)))
    parts = [dump({name: each}, style).strip()[1:-1].strip() for name, each in value.items()]
    repeated = dump({again: data.draw(st.integers())}, style).strip()[1:-1].strip()
    parts.insert(data.draw(st.integers(0, len(parts))), repeated)
    body = b"{" + data.draw(st.sampled_from([b",", b", ", b" ,\n"])).join(parts) + b"}"
    if b"\\ud" in body:
        return
    assert misnamed(body, raw_members(body)) is not None


def test_values_keep_their_bytes_when_another_member_changes() -> None:
    body = (
        b'{ "model" : "a", "messages": [ {"content": "\\u00e9 \xc3\xa9", "x": 1.0e0} ],  "seed": 12345678901234567890 }'
    )
    assert outgoing(body, {"model": "b"}, {}, {}) == (
        b'{"model":"b","messages":[ {"content": "\\u00e9 \xc3\xa9", "x": 1.0e0} ],"seed":12345678901234567890}'
    )


def test_defaults_fill_what_is_absent_or_null_and_nothing_else() -> None:
    sent = json.loads(outgoing(b'{"a":1,"b":null}', {}, {"a": 2, "b": 3, "c": 4}, {}))
    assert sent == {"a": 1, "b": 3, "c": 4}


@pytest.mark.parametrize("options", ['{"include_obfuscation":false}', "null", '{"include_usage":false}'])
def test_merging_keeps_the_other_members_of_the_object(options: str) -> None:
    body = f'{{"stream_options":{options}}}'.encode()
    sent = json.loads(outgoing(body, {}, {}, {"stream_options": {"include_usage": True}}))
    before = json.loads(options) or {}
    assert sent == {"stream_options": {**before, "include_usage": True}}
