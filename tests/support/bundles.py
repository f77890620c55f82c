"""Bundles for tests: a log of generated receipts, proofs read from its tiles, anchors that were really signed.

``damaged`` is every way to spoil a bundle that the checkers have to notice; ``hostile`` is what an attacker makes with
other keys and signs whatever helps.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Literal, NamedTuple

from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from tests.support.entries import make_credit, make_receipt
from trustgate.receipts.bundle import Label, make_bundle
from trustgate.receipts.checkpoint import Checkpoint, sign_checkpoint
from trustgate.receipts.logkey import LogKey
from trustgate.receipts.merkle import build_proof, inclusion_path
from trustgate.receipts.note import VerifierKey
from trustgate.receipts.proof import InclusionProof, format_proof
from trustgate.receipts.receipt import canonical, commitment, leaf_hash, salt
from trustgate.receipts.tiles import Edge, TileId, hash_in_tiles
from trustgate.types import (
    RECEIPT_END_USER_MEMBERS,
    RECEIPT_PAYMENT_MEMBERS,
    RECEIPT_PRICE_MEMBERS,
    RECEIPT_WORK_MEMBERS,
    Receipt,
)

MEMO_PROGRAM = "MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr"
#: Takes no text, but that is for a chain to find.
COMPUTE_BUDGET_PROGRAM = "ComputeBudget111111111111111111111111111111"
MEMO_PROGRAM_V1 = "Memo1UhkJRfHyvLMcVucJwxXeuD728EqVDDwQDxFMNo"

REQUEST = '{"model":"gpt-4o","messages":[{"role":"user","content":"Grüße?"}]}\n'.encode()
RESPONSE = b'{"choices":[{"message":{"content":"Yes."}}]}'


class Damage(NamedTuple):
    name: str
    data: bytes


class Hostile(NamedTuple):
    name: str
    data: bytes
    #: The check that has to refuse it.
    check: str


class SampleLog:
    """A log with ``size`` receipts, the same each time; one of them for REQUEST and RESPONSE.

    ``forged``: the members, whatever they are, that the log has and vouches for in that receipt's place.
    """

    def __init__(
        self,
        size: int = 300,
        index: int = 123,
        origin: str = "log.example/tests",
        forged: Mapping[str, Any] | None = None,
        **members: Any,
    ) -> None:
        self.size, self.index, self.forged = size, index, forged
        self.key = LogKey(origin, hashlib.sha256(b"log").digest())
        self.payer = Keypair.from_seed(hashlib.sha256(b"payer").digest())
        self.secret = hashlib.sha256(b"secret").digest()
        self.receipt = self._receipt(**members)
        leaves = [leaf_hash(make_receipt(number, id=f"rcpt_{number}")) for number in range(1, size + 1)]
        leaves[index] = (
            leaf_hash(self.receipt) if forged is None else hashlib.sha256(b"\0" + _canonical(forged)).digest()
        )
        edge = Edge()
        tiles = {tile.id: tile.hashes for tile in edge.append(leaves)}
        partials = {level: edge.partial(level) for level in range(8)}
        tiles |= {TileId(level, (size >> (8 * level)) // 256): found for level, found in partials.items() if found}
        self.hashes = build_proof(inclusion_path(index, size), lambda subtree: hash_in_tiles(subtree, tiles))
        self.root = edge.root()
        self.note = sign_checkpoint(Checkpoint(origin, size, self.root), self.key)

    def _receipt(self, **members: Any) -> Receipt:
        commitments = {
            f"{label}_commitment": commitment(self.secret, label, hashlib.sha256(content).digest())
            for label, content in CONTENTS.items()
        }
        defaults = {"id": "rcpt_sample", "model": 'gpt-4o "ü" \U0001f600 \x07', **commitments}
        return make_receipt(self.index + 1, **{**defaults, **members})

    @property
    def verifier(self) -> VerifierKey:
        return self.key.verifier

    @property
    def vkey(self) -> str:
        return str(self.key.verifier)

    @property
    def fee_payer(self) -> str:
        return str(self.payer.pubkey())

    @cached_property
    def proof(self) -> bytes:
        return format_proof(InclusionProof(index=self.index, hashes=tuple(self.hashes), checkpoint=self.note))

    def anchor(self, *memos: bytes, version: Literal["legacy", 0] = 0, program: str = MEMO_PROGRAM) -> bytes:
        """A signed transaction whose memo is the checkpoint, or these memos."""
        instructions = [set_compute_unit_limit(100_000), set_compute_unit_price(1_000)]
        instructions += [Instruction(Pubkey.from_string(program), memo, []) for memo in memos or (self.note,)]
        payer, blockhash = self.payer.pubkey(), Hash(hashlib.sha256(b"blockhash").digest())
        message: Message | MessageV0
        if version == "legacy":
            message = Message.new_with_blockhash(instructions, payer, blockhash)
        else:
            message = MessageV0.try_compile(payer, instructions, [], blockhash)
        return bytes(VersionedTransaction(message, [self.payer]))

    def signed(self, message: bytes) -> bytes:
        """Any bytes at all as the message of a transaction, signed by the fee payer."""
        return b"\x01" + bytes(self.payer.sign_message(message)) + message

    def bundle(
        self,
        *,
        anchor: bytes | Literal["own"] | None = "own",
        disclose: tuple[Label, ...] = ("request", "response"),
        **changed: Any,
    ) -> bytes:
        """The sample receipt's bundle. ``changed``: other arguments for ``make_bundle``."""
        arguments: dict[str, Any] = {
            "receipt": self.receipt if self.forged is None else self.forged,
            "proof": self.proof,
            "salts": {label: salt(self.secret, label) for label in disclose},
            "vkey": self.vkey,
            "anchor": self.anchor() if anchor == "own" else anchor,
        }
        return make_bundle(**{**arguments, **changed})


