"""Statements for tests, and every way to spoil one. ``resealed`` gives a changed document its right hash again."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tests.support.bundles import SampleLog
from tests.support.month import MONTHS, Row, fill
from trustgate.admin.local import open_local_admin
from trustgate.admin.money import StatementExport
from trustgate.receipts.bundle import receipt_of
from trustgate.receipts.checkpoint import Checkpoint, sign_checkpoint
from trustgate.receipts.logkey import LogKey, load_log_key
from trustgate.receipts.merkle import root_of
from trustgate.receipts.receipt import leaf_hash
from trustgate.receipts.tree import Tree
from trustgate.settings import Settings
from trustgate.statements.account import Adding
from trustgate.statements.document import table_hash
from trustgate.statements.months import parse_month
from trustgate.store import open_store
from trustgate.types import Anchor, AnchorAttempt, Receipt

Document = dict[str, Any]


class Made(NamedTuple):
    """Statements by tenant (0, 1, 2) and month (``2026-10``), as they were written."""

    statements: dict[tuple[int, str], bytes]
    key: str
    fee_payer: str


async def make(home: Path, made: list[Row], *, anchored: int) -> Made:
    """Fill a home, anchor its first receipts (``anchored``; 0 for none), and make every statement."""
    await fill(home, made)
    settings = Settings(home=home)
    found: dict[tuple[int, str], bytes] = {}
    for then in (False, True):
        admin = await open_local_admin(settings)
        if then:
            for tenant in range(3):
                for month in MONTHS:
                    found[tenant, str(month)] = await _exported(admin, tenant, str(month))
        else:
            await _exported(admin, 0, str(MONTHS[0]))  # names the log
        await admin.close()
        if not then and anchored:
            await _anchor(home, anchored)
    return Made(found, json.loads(found[0, str(MONTHS[0])])["key"], SampleLog(1, 0).fee_payer)


async def _exported(admin: Any, tenant: int, month: str) -> bytes:
    pieces: list[bytes] = []

    async def write(data: bytes) -> None:
        pieces.append(data)

    await admin.feed(StatementExport(tenant=f"tenant_{tenant}", month=month, issuer="Our gateway"), write)
    return b"".join(pieces)


async def _anchor(home: Path, size: int) -> None:
    store = await open_store(home / "trustgate.duckdb")
    root = await (await Tree.open(store)).root_at(size)
    key = load_log_key(home / "log.key")
    note = sign_checkpoint(Checkpoint(key.name, size, root), key)
    payer = SampleLog(1, 0)
    attempt = AnchorAttempt(
        signature="sig", transaction=payer.anchor(note), last_valid_block_height=1, created_us=1, outcome="final"
    )
    await store.put(
        Anchor(
            id="anchor_1",
            state="anchored",
            genesis="genesis",
            fee_payer=payer.fee_payer,
            tree_size=size,
            root=root.hex(),
            note=note.decode(),
            created_us=1,
            attempts=(attempt,),
            signature="sig",
        )
    )
    await store.close()


def written(document: Document) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()


def resealed(document: Document) -> bytes:
    """The document with the hash that it has now: what a forger does who knows the format."""
    bare = {name: value for name, value in document.items() if name != "sha256"}
    canonical = json.dumps(bare, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return written({**bare, "sha256": hashlib.sha256(canonical.encode()).hexdigest()})


#: Who owns this log's key can write what they like into it.
FORGED_LOG = LogKey("log.example/forged", hashlib.sha256(b"forged").digest())


def forged(
    statement: bytes, change: Callable[[list[Document]], object], *, opening_nano_usd: int | None = None
) -> bytes:
    """The statement by the owner of a log's key who writes other receipts: chained, added up, proven and signed.

    ``opening_nano_usd``: the opening balance; None: the statement's own.
    """
    document: Document = json.loads(statement)
    members, account = document["receipts"], document["account"]
    change(members)
    receipts: list[Receipt] = []
    for at, each in enumerate(members):
        if at:
            each["tprev"] = leaf_hash(receipts[-1]).hex()
        receipts.append(receipt_of(each))
    adding = Adding(account["tenant"], parse_month(account["month"]))
    for receipt in receipts:
        adding.add(receipt)
    opening = account["opening_nano_usd"] if opening_nano_usd is None else opening_nano_usd
    sums = adding.account(opening_nano_usd=opening, issued_us=account["issued_us"])
    named = {each["price_hash"] for each in members}
    checkpoint = Checkpoint(FORGED_LOG.name, len(receipts), root_of([leaf_hash(receipt) for receipt in receipts]))
    document |= {
        "account": msgspec.to_builtins(sums),
        "anchor": None,
        "checkpoint": sign_checkpoint(checkpoint, FORGED_LOG).decode(),
        "key": str(FORGED_LOG.verifier),
        "leaves": list(range(len(receipts))),
        "prices": {name: table for name, table in document["prices"].items() if name in named},
        "proof": [],
    }
    return resealed(document)


def forged_table(statement: bytes, members: Document) -> bytes:
    """As ``forged``, with these members in the price table of the first receipt that has one in the file."""
    prices: Document = json.loads(statement)["prices"]
    table: Document = {}

    def change(receipts: list[Document]) -> None:
        before = next(each["price_hash"] for each in receipts if each["price_hash"] in prices)
        table.update(prices[before] | members)
        for each in receipts:
            if each["price_hash"] == before:
                each["price_hash"] = table_hash(table)

    document: Document = json.loads(forged(statement, change))
    document["prices"][table_hash(table)] = table
    return resealed(document)


class Tampering(NamedTuple):
    """A changed statement: the check that has to fail, and what its detail has to name."""

    name: str
    data: bytes
    check: str
    place: str


def tampered(statement: bytes, other_tenant: bytes, other_month: bytes, other_log: bytes) -> Iterator[Tampering]:
    """One thing wrong each, the hash right again."""
    document = json.loads(statement)

    def changed(name: str, change: Callable[[Document], object], check: str, place: str) -> Tampering:
        forged = copy.deepcopy(document)
        change(forged)
        assert forged != document, name
        return Tampering(name, resealed(forged), check, place)

    yield Tampering(
        "a number, and the hash left", statement.replace(b'"requests":', b'"requests":1', 1), "hash", "SHA-256"
    )
    yield from _changed_sums(document, changed)
    yield from _changed_receipts(document, changed, json.loads(other_tenant))
    yield from _changed_log(document, changed, json.loads(other_month), json.loads(other_log))


Changed = Callable[[str, Callable[[Document], object], str, str], Tampering]


def _changed_sums(document: Document, changed: Changed) -> Iterator[Tampering]:
    """Every number of the account, and every text in its lines."""
    account = document["account"]
    for path in _leaves(account):
        place = "account" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
        if place in ("account.tenant", "account.issued_us"):
            continue

        value = account
        for part in path:
            value = value[part]
        wrong = value + 1 if isinstance(value, int) else f"{value}x"
        if path[-1] == "kind":
            wrong = "credit" if value == "payment" else "payment"
        change = _set(("account", *path), wrong)
        check = {"account.from_us": "period", "account.until_us": "period", "account.month": "period"}.get(
            place, "sums"
        )
        if place == "account.opening_nano_usd":
            place = "account.closing_nano_usd"  # which no longer follows from it
        yield changed(f"{place} changed", change, check, "" if place.endswith("month") else place)
    for name in ("by_model", "by_key", "by_price", "money"):
        if account[name]:
            lines = account[name]
            for what, other in (("lacks a line", lines[:-1]), ("has a line twice", [*lines, lines[-1]])):
                yield changed(f"{name} {what}", _set(("account", name), other), "sums", name)
    yield changed("account.tenant changed", lambda d: d["account"].update(tenant="tenant_9"), "receipts", "tenant_9")


def _changed_receipts(document: Document, changed: Changed, other: Document) -> Iterator[Tampering]:
    receipts = document["receipts"]
    middle = next(at for at, each in enumerate(receipts) if each["cost_nano_usd"] and 2 < at < len(receipts) - 2)
    number = str(receipts[middle]["tseq"])
    for name, value in receipts[middle].items():
        if name in ("v", "finish", "usage_source"):
            continue
        wrong: Any = f"{'0' if str(value)[:1] != '0' else '1'}{str(value)[1:]}"
        if isinstance(value, int):
            wrong = not value if isinstance(value, bool) else value + 1
        check = "receipts" if name == "tenant" else "chain"
        place = "" if name in ("tenant", "tseq") else number
        yield changed(f"receipt's {name} changed", _set(("receipts", middle, name), wrong), check, place)

    def without(d: Document, at: int) -> None:
        del d["receipts"][at], d["leaves"][at]

    yield changed("a receipt left out", lambda d: without(d, middle), "chain", str(receipts[middle]["tseq"] + 1))
    yield changed("a receipt twice", lambda d: d["receipts"].insert(middle, receipts[middle]), "chain", number)
    yield changed(
        "another tenant's receipt in a receipt's place",
        lambda d: d["receipts"].__setitem__(middle, other["receipts"][3]),
        "receipts",
        other["account"]["tenant"],
    )
    yield changed("two receipts exchanged", lambda d: _exchange(d["receipts"], middle), "chain", "")
    yield changed("the last receipt changed", lambda d: d["receipts"][-1].update(status=599), "inclusion", "root")
    yield changed("a receipt's member missing", lambda d: d["receipts"][middle].pop("model"), "receipts", "model")
    yield changed("a receipt's member too many", lambda d: d["receipts"][middle].update(x=1), "receipts", "'x'")


def _changed_log(document: Document, changed: Changed, month: Document, log: Document) -> Iterator[Tampering]:
    def other_byte(text: str) -> str:
        data = bytearray(base64.b64decode(text))
        data[len(data) // 2] ^= 1
        return base64.b64encode(bytes(data)).decode()

    def beginning(d: Document) -> None:
        """The receipts from the second of the month on, as if the month began there."""
        first = next(at for at, each in enumerate(d["receipts"]) if each["created_us"] >= d["account"]["from_us"]) + 1
        d["receipts"], d["leaves"] = d["receipts"][first:], d["leaves"][first:]

    yield changed("the beginning cut off", beginning, "period", "left out")
    yield changed("the end cut off", lambda d: (d["receipts"].pop(), d["leaves"].pop()), "inclusion", "more")
    yield changed("receipts of another month", lambda d: d.update(receipts=month["receipts"]), "period", "left out")
    yield changed("the period moved", lambda d: d["account"].update(from_us=1), "period", "account.from_us")
    yield changed("another month's account", lambda d: d.update(account=month["account"]), "sums", "account.receipts")
    yield changed("a leaf's place", lambda d: d["leaves"].__setitem__(-1, d["leaves"][-1] + 1), "inclusion", "")
    yield changed(
        "a hash of the proof", lambda d: d["proof"].__setitem__(0, other_byte(d["proof"][0])), "inclusion", ""
    )
    yield changed("a hash cut short", lambda d: d["proof"].__setitem__(0, d["proof"][0][4:]), "inclusion", "Number 1 ")
    yield changed("a hash too few", lambda d: d["proof"].pop(), "inclusion", "few")
    yield changed("a hash too many", lambda d: d["proof"].append(d["proof"][0]), "inclusion", "more")
    yield changed("the checkpoint of another log", lambda d: d.update(checkpoint=log["checkpoint"]), "checkpoint", "")
    yield changed(
        "another log's checkpoint and key",
        lambda d: d.update(checkpoint=log["checkpoint"], key=log["key"]),
        "inclusion",
        "",
    )
    yield changed(
        "the checkpoint's size",
        lambda d: d.update(checkpoint=d["checkpoint"].replace("\n", "\n1", 1)),
        "checkpoint",
        "",
    )
    table = max(document["prices"])
    yield changed(
        "a price",
        lambda d: d["prices"][table].update(output_pico_usd=d["prices"][table]["output_pico_usd"] + 1),
        "prices",
        table,
    )
    free: Document = {"free": True}
    yield changed("another price", lambda d: d["prices"].update({"a" * 64: free}), "prices", "aaaa")
    yield changed("a price for nothing", lambda d: d["prices"].update({table_hash(free): free}), "prices", "No receipt")
    if document["anchor"] is not None:
        anchor = document["anchor"]
        yield changed(
            "the anchor's transaction",
            lambda d: d["anchor"].update(transaction=other_byte(anchor["transaction"])),
            "anchor signature",
            "",
        )
        yield changed(
            "the anchor of another log",
            lambda d: d["anchor"].update(checkpoint=log["checkpoint"]),
            "anchor consistency",
            "",
        )
        yield changed(
            "the anchor's proof",
            lambda d: d["anchor"].update(consistency=[*anchor["consistency"], document["proof"][0]]),
            "anchor consistency",
            "",
        )


def _exchange(values: list[Any], at: int) -> None:
    values[at], values[at + 1] = values[at + 1], values[at]


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for name, member in value.items():
            yield from _leaves(member, (*path, name))
    elif isinstance(value, list):
        for at, member in enumerate(value):
            yield from _leaves(member, (*path, at))
    else:
        yield path


def _set(path: tuple[Any, ...], value: Any) -> Callable[[Document], None]:
    """Returns what puts a value in its place in a document."""

    def change(document: Document) -> None:
        at: Any = document
        for part in path[:-1]:
            at = at[part]
        at[path[-1]] = value

    return change
