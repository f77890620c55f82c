"""The checkpoint: the specification's example and rules, signed and opened, and hostile texts."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.reached import reached, reaches
from trustgate.errors import VerificationFailed
from trustgate.receipts.checkpoint import (
    Checkpoint,
    checkpoint_text,
    open_checkpoint,
    parse_checkpoint,
    parse_decimal,
    sign_checkpoint,
)
from trustgate.receipts.logkey import LogKey
from trustgate.receipts.note import is_key_name, parse_note, verify_note

#: From C2SP tlog-checkpoint.
EXAMPLE = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
EXAMPLE_SIGNATURE = (
    "— example.com/behind-the-sofa "
    "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
)
ROOT = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="
KEY = LogKey.generate("example.com/log")

checkpoints = st.builds(Checkpoint, st.just(KEY.name), st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32))


def test_the_specifications_example() -> None:
    note = parse_note(f"{EXAMPLE}\n{EXAMPLE_SIGNATURE}".encode())
    checkpoint = parse_checkpoint(note.text)
    assert checkpoint == Checkpoint("example.com/behind-the-sofa", 20852163, base64.b64decode(ROOT))
    assert checkpoint_text(checkpoint) == EXAMPLE
    assert note.signatures[0].name == checkpoint.origin


@pytest.mark.parametrize("extension", ["x\n", "one\ntwo\n", " \n", "— example.com x\n", "é\n" * 100])
def test_further_lines_mean_nothing(extension: str) -> None:
    assert parse_checkpoint(EXAMPLE + extension) == parse_checkpoint(EXAMPLE)
    note = KEY.sign(f"{KEY.name}\n1\n{ROOT}\n{extension}")
    assert open_checkpoint(note, KEY.verifier) == Checkpoint(KEY.name, 1, base64.b64decode(ROOT))


@pytest.mark.parametrize("origin", ["log", "go.sum database tree", "with blanks, a + sign and é", "— x"])
def test_an_origin_may_be_any_line(origin: str) -> None:
    checkpoint = Checkpoint(origin, 0, bytes(32))
    assert parse_checkpoint(checkpoint_text(checkpoint)) == checkpoint


BAD_TEXTS = [
    *(
        "",
        "\n",
        "\n\n\n",
        "log\n",
        "log\n1\n",
        f"log\n1\n{ROOT}",
        f"log\n1\n{ROOT}x",
        f"\n1\n{ROOT}\n",
        f"log\n\n{ROOT}\n",
    ),
    *("log\n1\n\n", f"log\n1\n{ROOT}\n\n", f"log\n1\n{ROOT}\n\nx\n", f"log\n1\n{ROOT}\nx\n\n", f"\nlog\n1\n{ROOT}\n"),
    f"log\n1\n{ROOT}\n".replace("\n", "\r\n"),
    f"l\tog\n1\n{ROOT}\n",
    f"log\n1\n{ROOT}\n\x00\n",
    f"\ud800\n1\n{ROOT}\n",
    *(f"log\n{size}\n{ROOT}\n" for size in ["-1", "+1", "01", "00", " 1", "1 ", "0x1", "1e3", "1_0", "1.0", "", "one"]),
    *(f"log\n{size}\n{ROOT}\n" for size in ["\u0661", "\u00b2", "9223372036854775808", "9" * 19, "9" * 20, "9" * 5000]),
    *(f"log\n1\n{root}\n" for root in [ROOT[:-1], ROOT + "=", ROOT[:-4], ROOT + ROOT, "A" + ROOT, " " + ROOT, "="]),
    f"log\n1\n{ROOT.replace('/', '_')}\n",
    f"log\n1\n{ROOT.replace('q2I=', 'q2J=')}\n",  # a bit that means nothing
    f"log\n1\n{base64.b64encode(bytes(31)).decode()}\n",
    f"log\n1\n{base64.b64encode(bytes(33)).decode()}\n",
    f"log\n1\n{bytes(32).hex()}\n",
]


@pytest.mark.parametrize("text", BAD_TEXTS, ids=range(len(BAD_TEXTS)))
def test_texts_that_are_no_checkpoint(text: str) -> None:
    with pytest.raises(VerificationFailed, match="checkpoint"):
        parse_checkpoint(text)


def test_the_largest_size() -> None:
    assert parse_checkpoint(f"log\n9223372036854775807\n{ROOT}\n").size == 2**63 - 1


@given(st.integers(0, 2**63 - 1))
def test_a_number_is_read(number: int) -> None:
    assert parse_decimal(str(number)) == number


@given(
    st.integers(0, 2**63 - 1),
    st.sampled_from(["0{}", "+{}", "-{}", " {}", "{} ", "{}_0", "{}\u0661", "{}.0", "\x00{}"]),
)
def test_a_number_has_one_form(number: int, form: str) -> None:
    assert parse_decimal(form.format(number)) is None


@given(st.integers(2**63))
def test_a_number_beyond_63_bits_is_refused(number: int) -> None:
    assert parse_decimal(str(number)) is None


#: Lines that may follow the three of a checkpoint: C2SP tlog-checkpoint, extension lines.
extensions = st.lists(st.sampled_from(["extension", "é", "a=b", "01", ROOT]), max_size=3)


@given(checkpoints, extensions)
def test_extension_lines_are_read_over(checkpoint: Checkpoint, extension: list[str]) -> None:
    text = checkpoint_text(checkpoint) + "".join(f"{line}\n" for line in extension)
    assert parse_checkpoint(text) == checkpoint


@reaches(0.5)
@given(checkpoints, st.sampled_from(["", "\n", " ", "0", "é", "=", "\x00", "log"]), st.data())
def test_a_text_is_a_checkpoint_or_refused(checkpoint: Checkpoint, piece: str, data: st.DataObject) -> None:
    """A piece is put into a valid text, or takes the place of one character: in few places it is still valid."""
    valid = checkpoint_text(checkpoint)
    at = data.draw(st.integers(0, len(valid)))
    text = valid[:at] + piece + valid[at + data.draw(st.integers(0, 1)) :]
    reached()
    try:
        read = parse_checkpoint(text)
    except VerificationFailed:
        assert text != valid
    else:
        assert text.startswith(checkpoint_text(read))


@pytest.mark.parametrize(
    "checkpoint",
    [
        Checkpoint("", 0, bytes(32)),
        Checkpoint("two\nlines", 0, bytes(32)),
        Checkpoint("log\n1", 0, bytes(32)),
        Checkpoint("l\tog", 0, bytes(32)),
        Checkpoint("log", -1, bytes(32)),
        Checkpoint("log", 2**63, bytes(32)),
        Checkpoint("log", 1, b""),
        Checkpoint("log", 1, bytes(31)),
        Checkpoint(f"log\n1\n{ROOT}", 1, bytes(32)),
    ],
)
def test_a_checkpoint_that_no_log_has_is_not_written(checkpoint: Checkpoint) -> None:
    with pytest.raises(ValueError, match="checkpoint"):
        checkpoint_text(checkpoint)


# Signed.


@given(checkpoints)
def test_what_is_signed_can_be_opened(checkpoint: Checkpoint) -> None:
    data = sign_checkpoint(checkpoint, KEY)
    assert open_checkpoint(data, KEY.verifier) == checkpoint
    # What an anchor's memo has room for: the name twice, the size, and 146 bytes.
    assert len(data) == 2 * len(KEY.name) + len(str(checkpoint.size)) + 146


@given(checkpoints, st.data())
def test_a_checkpoint_with_any_bit_flipped_is_refused(checkpoint: Checkpoint, data: st.DataObject) -> None:
    note = bytearray(sign_checkpoint(checkpoint, KEY))
    note[data.draw(st.integers(0, len(note) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(VerificationFailed):
        open_checkpoint(bytes(note), KEY.verifier)


@given(st.binary(max_size=300))
def test_bytes_are_no_checkpoint(data: bytes) -> None:
    with pytest.raises(VerificationFailed):
        open_checkpoint(data, KEY.verifier)


@given(st.text().filter(is_key_name), st.integers(0, 5))
def test_any_name_of_a_key_can_be_an_origin(name: str, size: int) -> None:
    key = LogKey.generate(name)
    checkpoint = Checkpoint(name, size, bytes(32))
    assert open_checkpoint(sign_checkpoint(checkpoint, key), key.verifier) == checkpoint


def test_another_key_of_the_same_name_is_another() -> None:
    note = sign_checkpoint(Checkpoint(KEY.name, 1, bytes(32)), KEY)
    with pytest.raises(VerificationFailed, match=r"not signed by example\.com/log with the key"):
        open_checkpoint(note, LogKey.generate(KEY.name).verifier)


def test_a_key_speaks_for_its_own_log_only() -> None:
    other = Checkpoint("example.com/other", 1, bytes(32))
    with pytest.raises(ValueError, match=r"example\.com/log does not sign for example\.com/other"):
        sign_checkpoint(other, KEY)

    note = KEY.sign(checkpoint_text(other))
    verify_note(parse_note(note), KEY.verifier)
    with pytest.raises(VerificationFailed, match=r"of the log example\.com/other, not of example\.com/log"):
        open_checkpoint(note, KEY.verifier)


def test_a_signed_note_that_is_no_checkpoint() -> None:
    with pytest.raises(VerificationFailed, match="at least three lines"):
        open_checkpoint(KEY.sign("example.com/log\n"), KEY.verifier)
