"""The signed note: a text and the Ed25519 signatures under it, and the keys that check them.

Owns the format: how a note is taken apart, and what counts as signed. Signatures of other keys, and of other types, do
not matter when one key is checked; a signature that claims to be of that key must hold.

Source: C2SP signed-note; the signature is RFC 8032's Ed25519 over the text, the type's number 1.
"""

from __future__ import annotations

import hashlib
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from typing import Final, NamedTuple

import msgspec

from trustgate.errors import VerificationFailed

#: Limits of our own, so that parsing is bounded. The specification asks for at least 16 signatures, which
#: may have 5 kB each where they are to withstand quantum computers.
MAX_NOTE_BYTES: Final = 1024 * 1024
MAX_SIGNATURES: Final = 100

KEY_BYTES: Final = 32
KEY_HASH_BYTES: Final = 4
#: The first byte of an Ed25519 key wherever one is written or hashed.
ED25519: Final = b"\x01"

_SIGNATURE_BYTES: Final = 64
_SIGNATURE_MARK: Final = "— "


class VerifierKey(msgspec.Struct, frozen=True):
    """The signer's name and Ed25519 public key. Raises ``ValueError`` for a name or key that cannot be."""

    name: str
    #: 32 bytes, as in RFC 8032.
    public_key: bytes

    def __post_init__(self) -> None:
        if not is_key_name(self.name):
            raise ValueError("the name of a key is not empty, and holds no blanks, control characters or plus signs")
        if len(self.public_key) != KEY_BYTES:
            raise ValueError(f"a public key has {KEY_BYTES} bytes, not {len(self.public_key)}")

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Returns the key written as ``name+hash+base64``. Raises ``VerificationFailed`` for anything that ``str``
        would not write: the hash guards against a slip of the pen.
        """
        name, _, rest = text.partition("+")
        key_hash, _, encoded = rest.partition("+")
        material = decode_base64(encoded)
        if material is None or not is_key_name(name):
            raise VerificationFailed("This is not a verifier key: it is to look like name+hash+base64.")
        if material[:1] != ED25519 or len(material) != 1 + KEY_BYTES:
            raise VerificationFailed("The verifier key is not an Ed25519 key: those have type 1 and 32 bytes.")
        key = cls(name, material[1:])
        if key.key_hash.hex() != key_hash:
            raise VerificationFailed("The verifier key is mistyped: its hash is not that of its name and key.")
        return key

    def __str__(self) -> str:
        return f"{self.name}+{self.key_hash.hex()}+{encode_base64(ED25519 + self.public_key)}"

    @property
    def key_hash(self) -> bytes:
        """What a signature names the key by, 4 bytes; no proof of anything."""
        return hashlib.sha256(self.name.encode() + b"\n" + ED25519 + self.public_key).digest()[:KEY_HASH_BYTES]


class Signature(NamedTuple):
    name: str
    #: 4 bytes.
    key_hash: bytes
    #: 64 bytes where it is of Ed25519.
    signature: bytes


class Note(NamedTuple):
    #: What is signed; ends with a newline.
    text: str
    signatures: tuple[Signature, ...]


def parse_note(data: bytes) -> Note:
    """Take a signed note apart. Checks no signature.

    Raises ``VerificationFailed`` for anything that is none. Base64 must be in its canonical form: with padding,
    and without bits that mean nothing, so that there is one form of each signature.
    """
    if len(data) > MAX_NOTE_BYTES:
        raise VerificationFailed(f"The note is longer than the {MAX_NOTE_BYTES} bytes that are accepted.")
    try:
        whole = data.decode()
    except UnicodeDecodeError:
        raise VerificationFailed("The note is not UTF-8 text.") from None
    if not is_note_text(whole):
        raise VerificationFailed("The note holds control characters, or does not end with a newline.")
    text, blank, below = whole.rpartition("\n\n")
    if not blank or not below:
        raise VerificationFailed("The note has no signatures: an empty line stands before them.")
    lines = below[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise VerificationFailed(f"The note has more than the {MAX_SIGNATURES} signatures that are accepted.")
    return Note(text + "\n", tuple(_parse_signature(line) for line in lines))


def verify_note(note: Note, key: VerifierKey) -> None:
    """Check that the key has signed the note. Raises ``VerificationFailed`` if it has not, or if a signature that names
    the key does not hold."""
    key_hash = key.key_hash
    signatures = [found.signature for found in note.signatures if (found.name, found.key_hash) == (key.name, key_hash)]
    if not signatures:
        raise VerificationFailed(f"The note is not signed by {key.name} with the key {key_hash.hex()}.")
    message = note.text.encode()
    for signature in dict.fromkeys(signatures):
        if not _verifies(key.public_key, message, signature):
            raise VerificationFailed(f"The signature of {key.name} on the note does not hold.")


def format_note(text: str, signatures: tuple[Signature, ...]) -> bytes:
    """Returns the signed note as it travels. Raises ``ValueError`` for a text or name that no note can have."""
    if not is_note_text(text):
        raise ValueError("the text of a note ends with a newline and holds no control characters")
    lines = []
    for name, key_hash, signature in signatures:
        if not is_key_name(name):
            raise ValueError("this is not a name of a key")
        lines.append(f"{_SIGNATURE_MARK}{name} {encode_base64(key_hash + signature)}\n")
    return f"{text}\n{''.join(lines)}".encode()


def is_key_name(name: str) -> bool:
    """Returns whether it may be the name of a key: not empty, no white space, no plus sign, nothing that a note cannot
    hold.
    """
    return bool(name) and "+" not in name and not any(c.isspace() for c in name) and _is_plain(name)


def is_note_text(text: str) -> bool:
    """Returns whether it can be signed: it ends with a newline and holds no other control characters below U+0020."""
    return text.endswith("\n") and _is_plain(text.replace("\n", ""))


def encode_base64(data: bytes) -> str:
    return b2a_base64(data, newline=False).decode()


def decode_base64(text: str) -> bytes | None:
    """Returns the bytes (RFC 4648 section 4); None unless that is exactly how ``encode_base64`` writes them."""
    try:
        data = a2b_base64(text)
    except (Base64Error, ValueError):  # ValueError: not ASCII
        return None
    return data if encode_base64(data) == text else None


def _is_plain(text: str) -> bool:
    """Returns whether there are no control characters below U+0020, and no halves of surrogate pairs, which UTF-8
    lacks.
    """
    return not any(c < " " or "\ud800" <= c <= "\udfff" for c in text)


def _parse_signature(line: str) -> Signature:
    name, _, encoded = line.removeprefix(_SIGNATURE_MARK).partition(" ")
    data = decode_base64(encoded)
    if not line.startswith(_SIGNATURE_MARK) or not is_key_name(name) or data is None or len(data) <= KEY_HASH_BYTES:
        raise VerificationFailed("The note holds a line below its text that is not a signature.")
    return Signature(name, data[:KEY_HASH_BYTES], data[KEY_HASH_BYTES:])


def _verifies(public_key: bytes, message: bytes, signature: bytes) -> bool:
    # Imported late: it takes time, and not every command needs it.
    from solders.pubkey import Pubkey
    from solders.signature import Signature as Ed25519Signature

    if len(signature) != _SIGNATURE_BYTES:
        return False
    return Ed25519Signature.from_bytes(signature).verify(Pubkey.from_bytes(public_key), message)
