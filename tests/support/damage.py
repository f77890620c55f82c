"""A home that was killed in its work, what can happen to its files, and what a start makes of each.

``python -m tests.support.damage`` writes the table of it into ``examples/reference/damage.md``; the tests hold it
against what happens.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import duckdb
import httpx

from tests.support.gateway import Gateway
from tests.support.old_receipts import fill
from tests.support.processes import PATIENCE_S, clean_environment
from trustgate.receipts.segment import HEADER_BYTES

PAGE = Path(__file__).resolve().parents[2] / "examples" / "reference" / "damage.md"
_TABLE = re.compile(r"(<!-- table: .*? -->\n).*?(<!-- end of table -->)", re.DOTALL)
_ECHO = {"model": "trustgate/echo", "messages": [{"role": "user", "content": "Hello!"}]}
_STRANGER = 65_534
#: Of February; a tile of 256 and some that stay in the database.
_OLD_RECEIPTS = 300

#: Claims a payment and dies, so that it is in the write-ahead log alone.
_PAY = """
import asyncio, os, sys
from pathlib import Path
from tests.support.payments import evm_payload, evm_requirements, payment_of
from trustgate.store import open_store
async def main():
    store = await open_store(Path(sys.argv[1]))
    await store.claim_payment(payment_of(evm_payload(evm_requirements()), evm_requirements(), state="failed"))
    os._exit(0)
asyncio.run(main())
"""

#: Gives up the right to read and write whatever there is (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH), if it has that.
_AS_A_USER = """
import ctypes, os, sys
for capability in (1, 2):
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""

FILES = {
    "trustgate.duckdb": "trustgate.duckdb",
    "trustgate.duckdb.wal": "trustgate.duckdb.wal",
    "trustgate.duckdb.wal, with payments in it": "trustgate.duckdb.wal",
    "trustgate.duckdb.changes": "trustgate.duckdb.changes",
    "trustgate.duckdb.mark": "trustgate.duckdb.mark",
    "journal/ (all of it)": "journal",
    "journal/…0001.journal": "journal/00000000000000000001.journal",
    "journal.mark": "journal.mark",
    "checkpoint": "checkpoint",
    "log.key": "log.key",
    "handles.jsonl": "handles.jsonl",
    "archive/….parquet, receipts moved out of the database": "archive/*",
}
#: Homes by what is in them: the file in a row's name decides which of them it is of.
HOMES = ("plain", "payments", "archive")


class Home(NamedTuple):
    """A home folder, and what its users were promised."""

    folder: Path
    #: An older state of the same home.
    old: Path
    receipts: int
    revoked: str
    newcomer: str
    payments: int


def home_of(file: str) -> str:
    """Returns which of ``HOMES`` the rows of a file are of."""
    return next((home for home in HOMES[1:] if home in file), HOMES[0])


def make_home(at: Path, what: str) -> Home:
    """Serve, stop; serve again, let a tenant come and a key be revoked, answer 30 requests; kill -9.

    ``what``: one of ``HOMES``. One has a payment in the write-ahead log alone, one has old receipts in an archive file.
    """
    gateway = Gateway(at / "home")
    if what == "archive":
        added = gateway.cli_json("tenant", "add", "old", "--plan", "internal")
        fill(gateway.home, _OLD_RECEIPTS, [(added["tenant"]["id"], added["key"]["id"])])
        gateway.cli("archive", "--before", "2026-08")
    gateway.start()
    first = gateway.add_tenant("first")
    ask(gateway, first, 3)
    assert gateway.stop() == 0
    shutil.copytree(gateway.home, at / "old")
    gateway.start()
    newcomer = gateway.add_tenant("newcomer")
    ask(gateway, newcomer, 30)
    gateway.cli("usage")  # which waits until every receipt is in the database
    key = gateway.cli_json("key", "list", "first")["keys"][0]["id"]
    gateway.cli("key", "revoke", key)
    gateway.kill()
    if what == "payments":
        command = [sys.executable, "-c", _PAY, str(gateway.home / "trustgate.duckdb")]
        subprocess.run(command, check=True, cwd=PAGE.parents[2], env={**os.environ}, timeout=PATIENCE_S)
    return Home(gateway.home, at / "old", 33, first, newcomer, int(what == "payments"))


def ask(gateway: Gateway, key: str, count: int) -> list[int]:
    with httpx.Client(headers={"authorization": f"Bearer {key}"}, trust_env=False, timeout=30) as client:
        return [client.post(f"{gateway.api_url}/chat/completions", json=_ECHO).status_code for _ in range(count)]