CONTENTS: Mapping[Label, bytes] = {"request": REQUEST, "response": RESPONSE}


def damaged(bundle: bytes) -> Iterator[Damage]:
    """Bundles with one thing wrong each: every value changed, every member missing, doubled or in company.

    Values keep their type. Texts that have parts (proof, key, transaction) are damaged in every part. To notice a
    changed salt, a checker needs the contents.
    """
    document = json.loads(bundle)
    for path, value in _leaves(document):
        name = ".".join(path)
        for number, changed in enumerate(_changed(path, value)):
            yield Damage(f"{name} changed ({number})", _written(document, path, changed))
    for path in _members(document):
        name = ".".join(path)
        yield Damage(f"{name} missing", _without(document, path))
        if path != ("anchor",):  # which says that there is none, and is not damaged
            yield Damage(f"{name} null", _written(document, path, None))
        yield Damage(f"{name} an object", _written(document, path, {}))
        yield Damage(f"{name} twice", _doubled(document, path))
    for path in ((), ("receipt",), ("salts",)):
        for extra in ("extra", "__proto__", "0"):
            yield Damage(f"{extra} in {path}", _written(document, (*path, extra), "x"))
    others = {*RECEIPT_PAYMENT_MEMBERS, *RECEIPT_PRICE_MEMBERS, *RECEIPT_END_USER_MEMBERS, *RECEIPT_WORK_MEMBERS}
    for name in sorted(others - document["receipt"].keys()):
        is_count = "nano" in name or name in RECEIPT_WORK_MEMBERS
        yield Damage(f"{name}, of another version", _written(document, ("receipt", name), 0 if is_count else ""))
    yield from _damaged_text(bundle)


