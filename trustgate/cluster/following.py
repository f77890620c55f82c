"""The log as every process shows it: tree, tiles and checkpoint, read from the database.

One process gives receipts their places and signs (``cluster.sequencer``); what it has done stands in one row, with the
border of the tree, so that no process hashes receipts again. The others read that row at an interval, and wait for it
where they need more than they have seen. A process without the log's key, or with another's, shows the same.

Owns what a process has seen of the log: the last checkpoint is in a file of its own, and a database that has less than
that is noticed at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trustgate.cluster.database import RETRY_AFTER_S, DatabaseAway, DatabaseConnection, DatabaseSession
from trustgate.errors import HomeUnusable, SettingsError, StoreDamaged, Unavailable, VerificationFailed
from trustgate.formats.durable import write_durably
from trustgate.ids import now_us
from trustgate.receipts.checkpoint import Checkpoint, open_checkpoint
from trustgate.receipts.logkey import LogKey, create_log_key, load_log_key
from trustgate.receipts.merkle import HASH_BYTES
from trustgate.receipts.note import VerifierKey
from trustgate.receipts.publisher import check_anchored
from trustgate.receipts.tiles import Edge, tile_widths
from trustgate.receipts.tree import Tree
from trustgate.store import Store
from trustgate.types import LogName

_logger = logging.getLogger("trustgate.cluster")

#: Wakes the sequencer: receipts, or a checkpoint, are waited for. All schemas of a database share it.
CHANNEL = "trustgate_log"
#: Between two reads of the row where nothing waits for it.
_LOOK_EVERY_S = 0.5
#: How often the row is looked at for receipts that have just been given their places.
_FIRST_LOOKS = 5
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.005, 0.1
#: How long receipts and checkpoints are waited for: longer than another process takes to become the sequencer.
_PATIENCE_LEASES = 2

_ROW = "SELECT size, edge, signed_size, note, signed_us FROM log_state WHERE size > $1 OR signed_us <> $2 OR size = 0"
_SHOW = (
    "INSERT INTO log_state (size, edge) VALUES ($1, $2)"
    " ON CONFLICT (one) DO UPDATE SET size = excluded.size, edge = excluded.edge"
)
#: A sequencer that begins meanwhile may have shown more.
_REACHED = f"{_SHOW} WHERE log_state.size < excluded.size"
_WANT = "UPDATE log_state SET wanted = greatest(wanted, size) RETURNING wanted, signed_size"


def encode_edge(edge: Edge) -> bytes:
    """Returns a tree's border as its row has it: the unfinished tiles, the lowest level first."""
    return b"".join(edge.partial(level) for level, _, _ in tile_widths(edge.size))


def decode_edge(size: int, text: bytes) -> Edge:
    """Returns the border of the tree of ``size``. Raises ``StoreDamaged`` where it does not fit the size."""
    partials, start = {}, 0
    for level, _, width in tile_widths(size):
        partials[level] = text[start : start + width * HASH_BYTES]
        start += width * HASH_BYTES
    try:
        return Edge.resume(size, partials)
    except ValueError as error:
        raise StoreDamaged(
            f"The log's state in the database is damaged: {error}.", hint="Put back a copy of the database."
        ) from None


async def show_edge(connection: DatabaseConnection, edge: Edge) -> None:
    """Write the border that all processes go by. The sequencer's, within its tenure."""
    await connection.execute(_SHOW, edge.size, encode_edge(edge))


class LogIdentity(NamedTuple):
    """The log's name in the database, and this home's part in it."""

    verifier: VerifierKey
    #: The key that signs; None: it is not here.
    key: LogKey | None
    #: Why this process cannot sign; "" where it can.
    unfit: str = ""


async def identify(store: Store, key_file: Path, origin: str) -> LogIdentity:
    """Find the log's key, or make it for a log without a name. The caller lets one process do this at a time.

    Args:
        store: the database.
        key_file: this home's key.
        origin: the log's name by the settings; "": whatever it has.

    Raises:
        HomeUnusable: the key cannot be read or written.
        SettingsError: ``origin`` is not the log's name.
    """
    vkeys = [name.vkey for name in await store.log_names()]
    names = [vkey.partition("+")[0] for vkey in vkeys]
    key = load_log_key(key_file) if key_file.exists() else None  # noqa: ASYNC240 - nothing is served yet
    if not vkeys or (origin and origin not in names):
        if key is None or (origin and key.name != origin and vkeys):
            if key is not None:
                raise SettingsError(
                    f"receipts.origin is {origin}, and {key_file} is the key of {key.name}.",
                    hint=f"To go on as {origin}, another log, move log.key out of {key_file.parent}.",
                )
            key = create_log_key(key_file, origin or f"trustgate-{secrets.token_hex(8)}")
        await store.put(LogName(vkey=str(key.verifier), created_us=now_us()))
        return LogIdentity(key.verifier, key)
    if origin and origin != names[-1]:
        raise SettingsError(
            f"receipts.origin is {origin}, but the log is named {names[-1]}.", hint=f"Set origin to {names[-1]}."
        )
    verifier = VerifierKey.parse(vkeys[-1])
    if key is None:
        return LogIdentity(verifier, None, f"{key_file} is missing; copy it from a home that has it")
    if str(key.verifier) != vkeys[-1]:
        return LogIdentity(verifier, None, f"{key_file} is another log's, of {key.name}")
    return LogIdentity(verifier, key)