def _flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x55
    path.write_bytes(data)


def _last_used(path: Path) -> int:
    """The length without the zeros at the end."""
    return len(path.read_bytes().rstrip(b"\0"))


def _remove(path: Path, old: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _empty(path: Path, old: Path) -> None:
    path.write_bytes(b"")


def _cut(path: Path, old: Path) -> None:
    os.truncate(path, _last_used(path) // 2)


def _flip_first(path: Path, old: Path) -> None:
    _flip(path, 0)


def _flip_middle(path: Path, old: Path) -> None:
    """In a name where there is one: what a change hits is the same then every time."""
    data = path.read_bytes()
    found = max(data.find(name) for name in (b"first", b"newcomer"))
    _flip(path, found if found >= 0 else _last_used(path) // 2)


def _flip_last(path: Path, old: Path) -> None:
    _flip(path, _last_used(path) - 2)


def _zero(path: Path, old: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _put_old(path: Path, old: Path) -> None:
    if not old.exists():
        return
    if path.is_dir():
        shutil.rmtree(path)
        shutil.copytree(old, path)
    else:
        shutil.copyfile(old, path)


def _read_only(path: Path, old: Path) -> None:
    path.chmod(0o500 if path.is_dir() else 0o400)


def _not_ours(path: Path, old: Path) -> None:
    """A stranger's, or (where this is not root, who alone can give a file away) not readable at all."""
    path.chmod(0o000)
    if os.geteuid() == 0:
        os.chown(path, _STRANGER, _STRANGER)


def _make_newer(path: Path, old: Path) -> None:
    """As a version would leave it that this program does not know."""
    if path.name == "trustgate.duckdb":
        with duckdb.connect(path) as connection:
            connection.execute("UPDATE meta SET schema_version = 99")
    elif path.name.endswith(".changes"):
        body = path.read_bytes().splitlines()[0].partition(b" ")[2].replace(b'"format":1', b'"format":99')
        path.write_bytes(hashlib.sha256(body).hexdigest().encode() + b" " + body + b"\n")
    else:
        data = bytearray(path.read_bytes())
        data[8:12] = (99).to_bytes(4, "little")
        data[HEADER_BYTES - 4 : HEADER_BYTES] = crc32(data[: HEADER_BYTES - 4]).to_bytes(4, "little")
        path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path, Path], None]] = {
    "missing": _remove,
    "empty": _empty,
    "cut in half": _cut,
    "first byte changed": _flip_first,
    "a byte in the middle changed": _flip_middle,
    "a byte at the end changed": _flip_last,
    "zeroed": _zero,
    "an old copy": _put_old,
    "read-only": _read_only,
    "another owner's": _not_ours,
    "a newer version's": _make_newer,
}
_ANOTHER_USER = frozenset({"read-only", "another owner's"})
_HAS_VERSION = frozenset({"trustgate.duckdb", "trustgate.duckdb.changes", "journal/…0001.journal"})
#: What can happen to a folder, and to a file with nothing in it.
_WHOLE = frozenset({"missing", "an old copy", *_ANOTHER_USER})


class Outcome(NamedTuple):
    damage: str
    #: Whether it serves, and what it told or why not, for the table.
    serves: bool
    told: str


def outcomes(home: Home, file: str, at: Path) -> Iterator[Outcome]:
    """What a start makes of each damage to one file. Raises AssertionError where a promise is broken."""
    for damage, inflict in DAMAGES.items():
        path = _path(home.folder, file)
        if damage == "a newer version's" and file not in _HAS_VERSION:
            continue
        if (path.is_dir() or not path.stat().st_size) and damage not in _WHOLE:
            continue
        yield _outcome(home, file, damage, inflict, at)


def _path(folder: Path, file: str) -> Path:
    """Returns where a file of the table is in a home; of an archive the one that there is."""
    name = FILES[file]
    return next(folder.glob(name)) if "*" in name else folder / name


def _outcome(home: Home, file: str, damage: str, inflict: Callable[[Path, Path], None], at: Path) -> Outcome:
    with tempfile.TemporaryDirectory(dir=at) as temporary:
        folder = Path(temporary) / "home"
        shutil.copytree(home.folder, folder, ignore=shutil.ignore_patterns("*.sock"))
        inflict(_path(folder, file), _path(home.old, file))
        if damage in _ANOTHER_USER:
            return _try_as_another(folder, file, damage)
        return _try(home, folder, file, damage)


def _try(home: Home, folder: Path, file: str, damage: str) -> Outcome:
    gateway = Gateway(folder)
    try:
        gateway.start()
    except AssertionError:
        told = gateway.logs()
        assert "Traceback" not in told, told
        return Outcome(damage, False, _refusal(told))
    # What was moved out of the database needs its file; what was not does not.
    limit = str(home.receipts + 10) if home_of(file) == "archive" else "99"
    try:
        promises = {
            "a revoked key is refused": ask(gateway, home.revoked, 1) == [401],
            "a new tenant is served": ask(gateway, home.newcomer, 1) == [200],
            "every receipt is there": len(gateway.cli_json("receipt", "list", "--limit", limit)["receipts"])
            >= home.receipts,
            "every payment is there": len(gateway.cli_json("payment", "list")["payments"]) == home.payments,
        }
        broken = [what for what, is_kept in promises.items() if not is_kept]
        assert not broken, f"{file}, {damage}: not so: {broken}\n{gateway.logs()}"
        books = gateway.cli("doctor", "--books", "--json", check=False)
        report = json.loads(books.stdout)
        if home_of(file) == "archive":
            return Outcome(damage, True, _archive_told(gateway.cli("archive", "--json", check=False).stdout, report))
        assert report["ok"] or home.payments, report
    finally:
        gateway.stop()
    lines = re.findall(r"WARNING \S+?:? (.*)", gateway.logs())
    told = _words(" ".join(line for line in lines if not line.startswith("upstream ")))
    return Outcome(damage, True, told)


def _archive_told(listed: str, report: dict[str, Any]) -> str:
    """Returns what ``trustgate archive`` says of the one file; the books name it where something is wrong with it."""
    (found,) = json.loads(listed)["archives"]
    assert report["ok"] == (not found["problem"]), report
    return f"Nothing at the start. The archive file is {_words(found['problem'])}." if found["problem"] else ""


def _try_as_another(folder: Path, file: str, damage: str) -> Outcome:
    """Start it as a user to whom the modes of files mean something, which they do not to root."""
    command = [sys.executable, "-c", _AS_A_USER, sys.executable, "-m", "trustgate", "--home", str(folder)]
    with subprocess.Popen(
        [*command, "serve", "--port", "0"],
        cwd=PAGE.parents[2],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        first = server.stdout.readline()
        answers = {}
        if "ready" in first and home_of(file) == "archive":
            for name, asked in {"archive": ("archive",), "books": ("doctor", "--books")}.items():
                done = subprocess.run(
                    [*command, *asked, "--json"],
                    cwd=PAGE.parents[2],
                    env=clean_environment(),
                    capture_output=True,
                    check=False,
                )
                answers[name] = done.stdout.decode()
        server.terminate()
        told = server.communicate(timeout=PATIENCE_S)[1]
    assert "Traceback" not in told, told
    if answers:
        return Outcome(damage, True, _archive_told(answers["archive"], json.loads(answers["books"])))
    if "ready" in first:
        return Outcome(damage, True, "")
    return Outcome(damage, False, _refusal(told))


def _refusal(told: str) -> str:
    found = re.search(r"^Error: (.*)\n  (.*)", told, re.MULTILINE)
    assert found is not None, f"a refusal says what it is and what to do next\n{told}"
    return _words(found[1])


def _words(text: str) -> str:
    """Without what is another one each time: paths, times, ids, numbers, and where exactly a change hits."""
    text = re.sub(r"/\S*/home/?", "", text)
    text = re.sub(r"(is damaged|signed with the log's key): .*", r"\1.", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:]+Z", "(time)", text)
    text = re.sub(r"-\d{16}", "-(time)", text)
    return re.sub(r"\b\d+\b", "N", text).strip()


def rows(file: str, found: list[Outcome]) -> str:
    """The rows of the table for one file."""
    lines = []
    for outcome in found:
        told = outcome.told or ("nothing is missing, and there is nothing to tell" if outcome.serves else "")
        lines.append(f"| `{file}` | {outcome.damage} | {'serves' if outcome.serves else 'refuses'} | {told} |\n")
    return "".join(lines)


def published() -> str:
    return PAGE.read_text()


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        at = Path(temporary)
        at.chmod(0o755)
        homes = {}
        for what in HOMES:
            (at / what).mkdir()
            homes[what] = make_home(at / what, what)
        table = "".join(rows(file, list(outcomes(homes[home_of(file)], file, at))) for file in FILES)
    head = "| file | what happened to it | the start | what it says |\n|---|---|---|---|\n"
    PAGE.write_text(_TABLE.sub(lambda found: found[1] + head + table + found[2], published()))


if __name__ == "__main__":
    main()
