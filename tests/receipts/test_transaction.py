"""Reading transactions from their bytes, with solders as the oracle: it is what validators use."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from solders.address_lookup_table_account import AddressLookupTableAccount
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from tests.support.bundles import MEMO_PROGRAM, MEMO_PROGRAM_V1, SampleLog
from tests.support.reached import reached, reaches
from trustgate.errors import VerificationFailed
from trustgate.formats.solana_transaction import MAX_TRANSACTION_BYTES, b58decode, b58encode, read_transaction

LOG = SampleLog(5, 2)
ANCHOR = LOG.anchor()


def keypair(number: int) -> Keypair:
    return Keypair.from_seed(hashlib.sha256(b"%d" % number).digest())


def pubkey(number: int) -> Pubkey:
    return keypair(number).pubkey()


def signed(message: Message | MessageV0, *signers: int) -> bytes:
    return bytes(VersionedTransaction(message, [keypair(number) for number in signers]))


@st.composite
def transactions(draw: st.DrawFn) -> bytes:
    """Signed transactions of up to three signers, with memos and others, some accounts from an address table."""
    signers = list(range(draw(st.integers(1, 3))))
    table = AddressLookupTableAccount(pubkey(99), [pubkey(number) for number in range(50, 55)])
    instructions = []
    for _ in range(draw(st.integers(0, 3))):
        accounts = [
            AccountMeta(pubkey(number), is_signer=number in signers, is_writable=draw(st.booleans()))
            for number in draw(st.lists(st.sampled_from([*signers, 10, 11, 50, 51]), max_size=3))
        ]
        program = draw(st.sampled_from([MEMO_PROGRAM, MEMO_PROGRAM_V1, str(pubkey(70))]))
        instructions.append(Instruction(Pubkey.from_string(program), draw(st.binary(max_size=150)), accounts))
    needed = [AccountMeta(pubkey(number), is_signer=True, is_writable=False) for number in signers]
    instructions.append(Instruction(pubkey(71), b"", needed))
    blockhash = Hash(draw(st.binary(min_size=32, max_size=32)))
    if draw(st.booleans()):
        return signed(Message.new_with_blockhash(instructions, pubkey(0), blockhash), *reversed(signers))
    tables = draw(st.sampled_from([[], [table]]))
    message = MessageV0.try_compile(pubkey(0), instructions, tables, blockhash)
    return signed(message, *signers)


@given(transactions())
def test_it_reads_what_solders_writes(raw: bytes) -> None:
    expected = VersionedTransaction.from_bytes(raw)
    message = expected.message

    found = read_transaction(raw)

    found.verify_signatures()
    assert found.raw == raw
    assert found.version == (None if isinstance(message, Message) else 0)
    assert found.signature == str(expected.signatures[0])
    assert found.fee_payer == str(message.account_keys[0]) == str(pubkey(0))
    assert found.signatures == tuple(map(bytes, expected.signatures))
    assert found.keys == tuple(map(bytes, message.account_keys))
    assert found.blockhash == bytes(message.recent_blockhash)
    assert [(i.program, i.accounts, i.data) for i in found.instructions] == [
        (str(message.account_keys[i.program_id_index]), tuple(i.accounts), bytes(i.data)) for i in message.instructions
    ]
    memos = [i.data for i in found.instructions if i.program in (MEMO_PROGRAM, MEMO_PROGRAM_V1)]
    assert found.memos == tuple(memos)


@pytest.mark.parametrize("program", [MEMO_PROGRAM, MEMO_PROGRAM_V1])
@pytest.mark.parametrize("version", ["legacy", 0])
def test_the_memo_of_an_anchor(program: str, version: str) -> None:
    raw = LOG.anchor(version="legacy" if version == "legacy" else 0, program=program)

    assert read_transaction(raw).memos == (LOG.note,)
    assert read_transaction(raw).fee_payer == LOG.fee_payer


def test_a_text_for_another_program_is_no_memo() -> None:
    assert read_transaction(LOG.anchor(program=str(pubkey(7)))).memos == ()


@given(transactions(), st.data())
@example(ANCHOR, None)
def test_altered_bytes_are_noticed(raw: bytes, data: st.DataObject | None) -> None:
    """Whatever byte is changed: it is no transaction any more, or its signature does not match."""
    places = range(len(raw)) if data is None else [data.draw(st.integers(0, len(raw) - 1))]
    for at in places:
        altered = raw[:at] + bytes([raw[at] ^ 0x10]) + raw[at + 1 :]
        with pytest.raises(VerificationFailed):
            read_transaction(altered).verify_signatures()


@reaches(0.2)
@given(transactions(), st.lists(st.tuples(st.integers(0, 1231), st.integers(0, 255)), min_size=0, max_size=3))
def test_it_takes_nothing_that_validators_refuse(raw: bytes, changes: list[tuple[int, int]]) -> None:
    altered = bytearray(raw)
    for at, value in changes:
        altered[at % len(raw)] = value
    data = bytes(altered)
    try:
        read_transaction(data)
    except VerificationFailed:
        return
    reached()
    oracle = VersionedTransaction.from_bytes(data)
    oracle.sanitize()
    assert bytes(oracle) == data


def test_every_part_of_it_is_cut_off_in_vain() -> None:
    for length in range(len(ANCHOR)):
        with pytest.raises(VerificationFailed, match="not a Solana transaction"):
            read_transaction(ANCHOR[:length])


def _with(at: int, value: bytes, *, instead_of: int = 1) -> bytes:
    return ANCHOR[:at] + value + ANCHOR[at + instead_of :]


#: Where the header of the anchor's message and the keys begin: after one signature, and the byte of the version.
_HEADER, _KEYS = 66, 70


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (ANCHOR + b"\0", "1 bytes follow"),
        (ANCHOR.ljust(MAX_TRANSACTION_BYTES + 1, b"\0"), "more than the 1232"),
        (b"\x81\x00" + ANCHOR[1:], "count in it is not a compact-u16"),
        (b"\xff\xff\x04" + ANCHOR[1:], "count in it is not a compact-u16"),
        (b"\x80\x80\x80\x01" + ANCHOR[1:], "count in it is not a compact-u16"),
        (_with(65, b"\x81"), "version 1"),
        (_with(_HEADER, b"\x02"), "1 signatures where its header asks for 2"),
        (b"\0" + _with(_HEADER, b"\0")[65:], "0 signatures"),
        (_with(_HEADER + 1, b"\x01"), "header does not match"),
        (_with(_HEADER + 2, b"\x03"), "header does not match"),
        (_with(_KEYS + 32, ANCHOR[_KEYS : _KEYS + 32], instead_of=32), "names an account twice"),
        (_with(len(ANCHOR) - len(LOG.note) - 5, b"\x00"), "account that is not there"),
        (_with(len(ANCHOR) - len(LOG.note) - 5, b"\x09"), "account that is not there"),
        (ANCHOR[:-1] + b"\x01" + bytes(32) + b"\0\0", "takes nothing from"),
    ],
)
def test_what_is_wrong_is_said(raw: bytes, why: str) -> None:
    with pytest.raises(VerificationFailed, match=why):
        read_transaction(raw)


def test_more_accounts_than_an_index_can_name() -> None:
    tables = b"\x01" + bytes(32) + b"\xfd\x01" + bytes(253) + b"\0"

    assert read_transaction(ANCHOR[:-1] + tables).version == 0  # 3 keys and 253 from a table
    with pytest.raises(VerificationFailed, match="more than 256"):
        read_transaction(ANCHOR[:-1] + tables.replace(b"\xfd\x01", b"\xfe\x01") + b"\0")


def test_a_signer_who_did_not_sign_is_named() -> None:
    meta = [AccountMeta(pubkey(1), is_signer=True, is_writable=False)]
    message = Message.new_with_blockhash([Instruction(pubkey(70), b"", meta)], pubkey(0), Hash.default())
    raw = signed(message, 0, 1)
    second = 1 + 64

    with pytest.raises(VerificationFailed, match=f"signature of {pubkey(1)} does not match"):
        read_transaction(raw[:second] + bytes(64) + raw[second + 64 :]).verify_signatures()


def test_a_key_that_signs_anything_signs_nothing() -> None:
    """With a point of small order as its key, one signature fits every message; strict verifiers refuse it."""
    neutral = bytes([1]) + bytes(31)
    header = _with(_KEYS, neutral, instead_of=32)
    raw = header[:1] + neutral + bytes(32) + header[65:]

    with pytest.raises(VerificationFailed, match="does not match"):
        read_transaction(raw).verify_signatures()


@given(st.binary(max_size=80))
def test_base58_gives_back_what_it_was_given(data: bytes) -> None:
    assert b58decode(b58encode(data)) == data


@given(st.binary(min_size=32, max_size=32))
@example(bytes(32))
@example(bytes(31) + b"\1")
def test_base58_is_solanas(data: bytes) -> None:
    assert b58encode(data) == str(Pubkey.from_bytes(data))
    assert b58decode(str(Pubkey.from_bytes(data))) == data


@pytest.mark.parametrize("text", ["0", "O", "I", "l", "ü", "1 ", "1" * 129])
def test_what_is_not_base58(text: str) -> None:
    with pytest.raises(ValueError, match="base58"):
        b58decode(text)