class Follower:
    """The log as one process sees it. An ``Archive`` uses it as it uses a ``Publisher`` where one process signs."""

    def __init__(
        self, session: DatabaseSession, identity: LogIdentity, tree: Tree, checkpoint_file: Path, patience_s: float
    ) -> None:
        """Use ``open``."""
        self._session = session
        self._file = checkpoint_file
        self._patience_s = patience_s
        self._kept_size = 0
        self._is_shown = False
        self.identity = identity
        #: As the row has it; it grows as the row does.
        self.tree = tree
        self.checkpoint = Checkpoint(identity.verifier.name, 0, b"")
        #: The signed note of ``checkpoint``, and when it was signed.
        self.note = b""
        self.signed_us = 0
        #: What was amiss when it was opened and could be mended, for people.
        self.notes: tuple[str, ...] = ()

    @classmethod
    async def open(
        cls,
        session: DatabaseSession,
        store: Store,
        identity: LogIdentity,
        *,
        checkpoint_file: Path,
        seen_files: tuple[Path, ...],
        lease_s: float,
    ) -> Follower:
        """Read the log's state, and hold it against what this home has seen of it.

        Args:
            session: a connection for this alone.
            store: tiles are read from it.
            identity: of the log.
            checkpoint_file: where the last checkpoint that this process has seen is kept.
            seen_files: others of this home; what they have must be in the log, too.
            lease_s: a node's.

        Raises:
            StoreDamaged: the log is shorter or other than what was seen or anchored.
        """
        follower = cls(session, identity, Tree(store, Edge()), checkpoint_file, _PATIENCE_LEASES * lease_s)
        await follower._reach(await store.last_seq(), store)
        for path in {checkpoint_file, *seen_files}:
            await follower._check_seen(path)
        await check_anchored(store, follower.tree)
        return follower

    async def _reach(self, last_seq: int, store: Store) -> None:
        """See all of the log's receipts; those, too, of a process that has served the database alone."""
        for _ in range(_FIRST_LOOKS):
            await self.look()
            if self.tree.size >= last_seq and self._is_shown:
                return
            await asyncio.sleep(_LAST_PAUSE_S)
        tree = await Tree.open(store)
        async with self._session.use() as connection:
            await connection.execute(_REACHED, tree.size, encode_edge(tree.edge))
        await self.look()

    @property
    def verifier(self) -> VerifierKey:
        """The log's key, for verifying."""
        return self.identity.verifier

    @property
    def last_seq(self) -> int:
        """How many receipts have their places."""
        return self.tree.size

    async def look(self) -> None:
        """Read the row anew. Raises ``DatabaseAway``, or ``StoreDamaged`` where it cannot be."""
        async with self._session.use() as connection:
            row = await connection.fetchrow(_ROW, self.tree.size, self.signed_us)
        if row is not None:
            self._is_shown = True
            self._take(row)

    def _take(self, row: Mapping[str, Any]) -> None:
        # A row that was read before another may be taken in after it.
        if row["size"] > self.tree.size:
            self.tree.adopt(decode_edge(row["size"], bytes(row["edge"])))
        note = bytes(row["note"])
        if log_name_of(note) == self.verifier.name and (row["signed_size"] > self.checkpoint.size or not self.note):
            try:
                self.checkpoint = open_checkpoint(note, self.verifier)
            except VerificationFailed as error:
                raise StoreDamaged(
                    f"The checkpoint in the database is not signed with the log's key: {error.message}",
                    hint="Put back a copy of the database.",
                ) from None
            self.note, self.signed_us = note, row["signed_us"]

    async def flush(self) -> None:
        """Wait until every receipt that is committed has its place, and the tree here has it.

        Raises ``Unavailable`` where no process gives places, or ``DatabaseAway``.
        """
        async with self._session.use() as connection:
            last = await connection.fetchval("SELECT max(n) FROM waiting_receipts")
        if last is not None:
            async for _ in self._looks("Receipts wait for their places in the log"):
                async with self._session.use() as connection:
                    if await connection.fetchval("SELECT 1 FROM waiting_receipts WHERE n <= $1 LIMIT 1", last) is None:
                        break
        await self.look()

    async def renew(self) -> bytes:
        """Returns a signed note of everything that has its place now.

        Raises ``Unavailable`` where no process signs, or ``DatabaseAway``.
        """
        async with self._session.use() as connection:
            row = await connection.fetchrow(_WANT)
        wanted = 0 if row is None else row["wanted"]
        async for _ in self._looks("The log's state waits to be signed"):
            await self.look()
            if self.note and self.checkpoint.size >= wanted:
                break
        return self.note

    async def _looks(self, what: str) -> AsyncIterator[None]:
        """Wake the sequencer, then yield before each read of the database. Raises ``Unavailable`` in the end."""
        until_s = time.monotonic() + self._patience_s
        pause_s = _FIRST_PAUSE_S
        async with self._session.use() as connection:
            await connection.execute("SELECT pg_notify($1, '')", CHANNEL)
        while True:
            yield
            if time.monotonic() > until_s:
                raise Unavailable(
                    f"{what}, and no process does that now.",
                    hint="See which of them can: trustgate node list",
                    headers={"retry-after": "5"},
                )
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LAST_PAUSE_S)

    async def run(self) -> None:
        """For ever: see what the sequencer has done, and keep the last checkpoint that was seen."""
        while True:
            try:
                await self.look()
                await self._keep()
            except Unavailable:  # the database is away
                pass
            except (StoreDamaged, HomeUnusable, OSError) as error:
                _logger.error("the log is not followed: %s", error)
            except Exception:  # what is shown stays what it was, and requests go on
                _logger.exception("the log is not followed")
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _keep(self) -> None:
        if self.note and self.checkpoint.size > self._kept_size:
            size, note = self.checkpoint.size, self.note
            await asyncio.to_thread(write_durably, self._file, note)
            self._kept_size = size

    async def _check_seen(self, path: Path) -> None:
        """Raise ``StoreDamaged`` unless the log continues a checkpoint that was seen. One of another name is left."""
        try:
            note = path.read_bytes()  # noqa: ASYNC240 - nothing is served yet
        except FileNotFoundError:
            return
        except OSError as error:
            raise HomeUnusable(
                f"The log's checkpoint {path} cannot be read: {error.strerror}.",
                hint=f"Give it to the user who runs TrustGate. See who owns it: ls -l {path}",
            ) from None
        if log_name_of(note) != self.verifier.name:
            return
        try:
            seen = open_checkpoint(note, self.verifier)
        except VerificationFailed as error:
            raise StoreDamaged(
                f"{path} is not a checkpoint signed with the log's key: {error.message}",
                hint="Put back the file that belongs here, or move it away.",
            ) from None
        if seen.size > self.tree.size:
            raise StoreDamaged(
                f"The database ends at receipt {self.tree.size}, but this home has seen a signed checkpoint of "
                f"{seen.size}: {seen.size - self.tree.size} receipts are missing. The database was restored from an "
                "older copy, or a standby that was behind has taken its place.",
                hint="Put back the newer database.",
            )
        if await self.tree.root_at(seen.size) != seen.root:
            raise StoreDamaged(
                f"The first {seen.size} receipts of the database are not those whose checkpoint was signed: some were "
                "changed, or belong to another history.",
                hint=f"Put back the database that belongs to {path}.",
            )


def log_name_of(note: bytes) -> str:
    """Returns the name of the log that a signed note is of."""
    return note.partition(b"\n")[0].decode("utf-8", "replace")


@contextlib.asynccontextmanager
async def one_at_a_time(session: DatabaseSession, what: str) -> AsyncIterator[None]:
    """Let one process at a time into the block, among all of the database.

    The lock is a transaction's: a process that is stopped within it loses it as the database ends the transaction.

    Args:
        session: a connection for this alone.
        what: the block's name; blocks of one name exclude each other.

    Raises:
        Unavailable: others were in the block for too long.
        DatabaseAway: the database cannot be reached, or the block took too long.
    """
    waits = False
    try:
        async with session.use() as connection, connection.transaction():
            waits = True
            await connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended($1 || ' ' || current_schema(), 0))", f"trustgate {what}"
            )
            waits = False
            yield
    except DatabaseAway as error:
        if not waits or not error.timed_out:
            raise
        raise Unavailable(
            f"Another process is at work ({what}), and did not end in {session.timeout_s:g} s.",
            hint="Try again. Whether a process hangs: trustgate node list",
            headers={"retry-after": RETRY_AFTER_S},
        ) from error