def hostile(log: SampleLog) -> Iterator[Hostile]:
    """Bundles whose every signature holds, and which still have to be refused, whatever key is expected."""
    body = log.note.decode().rpartition("\n\n")[0] + "\n"
    for number, vkey in enumerate(_bad_keys(log)):
        name, key_hash = vkey.split("+")[:2]
        note = f"{body}\n— {name} {_encoded(bytes.fromhex(key_hash) + _sign(log, body))}\n".encode()
        signed = log.proof.replace(log.note, note)
        yield Hostile(f"key {number}", log.bundle(vkey=vkey, proof=signed, anchor=log.anchor(note)), "checkpoint")
    for number, note in enumerate(_bad_notes(log)):
        proof = log.proof.replace(log.note, note)
        assert proof != log.proof
        yield Hostile(f"note {number}", log.bundle(proof=proof, anchor=log.anchor(note)), "checkpoint")
    header, index, *hashes = log.proof.removesuffix(b"\n\n" + log.note).split(b"\n")
    for name, lines, check in (
        ("extra data", [header, b"extra cGFpZA==", index, *hashes], "proof"),
        ("too many hashes for any tree", [header, index, *hashes * 10], "proof"),
        ("no index", [header, *hashes], "proof"),
        ("an index beyond all trees", [header, b"index 9223372036854775807", *hashes], "proof"),
        ("an index with a leading zero", [header, b"index 0%d" % log.index, *hashes], "proof"),
        ("an index beyond the tree", [header, b"index %d" % log.size, *hashes], "inclusion"),
        ("one hash too many", [header, index, *hashes, hashes[-1]], "inclusion"),
        ("one hash too few", [header, index, *hashes[:-1]], "inclusion"),
    ):
        yield Hostile(f"proof: {name}", log.bundle(proof=b"\n".join(lines) + b"\n\n" + log.note), check)
    yield Hostile("proof: no checkpoint", log.bundle(proof=b"\n".join([header, index, *hashes]) + b"\n\n"), "proof")
    # Whatever the index, the one leaf's hash is the root.
    one = SampleLog(1, 0)
    wrong = one.proof.replace(b"index 0", b"index 5")
    yield Hostile("an index beyond a tree of one", one.bundle(proof=wrong), "inclusion")
    for name, memos in (
        ("none", (b"hello",)),
        ("two", (log.note, log.note)),
        ("another besides", (b"hello", log.note)),
        ("cut short", (log.note[:-1],)),
        ("of an earlier state", (SampleLog(299).note,)),
    ):
        yield Hostile(f"memo: {name}", log.bundle(anchor=log.anchor(*memos)), "anchor memo")
    yield Hostile("no memo", log.bundle(anchor=log.anchor(program=COMPUTE_BUDGET_PROGRAM)), "anchor memo")
    for name, message in _bad_messages(log):
        yield Hostile(f"transaction: {name}", log.bundle(anchor=log.signed(message)), "anchor transaction")
    for name, members in _bad_receipts():
        yield Hostile(f"receipt: {name}", SampleLog(3, 1, forged=members).bundle(), "receipt")
    unsigned = log.anchor()[65:]
    for name, raw in (
        ("no signature", b"\0" + b"\0" + unsigned[1:]),
        ("a count too long", b"\x81\0" + log.anchor()[1:]),
    ):
        yield Hostile(f"transaction: {name}", log.bundle(anchor=raw), "anchor transaction")


def _bad_receipts() -> Iterator[tuple[str, dict[str, Any]]]:
    """Members that a log may vouch for, and that are nevertheless no receipt's of the version they claim."""
    first, second, credit = (
        json.loads(canonical(receipt)) for receipt in (make_receipt(2), make_receipt(2, v=2), make_credit(2))
    )
    for name in RECEIPT_PAYMENT_MEMBERS:
        yield f"version 1 with {name}", {**first, name: second[name]}
        yield f"version 2 without {name}", {member: second[member] for member in second if member != name}
    yield "version 1 with all of version 2", {**second, "v": 1}
    yield "version 2 with those of version 1 alone", {**first, "v": 2}
    yield "version 1 of a credit", {**first, "finish": "credited"}
    yield "version 1 of a credit in all but its number", {**credit, "v": 1}
    yield "version 2 without one of version 1", {member: second[member] for member in second if member != "stream"}
    yield "version 2 with one of none", {**second, "extra": ""}
    for version in (0, 3, 4, 5, 6, 7, 8, 9, 10, 11, -1, "1", "2", "", True, False):
        yield f"version {version!r}", {**second, "v": version}
    yield "no version", {member: second[member] for member in second if member != "v"}
    for name in ("charged_nano_usd", "credited_nano_usd"):
        for value in (-1, "1", "", True):
            yield f"{name} {value!r}", {**second, name: value}
    for name in RECEIPT_PAYMENT_MEMBERS[2:]:
        for number in (0, False):
            yield f"{name} {number!r}", {**second, name: number}
    third, fourth = (json.loads(canonical(make_receipt(2, v=version))) for version in (3, 4))
    for name in RECEIPT_PRICE_MEMBERS:
        yield f"version 1 with {name}", {**first, name: third[name]}
        for receipt in (third, fourth):
            lacking = {member: receipt[member] for member in receipt if member != name}
            yield f"version {receipt['v']} without {name}", lacking
        wrong = 1 if isinstance(third[name], bool | str) else True
        yield f"{name} {wrong!r}", {**third, name: wrong}
    fifth, sixth = (json.loads(canonical(make_receipt(2, v=version))) for version in (5, 6))
    for receipt in (first, second, third, fourth):
        yield f"version {receipt['v']} with end_user", {**receipt, "end_user": fifth["end_user"]}
    yield "version 5 without end_user", {**third, "v": 5}
    yield "version 6 without end_user", {**fourth, "v": 6}
    yield "version 5 with members of version 6", {**sixth, "v": 5}
    seventh, tenth = (json.loads(canonical(make_receipt(2, v=version))) for version in (7, 10))
    for name in RECEIPT_WORK_MEMBERS:
        yield f"version 3 with {name}", {**third, name: 0}
        for receipt in (seventh, tenth):
            lacking = {member: receipt[member] for member in receipt if member != name}
            yield f"version {receipt['v']} without {name}", lacking
        for value in (True, "1", -1):
            yield f"{name} {value!r}", {**seventh, name: value}
    yield "version 7 with members of version 10", {**tenth, "v": 7}
    yield "version 6 with those of version 5 alone", {**fifth, "v": 6}
    yield "version 5 of a credit", {**fifth, "finish": "credited"}
    for wrong_user in (0, True):
        yield f"end_user {wrong_user!r}", {**fifth, "end_user": wrong_user}
    yield "version 3 with members of version 4", {**fourth, "v": 3}
    yield "version 4 with those of version 3 alone", {**third, "v": 4}
    yield "version 3 of a credit", {**third, "finish": "credited"}
    for amount in ("-1", "+1", "1.0", "1e6", "0x1", " 1", "1\n", "1_000", "\u0661", "\uff11", "one"):
        yield f"payment_amount {amount!r}", {**second, "payment_amount": amount}


