"""A Solana transaction as it goes over the wire: read from its bytes, its signatures checked.

Owns the wire format of transactions (legacy and version 0), and base58. Nothing here talks to a chain: what is read
are the bytes that were signed, so that an anchor can be checked without a node. Source: Solana
documentation, "Transactions", and what validators check before they run anything ("sanitize").

    transaction  count ‖ signatures of 64 bytes ‖ message
    message      [0x80 ‖ version, unless legacy] header of 3 bytes ‖ count ‖ account keys of 32 bytes ‖ blockhash of 32
                 bytes ‖ count ‖ instructions ‖ [count ‖ lookups of address tables, unless legacy]
    instruction  index of the program's key u8 ‖ count ‖ account indexes u8 ‖ count ‖ data
    lookup       table key of 32 bytes ‖ count ‖ writable indexes u8 ‖ count ‖ read-only indexes u8

A count is a "compact-u16": 7 bits a byte, the lowest first, in the fewest bytes.
"""

from __future__ import annotations

from typing import NamedTuple

from trustgate.errors import VerificationFailed

#: The largest transaction a validator takes, bytes.
MAX_TRANSACTION_BYTES = 1232
SIGNATURE_BYTES = 64
KEY_BYTES = 32

#: Programs that do nothing but carry a text: SPL Memo version 1, and versions 2 and later.
MEMO_PROGRAMS = frozenset(
    {"Memo1UhkJRfHyvLMcVucJwxXeuD728EqVDDwQDxFMNo", "MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr"}
)

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS = {character: digit for digit, character in enumerate(_ALPHABET)}
#: Nothing on Solana that is written in base58 is longer than a signature, 88 characters. Decoding takes time that
#: grows with the square of the length.
_MAX_BASE58_CHARACTERS = 128
#: More accounts than this cannot be named: an index is one byte.
_MAX_ACCOUNTS = 256
_VERSIONED = 0x80


class Instruction(NamedTuple):
    #: The program's address, base58.
    program: str
    #: Indexes of the accounts it is given; those past the transaction's own keys come from address tables.
    accounts: tuple[int, ...]
    data: bytes


class Transaction(NamedTuple):
    """A transaction that is well formed; whether its signatures hold is said by ``verify_signatures``."""

    raw: bytes
    signatures: tuple[bytes, ...]
    #: What the signatures are over.
    message: bytes
    #: None for a legacy transaction, else 0.
    version: int | None
    #: The account keys in the message itself; the first ``len(signatures)`` of them sign.
    keys: tuple[bytes, ...]
    blockhash: bytes
    instructions: tuple[Instruction, ...]
    #: How many accounts come from address tables.
    looked_up: int = 0

    @property
    def signature(self) -> str:
        """The first signature, base58: what a transaction is known by."""
        return b58encode(self.signatures[0])

    @property
    def fee_payer(self) -> str:
        """The address of the first signer, base58."""
        return b58encode(self.keys[0])

    @property
    def memos(self) -> tuple[bytes, ...]:
        """What its top-level memo instructions carry, in their order."""
        return tuple(instruction.data for instruction in self.instructions if instruction.program in MEMO_PROGRAMS)

    def verify_signatures(self) -> None:
        """Check every signature as a validator does (Ed25519, strict). Raises VerificationFailed."""
        from solders.pubkey import Pubkey
        from solders.signature import Signature

        for key, signature in zip(self.keys, self.signatures, strict=False):
            if not Signature.from_bytes(signature).verify(Pubkey.from_bytes(key), self.message):
                raise VerificationFailed(
                    f"The signature of {b58encode(key)} does not match the transaction.",
                    hint="The transaction was altered, or was never signed by that key.",
                )


