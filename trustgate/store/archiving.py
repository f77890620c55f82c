"""Moving the oldest receipts out of the database into Parquet files, a file at a time.

Owns the steps of it and their order:

    write the file beside its place → sync → read it back → give it its name → sync the folder
    → in one transaction: its entry in ``archives``, its sums, the tenants' last receipts; its rows deleted

Killed before the transaction, the database has the receipts and the file is not read: the next run makes it anew;
killed after it, the file is there. A file holds at most as many receipts as a tile of level 1 has leaves, and whole
tiles of level 0, so that the tree is resumed from tiles and from receipts of the database alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from trustgate.errors import HomeUnusable, StoreDamaged
from trustgate.formats.durable import sync
from trustgate.ids import now_us
from trustgate.store.archives import Archives, quoted
from trustgate.store.faults import is_fatal, is_out_of_memory
from trustgate.store.queries import ArchiveFile
from trustgate.store.rows import BILLED, IS_COUNTED
from trustgate.store.sql import in_transaction

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

logger = logging.getLogger(__name__)

#: Receipts a file, as many as a tile of level 1 covers: some 10 MB, written in about a second.
MOST_RECEIPTS = 65_536
#: Receipts a tile of level 0.
TILE_RECEIPTS = 256
#: Rows that are read together, so that a page of receipts reads little more than itself.
_GROUP_ROWS = 8_192
_NAME = re.compile(r"receipts-([0-9a-z]{1,12})-(\d{12})-(\d{12})\.parquet")


def last_before(connection: DuckDBPyConnection, before_us: int) -> int:
    """Returns the last receipt of the beginning of the log that was made before then altogether; 0 for none.

    A receipt whose time is yet to come, of a clock that ran ahead, holds nothing up.
    """
    row = connection.execute(
        """SELECT coalesce(min(seq) FILTER (WHERE created_us >= ? AND created_us <= ?) - 1, max(seq), 0)
           FROM receipts""",
        [before_us, now_us()],
    ).fetchone()
    assert row is not None, "an aggregate has a row"
    return int(row[0])


def next_range(archives: Archives, up_to_seq: int) -> tuple[int, int] | None:
    """Returns the first and the last receipt of the next file, of receipts up to that one.

    Returns None where no tile is full.
    """
    first = archives.last_seq + 1
    last = min(up_to_seq, (archives.last_seq // MOST_RECEIPTS + 1) * MOST_RECEIPTS)
    last -= last % TILE_RECEIPTS
    return (first, last) if last >= first else None


def archive_next(
    connection: DuckDBPyConnection,
    archives: Archives,
    store_id: str,
    up_to_seq: int,
    folder: Path | None,
    about: Mapping[str, str],
) -> ArchiveFile | None:
    """Move the next receipts, up to that one, into a file in the folder (None: the home's). Returns that file.

    ``about`` is kept in the file, for readers of it. None where there is nothing more to move. Raises StoreDamaged
    where the file does not hold what the table holds, HomeUnusable, and what DuckDB raises.
    """
    span = next_range(archives, up_to_seq)
    if span is None:
        return None
    first, last = span
    while True:
        try:
            return _archive(connection, archives, store_id, first, last, folder, about)
        except duckdb.Error as error:
            tiles = (last - first + 1) // TILE_RECEIPTS
            if tiles < 2 or is_fatal(error) or not is_out_of_memory(error):
                raise
            # Fewer fit into the database's memory where they are long, or each of another tenant, key and end user.
            last = first - 1 + tiles // 2 * TILE_RECEIPTS
            logger.info("archiving fewer receipts at once, up to %d: they take too much memory", last)


def _archive(
    connection: DuckDBPyConnection,
    archives: Archives,
    store_id: str,
    first: int,
    last: int,
    folder: Path | None,
    about: Mapping[str, str],
) -> ArchiveFile:
    """Move these receipts into one file, as ``archive_next``. Where it fails it is as if it had been killed."""
    place = folder or archives.folder
    tag = store_id.rpartition("_")[2][-12:]
    path = place / f"receipts-{tag}-{first:012}-{last:012}.parquet"
    new = path.with_name(path.name + ".new")
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        _clear(connection, place, tag, first)
        _write(connection, new, first, last, {**about, "store_id": store_id})
        new.chmod(0o600)
        sync(new)
        if _digest(connection, _table(first, last)) != _digest(connection, f"read_parquet({quoted(new)})"):
            raise StoreDamaged(
                f"The archive file {path.name} does not hold what the database holds; nothing was moved.",
                hint="Check the disk, and try again.",
            )
        with new.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        new.rename(path)
        sync(place)
        size_bytes = path.stat().st_size
    except OSError as error:
        raise HomeUnusable(
            f"Receipts cannot be archived in {place}: {error.strerror or error}.",
            hint="Check who owns that folder, and the free space of its disk. Nothing is lost.",
        ) from error
    finally:
        new.unlink(missing_ok=True)
    times = connection.execute(f"SELECT min(created_us), max(created_us) FROM {_table(first, last)}").fetchall()  # noqa: S608
    made = ArchiveFile(
        name=path.name,
        folder="" if folder is None else str(folder),
        first_seq=first,
        last_seq=last,
        first_us=times[0][0],
        last_us=times[0][1],
        size_bytes=size_bytes,
        sha256=sha256,
        columns=tuple(archives.columns),
        archived_us=now_us(),
    )
    in_transaction(connection, lambda connection: _move(connection, made))
    return made


def _table(first: int, last: int) -> str:
    return f"(SELECT * FROM receipts WHERE seq BETWEEN {first} AND {last} ORDER BY seq)"  # noqa: S608 - integers


def _write(connection: DuckDBPyConnection, path: Path, first: int, last: int, about: Mapping[str, str]) -> None:
    members = {**about, "first_seq": str(first), "last_seq": str(last)}
    metadata = ", ".join(f"{name}: '{value.replace(chr(39), chr(39) * 2)}'" for name, value in members.items())
    connection.execute(
        f"""COPY {_table(first, last)} TO {quoted(path)}
            (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {_GROUP_ROWS}, KV_METADATA {{{metadata}}})"""
    )


def _digest(connection: DuckDBPyConnection, source: str) -> list[tuple[object, ...]]:
    return connection.execute(
        f"SELECT count(*), min(seq), max(seq), bit_xor(hash(r)) FROM {source} r"  # noqa: S608 - ours
    ).fetchall()


def _clear(connection: DuckDBPyConnection, folder: Path, tag: str, first: int) -> None:
    """Remove what a killed one has left where the next file goes; what is something else is put aside."""
    for path in folder.glob(f"receipts-{tag}-{first:012}-*"):
        name = _NAME.fullmatch(path.name)
        if name is None:
            if path.name.endswith(".new"):
                path.unlink()
            continue
        try:
            same = _digest(connection, f"read_parquet({quoted(path)})") == _digest(
                connection, _table(first, int(name.group(3)))
            )
        except duckdb.Error:
            same = False
        if same:
            path.unlink()
        else:
            path.rename(path.with_name(f"{path.name}.replaced-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"))


def _move(connection: DuckDBPyConnection, file: ArchiveFile) -> None:
    moved = f"receipts WHERE seq BETWEEN {file.first_seq} AND {file.last_seq}"
    connection.execute(
        "INSERT INTO archives VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            *(file.first_seq, file.last_seq, file.first_us, file.last_us, file.name, file.folder),
            *(file.size_bytes, file.sha256, json.dumps(file.columns), file.archived_us),
        ],
    )
    connection.execute(
        f"""INSERT INTO archived_sums
            SELECT {file.first_seq}, tenant, "key", model, end_user,
                count(*) FILTER (WHERE {IS_COUNTED}),
                coalesce(sum(prompt_tokens::HUGEINT + completion_tokens) FILTER (WHERE {IS_COUNTED}), 0),
                coalesce(sum({BILLED}) FILTER (WHERE {IS_COUNTED}), 0),
                count(*) FILTER (WHERE charged_nano_usd IS NOT NULL),
                coalesce(sum(credited_nano_usd), 0), coalesce(sum(charged_nano_usd), 0)
            FROM {moved} GROUP BY tenant, "key", model, end_user"""  # noqa: S608 - integers and constants
    )
    connection.execute(f"DELETE FROM archived_heads WHERE tenant IN (SELECT tenant FROM {moved})")  # noqa: S608 - as above
    # The columns of a later schema are added to this table too.
    connection.execute(
        f"INSERT INTO archived_heads BY NAME SELECT * FROM {moved} AND seq IN (SELECT max(seq) FROM {moved} GROUP BY tenant)"  # noqa: S608, E501
    )
    connection.execute(f"DELETE FROM {moved}")  # noqa: S608 - integers