def _canonical(members: Mapping[str, Any]) -> bytes:
    return json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _bad_keys(log: SampleLog) -> Iterator[str]:
    name, key_hash, encoded = log.vkey.split("+", 2)
    material = base64.b64decode(encoded)
    yield f"{name}+{key_hash}"
    yield f"{name}+00000000+{encoded}"
    yield f"{name}+{key_hash.upper()}+{encoded}"
    for other_name, other in (
        (name, b"\x04" + material[1:]),
        (name, material + b"\0"),
        ("a b", material),
        ("", material),
    ):
        digest = hashlib.sha256(other_name.encode() + b"\n" + other).hexdigest()
        yield f"{other_name}+{digest[:8]}+{base64.b64encode(other).decode()}"


def _bad_notes(log: SampleLog) -> Iterator[bytes]:
    """Signed by the log's own key, or under its name, and yet not its checkpoint."""
    text, _, signature = log.note.decode().rpartition("\n\n")
    origin, size, root = text.split("\n")
    for lines in (
        ("other.example/log", size, root),
        (origin, "0" + size, root),
        (origin, "9223372036854775808", root),
        (origin, size, root[:-1]),
        (origin, size, "AAAA"),
        (origin, size),
        (origin, size, root, "", "more"),
        (origin, size, root, "tab\there"),
    ):
        body = "\n".join(lines) + "\n"
        own = f"— {origin} {_encoded(log.verifier.key_hash + _sign(log, body))}"
        yield f"{body}\n{own}\n".encode()
    yield f"{text}\n\n".encode()
    yield f"{text}\n\n{signature}no signature\n".encode()
    yield f"{text}\n\n{signature * 101}".encode()
    yield f"{text}\n\n{signature}".removesuffix("\n").encode()
    # A second signature that claims to be the log's has to hold too.
    yield f"{text}\n\n{signature}— {origin} {_encoded(log.verifier.key_hash + bytes(64))}\n".encode()
    yield f"{text}\n\n— {origin} {_encoded(log.verifier.key_hash + _sign(log, text + chr(10))[:63])}\n".encode()


def _bad_messages(log: SampleLog) -> Iterator[tuple[str, bytes]]:
    """Version 0 messages that no validator takes, made of the good one: version, header, keys, blockhash and so on."""
    good = log.anchor()[65:]
    program_at = len(good) - len(log.note) - 5
    assert good[:5] == b"\x80\x01\x00\x02\x03" and good[program_at] in (1, 2)
    yield "version 1", b"\x81" + good[1:]
    yield "two signers asked for", good[:1] + b"\x02\x00\x01" + good[4:]
    yield "no signer that may pay", good[:2] + b"\x01" + good[3:]
    yield "more read-only accounts than there are", good[:3] + b"\x03" + good[4:]
    yield "an account twice", good[:37] + good[5:37] + good[69:]
    yield "the fee payer as a program", good[:program_at] + b"\x00" + good[program_at + 1 :]
    yield "a program that is not there", good[:program_at] + b"\x09" + good[program_at + 1 :]
    yield "an account that is not there", _with_account(good, program_at, 9)
    yield "a table that nothing is taken from", good[:-1] + b"\x01" + bytes(32) + b"\0\0"
    yield "more accounts than can be named", good[:-1] + b"\x01" + bytes(32) + b"\xfe\x01" + bytes(254) + b"\0"
    yield "bytes after its end", good + b"\0"
    yield "an end too soon", good[:-1]
    long = log.anchor(log.note, bytes(900))[65:]
    assert len(long) + 65 > 1232
    yield "too long", long


