"""The signed note: published notes and keys, what the specification rules out, and hostile bytes."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.reached import reached, reaches
from trustgate.errors import VerificationFailed
from trustgate.receipts.logkey import LogKey
from trustgate.receipts.note import (
    MAX_NOTE_BYTES,
    Note,
    Signature,
    VerifierKey,
    decode_base64,
    encode_base64,
    format_note,
    is_key_name,
    parse_note,
    verify_note,
)

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent.parent / "vectors" / "notes.json").read_text("utf-8"))
#: Signed by PeterNeumann and by EnochRoot.
BOTH = VECTORS["signed"][2]["note"]
TEXT, _, SIGNATURES = BOTH.rpartition("\n\n")
TEXT += "\n"
PETER_LINE, ENOCH_LINE = SIGNATURES.splitlines(keepends=True)
PETER = VerifierKey.parse(VECTORS["signed"][1]["vkey"])
ENOCH = VerifierKey.parse(VECTORS["signed"][2]["vkey"])


def check(note: str | bytes, key: VerifierKey) -> Note:
    parsed = parse_note(note.encode() if isinstance(note, str) else note)
    verify_note(parsed, key)
    return parsed


# Published notes and keys.


@pytest.mark.parametrize("case", VECTORS["signed"], ids=lambda case: case["vkey"].partition("+")[0])
def test_published_notes(case: dict[str, str]) -> None:
    key = VerifierKey.parse(case["vkey"])
    assert str(key) == case["vkey"]
    note = check(case["note"], key)
    assert note.text == case["note"].rpartition("\n\n")[0] + "\n"
    assert format_note(note.text, note.signatures) == case["note"].encode()


def test_the_text_ends_at_the_last_empty_line() -> None:
    note = parse_note(VECTORS["with_empty_line"].encode())
    assert note.text == ("Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n")
    assert [(found.name, found.key_hash.hex()) for found in note.signatures] == [
        ("quasimodo.example/salvatore", "367ba04b")
    ]
    assert len(note.signatures[0].signature) == 64


def test_the_hash_of_a_key_is_that_of_the_specification() -> None:
    digest = hashlib.sha256(PETER.name.encode() + b"\x0a\x01" + PETER.public_key).digest()
    assert PETER.key_hash == digest[:4]


@pytest.mark.parametrize("vkey", VECTORS["bad_vkeys"])
def test_published_bad_keys(vkey: str) -> None:
    """One of the wrong length, one of an unknown type; their hashes fit."""
    with pytest.raises(VerificationFailed, match="not a"):
        VerifierKey.parse(vkey)


def test_a_mistyped_key_is_noticed_wherever_the_slip_is() -> None:
    vkey = str(PETER)
    slips = [vkey[:start] + vkey[start + 1 :] for start in range(len(vkey))]
    slips += [vkey[:start] + chr(ord(vkey[start]) + 1) + vkey[start + 1 :] for start in range(len(vkey))]
    slips += [vkey[:end] for end in range(len(vkey))]
    slips += [vkey + "\n", " " + vkey, vkey + "=", vkey.replace("c74f20a3", "C74F20A3"), vkey.replace("+", " "), ""]
    for slip in slips:
        with pytest.raises(VerificationFailed):
            VerifierKey.parse(slip)


def test_another_type_of_key_with_a_hash_that_fits() -> None:
    """Type 4 is for witnesses' cosignatures: the same bytes must not pass for a log's key."""
    material = b"\x04" + PETER.public_key
    key_hash = hashlib.sha256(PETER.name.encode() + b"\n" + material).digest()[:4]
    with pytest.raises(VerificationFailed, match="not an Ed25519 key"):
        VerifierKey.parse(f"{PETER.name}+{key_hash.hex()}+{encode_base64(material)}")


@pytest.mark.parametrize(
    "name", ["", "a b", "a+b", "a\tb", "a\u00a0b", "a\u2003", "a\nb", "\x00", "\x1b[31m", "\ud800"]
)
def test_names_that_no_key_has(name: str) -> None:
    assert not is_key_name(name)
    with pytest.raises(ValueError, match="the name of a key"):
        VerifierKey(name, bytes(32))
    with pytest.raises(ValueError, match="not a name of a key"):
        format_note("text\n", (Signature(name, bytes(4), bytes(64)),))


def test_a_key_of_another_length() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        VerifierKey("example.com/log", bytes(31))


# Who has signed.


def test_signatures_of_others_are_ignored() -> None:
    assert len(check(BOTH, PETER).signatures) == 2
    other_name = PETER_LINE.replace("PeterNeumann", "CarmenSandiego")
    check(TEXT + "\n" + other_name + ENOCH_LINE, ENOCH)
    # Same name, other key hash; and other types of signature, which may be of any length.
    check(TEXT + "\n" + PETER_LINE + f"— PeterNeumann {encode_base64(b'1234' + bytes(5000))}\n", PETER)
    check(TEXT + "\n" + f"— PeterNeumann {encode_base64(b'12345')}\n" + PETER_LINE, PETER)


@pytest.mark.parametrize(
    "lines",
    [ENOCH_LINE, PETER_LINE.replace("PeterNeumann", "CarmenSandiego"), PETER_LINE.replace("x08g", "xxxx")],
    ids=["another", "the name is another's", "the hash is another's"],
)
def test_a_note_that_the_key_has_not_signed(lines: str) -> None:
    with pytest.raises(VerificationFailed, match="not signed by PeterNeumann with the key c74f20a3"):
        check(TEXT + "\n" + lines, PETER)


def bad_signature(*, length: int = 64) -> str:
    return f"— PeterNeumann {encode_base64(PETER.key_hash + bytes(length))}\n"


@pytest.mark.parametrize("lines", [bad_signature(), PETER_LINE + bad_signature(), bad_signature() + PETER_LINE])
def test_a_signature_that_names_the_key_must_hold(lines: str) -> None:
    """Even beside one that does."""
    with pytest.raises(VerificationFailed, match="signature of PeterNeumann on the note does not hold"):
        check(TEXT + "\n" + lines, PETER)


@pytest.mark.parametrize("length", [1, 63, 65, 128])
def test_a_signature_of_another_length(length: int) -> None:
    with pytest.raises(VerificationFailed, match="does not hold"):
        check(TEXT + "\n" + bad_signature(length=length), PETER)


@pytest.mark.parametrize("public_key", [bytes(32), b"\x01" + bytes(31), b"\xff" * 32, b"\x02" + bytes(31)])
def test_a_key_that_is_no_point_or_a_weak_one_has_signed_nothing(public_key: bytes) -> None:
    """Of some such keys a signature of zeros would hold for any text, were they not refused."""
    key = VerifierKey("example.com/log", public_key)
    for signature in (bytes(64), b"\x01" + bytes(63), b"\xff" * 64):
        note = format_note("any text\n", (Signature(key.name, key.key_hash, signature),))
        with pytest.raises(VerificationFailed, match="does not hold"):
            check(note, key)


def test_many_signatures() -> None:
    """At least 16 are to be accepted, of the post-quantum kind too."""
    large = f"— witness.example {encode_base64(b'1234' + bytes(5000))}\n"
    check(TEXT + "\n" + large * 99 + PETER_LINE, PETER)
    with pytest.raises(VerificationFailed, match="more than the 100 signatures"):
        check(TEXT + "\n" + PETER_LINE * 101, PETER)
    with pytest.raises(VerificationFailed, match="longer than"):
        check("x" * MAX_NOTE_BYTES + TEXT + "\n" + PETER_LINE, PETER)


# What is no note.


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"\n\n",
        TEXT.encode(),
        f"{TEXT}\n".encode(),
        f"{TEXT}\n{PETER_LINE}".encode().removesuffix(b"\n"),
        f"{TEXT}{PETER_LINE}".encode(),
        f"{TEXT}\n{PETER_LINE}\n".encode(),
        f"{TEXT}\n{PETER_LINE}Unexpected line.\n".encode(),
        f"{TEXT}\n{PETER_LINE}\n{ENOCH_LINE}x".encode(),
        f"\x01{TEXT}\n{PETER_LINE}".encode(),
        f"{TEXT}\n{PETER_LINE}".replace("\n", "\r\n").encode(),
        f"a\tb\n\n{PETER_LINE}".encode(),
        b"\xff" + f"{TEXT}\n{PETER_LINE}".encode(),
        b"\xed\xa0\x80" + f"{TEXT}\n{PETER_LINE}".encode(),  # half of a surrogate pair
        f"{TEXT}\n{PETER_LINE.replace('PeterNeumann', 'Bad Name')}".encode(),
        f"{TEXT}\n{PETER_LINE.replace('PeterNeumann', 'Bad+Name')}".encode(),
        f"{TEXT}\n{PETER_LINE.replace('PeterNeumann ', ' ')}".encode(),
        f"{TEXT}\n{PETER_LINE.replace('— ', '- ')}".encode(),
        f"{TEXT}\n{PETER_LINE.replace('— ', '—')}".encode(),
        f"{TEXT}\n— PeterNeumann\n".encode(),
        f"{TEXT}\n— PeterNeumann \n".encode(),
        f"{TEXT}\n— PeterNeumann x08goA==\n".encode(),  # a hash without a signature
        f"{TEXT}\n{PETER_LINE.replace('=', '')}".encode(),
        f"{TEXT}\n{PETER_LINE.replace('nAM=', 'nAN=')}".encode(),  # a bit that means nothing
        f"{TEXT}\n{PETER_LINE.replace('x08go', 'x08 go')}".encode(),
        f"{TEXT}\n{PETER_LINE.replace('x08go/', 'x08go_')}".encode(),
        f"{TEXT}\n{PETER_LINE}".encode("utf-16"),
    ],
)
def test_what_is_no_note(data: bytes) -> None:
    assert data != f"{TEXT}\n{PETER_LINE}".encode()
    with pytest.raises(VerificationFailed, match=r"[Tt]he note "):
        parse_note(data)


@given(st.binary(max_size=200))
def test_bytes_are_a_note_or_refused(data: bytes) -> None:
    with pytest.raises(VerificationFailed):
        check(data, PETER)


@reaches(0.2)
@given(
    st.lists(st.sampled_from([PETER_LINE, ENOCH_LINE]), min_size=1, max_size=3),
    st.sampled_from(["", "", "", "\n", "— ", "é", "PeterNeumann ", "x08g", "\x00", "="]),
    st.data(),
)
def test_a_note_is_read_exactly_or_refused(lines: list[str], piece: str, data: st.DataObject) -> None:
    """A valid note, or one with a piece put in somewhere: what is read is written back to the byte."""
    valid = f"{TEXT}\n{''.join(lines)}"
    at = data.draw(st.integers(0, len(valid)))
    note = (valid[:at] + piece + valid[at:]).encode()
    try:
        read = parse_note(note)
    except VerificationFailed:
        assert note != valid.encode()
        return
    reached()
    assert format_note(read.text, read.signatures) == note


@given(st.integers(0, 8 * len(f"{TEXT}\n{PETER_LINE}".encode()) - 1))
def test_a_note_with_any_bit_flipped_is_refused(bit: int) -> None:
    data = bytearray(f"{TEXT}\n{PETER_LINE}".encode())
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(VerificationFailed):
        check(bytes(data), PETER)


texts = st.text(st.characters(codec="utf-8", min_codepoint=0x20)).map(lambda text: text + "\n")
lines_of_text = st.lists(texts, min_size=1).map("".join)


@given(lines_of_text, st.text().filter(is_key_name))
def test_what_is_signed_is_read_back(text: str, name: str) -> None:
    key = LogKey.generate(name)
    data = key.sign(text)
    note = check(data, VerifierKey.parse(str(key.verifier)))
    assert note.text == text
    assert format_note(note.text, note.signatures) == data


@given(st.binary())
def test_base64_is_read(data: bytes) -> None:
    assert decode_base64(base64.b64encode(data).decode()) == data
    assert encode_base64(data) == base64.b64encode(data).decode()


@given(st.binary(min_size=1), st.sampled_from(["=", " ", "\n", "-", "_", "é", "\x00"]), st.data())
def test_base64_has_one_form(data: bytes, piece: str, draw: st.DataObject) -> None:
    text = base64.b64encode(data).decode()
    at = draw.draw(st.integers(0, len(text)))
    assert decode_base64(text[:at] + piece + text[at:]) is None