def read_transaction(raw: bytes, *, allow_trailing: bool = False) -> Transaction:
    """Read a signed transaction. Raises VerificationFailed for bytes that no validator would take for one.

    ``allow_trailing``: bytes after its end are left out, as lenient decoders do; they are no part of the transaction.
    """
    if allow_trailing:
        raw = raw[:MAX_TRANSACTION_BYTES]
    if len(raw) > MAX_TRANSACTION_BYTES:
        raise _malformed(f"it has {len(raw)} bytes, more than the {MAX_TRANSACTION_BYTES} that a transaction may have")
    reader = _Reader(raw)
    signatures = tuple(reader.take(SIGNATURE_BYTES) for _ in range(reader.count()))
    message_at = reader.position
    version = _read_version(reader)
    required, readonly_signed, readonly_unsigned = reader.take(3)
    keys = tuple(reader.take(KEY_BYTES) for _ in range(reader.count()))
    blockhash = reader.take(KEY_BYTES)
    instructions = [_read_instruction(reader) for _ in range(reader.count())]
    looked_up = 0 if version is None else sum(_read_lookup(reader) for _ in range(reader.count()))
    if not allow_trailing:
        reader.end()

    if not signatures or len(signatures) != required:
        raise _malformed(f"it carries {len(signatures)} signatures where its header asks for {required}")
    if required > len(keys) or readonly_signed >= required or readonly_unsigned > len(keys) - required:
        raise _malformed("its header does not match the number of its account keys")
    if len(set(keys)) != len(keys):
        raise _malformed("it names an account twice")
    if len(keys) + looked_up > _MAX_ACCOUNTS:
        raise _malformed(f"it names more than {_MAX_ACCOUNTS} accounts")
    for program, accounts, _ in instructions:
        # The program cannot be the fee payer, and cannot come from an address table.
        if not 0 < program < len(keys) or any(account >= len(keys) + looked_up for account in accounts):
            raise _malformed("an instruction points to an account that is not there")
    return Transaction(
        raw=raw[: reader.position],
        signatures=signatures,
        message=raw[message_at : reader.position],
        version=version,
        keys=keys,
        blockhash=blockhash,
        instructions=tuple(
            Instruction(b58encode(keys[program]), tuple(accounts), data) for program, accounts, data in instructions
        ),
        looked_up=looked_up,
    )


def b58encode(data: bytes) -> str:
    """Bytes in base58 (the Bitcoin alphabet): a ``1`` for each leading zero byte, then the rest as one number."""
    stripped = data.lstrip(b"\0")
    number = int.from_bytes(stripped)
    digits = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_ALPHABET[digit])
    return "1" * (len(data) - len(stripped)) + "".join(reversed(digits))


def b58decode(text: str) -> bytes:
    """Returns the bytes of a base58 text; the inverse of ``b58encode``. Raises ValueError, for an overlong text too."""
    if len(text) > _MAX_BASE58_CHARACTERS:
        raise ValueError(f"a base58 text has at most {_MAX_BASE58_CHARACTERS} characters here, not {len(text)}")
    number = 0
    for character in text:
        digit = _DIGITS.get(character)
        if digit is None:
            raise ValueError(f"{character!r} is not a base58 character")
        number = number * 58 + digit
    stripped = text.lstrip("1")
    return bytes(len(text) - len(stripped)) + number.to_bytes((number.bit_length() + 7) // 8)


class _Reader:
    """Takes bytes from the front. Raises VerificationFailed where there are too few."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def take(self, length: int) -> bytes:
        taken = self._data[self.position : self.position + length]
        if len(taken) < length:
            raise _malformed(f"it breaks off at byte {len(self._data)}")
        self.position += length
        return taken

    def peek(self) -> int:
        return self._data[self.position] if self.position < len(self._data) else 0

    def count(self) -> int:
        """A compact-u16. Only its shortest form is one, so that a transaction has one form alone."""
        value = 0
        for place in range(3):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << (7 * place)
            if byte & 0x80:
                continue
            if (place and not byte) or value > 0xFFFF:
                break
            return value
        raise _malformed("a count in it is not a compact-u16")

    def end(self) -> None:
        if self.position != len(self._data):
            raise _malformed(f"{len(self._data) - self.position} bytes follow after its end")


def _read_version(reader: _Reader) -> int | None:
    if not reader.peek() & _VERSIONED:
        return None
    version = reader.take(1)[0] & ~_VERSIONED
    if version:
        raise _malformed(f"its format is version {version}; only legacy and version 0 are known here")
    return version


def _read_instruction(reader: _Reader) -> tuple[int, bytes, bytes]:
    program = reader.take(1)[0]
    accounts = reader.take(reader.count())
    return program, accounts, reader.take(reader.count())


def _read_lookup(reader: _Reader) -> int:
    """Returns how many accounts come from one address table."""
    reader.take(KEY_BYTES)
    writable = len(reader.take(reader.count()))
    readonly = len(reader.take(reader.count()))
    if not writable + readonly:
        raise _malformed("it names an address table that it takes nothing from")
    return writable + readonly


def _malformed(what: str) -> VerificationFailed:
    return VerificationFailed(f"This is not a Solana transaction: {what}.")
