"""The outgoing body: byte for byte where nothing changes, and never two opinions about what it says."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    "body",
    [
        b'{"model":"dear","model":"cheap"}',
        b'{"model": "dear", "model": "cheap"}',
        b'{"model":"dear","mod\\u0065l":"cheap"}',
        b'{"mod\\u0065l":"cheap"}',
        b'{"stream":true,"model":"cheap","stream":true}',
    ],
)
def test_a_member_said_twice_or_in_escapes_reaches_the_upstream_once_as_the_gateway_read_it(body: bytes) -> None:
    sent = outgoing(body, {"model": "cheap"}, {}, {})
    pairs = json.loads(sent, object_pairs_hook=lambda pairs: pairs)
    assert [name for name, _ in pairs] == list(dict(pairs))
    assert dict(pairs)["model"] == "cheap"
    assert b"\\u" not in sent


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