def _with_account(message: bytes, program_at: int, account: int) -> bytes:
    """The message whose last instruction is given one account."""
    assert message[program_at + 1] == 0
    return message[: program_at + 1] + bytes([1, account]) + message[program_at + 2 :]


def _sign(log: SampleLog, body: str) -> bytes:
    keypair = Keypair.from_seed(hashlib.sha256(b"log").digest())
    assert bytes(keypair.pubkey()) == log.verifier.public_key
    return bytes(keypair.sign_message(body.encode()))


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _leaves(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _leaves(value, (*path, name))
    else:
        yield path, node


def _members(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield (*path, name)
            yield from _members(value, (*path, name))


def _changed(path: tuple[str, ...], value: Any) -> Iterator[Any]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value - 1, -value - 1, 2**53 + 2)
    elif path == ("anchor",):
        raw = base64.b64decode(value)
        for at in range(0, len(raw), 7):
            yield base64.b64encode(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]).decode()
        yield from (base64.b64encode(raw[:-1]).decode(), base64.b64encode(raw + b"\0").decode(), value[:-1], "")
    elif isinstance(value, str):
        for at in sorted({0, len(value) // 2, len(value) - 1, *range(0, len(value), 25)}):
            yield value[:at] + _other(value[at]) + value[at + 1 :]
        yield from (other for other in ("", value + "x", value + "\n", value.swapcase()) if other != value)
        lines = value.splitlines(keepends=True)
        yield from ("".join(lines[:at] + lines[at + 1 :]) for at in range(len(lines)))


def _other(character: str) -> str:
    """Another character of the same kind, so that only its meaning can be wrong."""
    for kind in ("0123456789", "abcdef", "ghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"):
        if character in kind:
            return kind[(kind.index(character) + 1) % len(kind)]
    return "." if character != "." else "-"


def _parent(document: Any, path: tuple[str, ...]) -> tuple[Any, Any]:
    """A copy of the document, and the object in it that has the member ``path``."""
    changed = parent = copy.deepcopy(document)
    for name in path[:-1]:
        parent = parent[name]
    return changed, parent


def _written(document: Any, path: tuple[str, ...], value: Any) -> bytes:
    changed, parent = _parent(document, path)
    parent[path[-1]] = value
    return _text(changed)


def _without(document: Any, path: tuple[str, ...]) -> bytes:
    changed, parent = _parent(document, path)
    del parent[path[-1]]
    return _text(changed)


def _doubled(document: Any, path: tuple[str, ...]) -> bytes:
    """The member once more, with the same value: what one reader takes from the one, another from the other."""
    changed, parent = _parent(document, path)
    parent["\0"] = parent[path[-1]]
    return _text(changed).replace(b'"\\u0000"', json.dumps(path[-1]).encode())


def _text(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()


def _damaged_text(bundle: bytes) -> Iterator[Damage]:
    yield Damage("empty", b"")
    yield Damage("cut short", bundle[:-3])
    yield Damage("something after it", bundle + b"{}")
    yield Damage("a byte order mark before it", b"\xef\xbb\xbf" + bundle)
    yield Damage("not UTF-8", bundle.replace("ü".encode(), b"\xfc"))
    yield Damage("a character written as an escape", bundle.replace("ü".encode(), b"\\u00fc"))
    yield Damage("half a surrogate pair", bundle.replace("ü".encode(), b"\\ud83d"))
    yield Damage("a number with a fraction", bundle.replace(b'"status": 200', b'"status": 200.0'))
    yield Damage("a number with an exponent", bundle.replace(b'"status": 200', b'"status": 2e2'))
    yield Damage("a number no reader keeps", bundle.replace(b'"status": 200', b'"status": 9007199254740993'))
    yield Damage("a number beyond all bounds", bundle.replace(b'"status": 200', b'"status": 1e999'))
    yield Damage("minus nothing", bundle.replace(b'"status": 200', b'"status": -0'))
    yield Damage("a blank that is none", bundle.replace(b'"status": 200', b'"status":\xc2\xa0200'))
    yield Damage("a list", b"[" + bundle + b"]")
    yield Damage("null", b"null")
    yield Damage("nested without end", b'{"format":' * 100_000)
    yield Damage("nested deeply", b"[" * 100_000 + b"]" * 100_000)
    yield Damage("too long", bundle + b" " * 1024 * 1024)
