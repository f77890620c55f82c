"""The schema on Postgres: the steps of ``store.migrations``, and after them what Postgres alone has.

Append-only like those. ``STEPS`` have numbers of their own, kept in table ``postgres_schema``.
"""

from __future__ import annotations

from collections.abc import Callable

from trustgate.errors import StoreTooNew
from trustgate.store.migrations import LATEST, MIGRATIONS, migrate, schema_version
from trustgate.store.sql import SqlConnection, in_transaction, one_value

Step = Callable[[SqlConnection], None]


def _indexes_and_changes(connection: SqlConnection) -> None:
    """Where DuckDB finds rows by the minimum and maximum of a block, Postgres has an index.

    By time they stand nearly in order: a BRIN of some pages does. Changes of operators are numbered and chained here,
    where DuckDB has a file (store.changes).
    """
    for statement in (
        "CREATE UNIQUE INDEX receipts_seq ON receipts (seq)",
        "CREATE INDEX receipts_tenant ON receipts (tenant, seq)",
        "CREATE INDEX receipts_time ON receipts USING brin (created_us) WITH (pages_per_range = 16)",
        "CREATE INDEX receipts_payment ON receipts (payment) WHERE payment IS NOT NULL",
        "CREATE UNIQUE INDEX tiles_place ON tiles (level, position)",
        "CREATE UNIQUE INDEX payments_id ON payments (id)",
        "CREATE INDEX payments_identifier ON payments (tenant_id, identifier) WHERE identifier <> ''",
        "CREATE INDEX payments_state ON payments (state, id)",
        "CREATE UNIQUE INDEX set_aside_seq ON set_aside (seq)",
        """CREATE TABLE changes (
            number BIGINT PRIMARY KEY,
            at_us BIGINT NOT NULL,
            before BLOB NOT NULL,  -- digest of the change before; empty for the first
            digest BLOB NOT NULL,  -- SHA-256 of that and the body
            body BLOB NOT NULL  -- JSON of store.changes.Change
        )""",
        # Hashes and ciphertext do not get smaller.
        "ALTER TABLE tiles ALTER COLUMN hashes SET STORAGE EXTERNAL",
    ):
        connection.execute(statement)


def _nodes_and_roles(connection: SqlConnection) -> None:
    """The processes that serve the database (cluster.nodes), and what one of them at a time does (cluster.roles)."""
    for statement in (
        """CREATE TABLE nodes (
            node_id text PRIMARY KEY,
            host text NOT NULL,
            pid integer NOT NULL,
            version text NOT NULL,
            address text NOT NULL,
            started_us bigint NOT NULL,
            lease_until timestamptz NOT NULL,
            taken_in bigint NOT NULL,  -- the last change of operators that the node has taken in
            skew_us bigint NOT NULL DEFAULT 0,  -- how far its clock is ahead of the database's
            unfit jsonb NOT NULL DEFAULT '{}'  -- why it cannot hold a role, by role
        )""",
        """CREATE TABLE roles (
            role text PRIMARY KEY,
            node_id text REFERENCES nodes (node_id) ON DELETE SET NULL,  -- a burial frees a node's roles
            epoch bigint NOT NULL DEFAULT 0,  -- one more at each taking
            since timestamptz
        )""",
        "CREATE INDEX roles_node ON roles (node_id)",
    ):
        connection.execute(statement)


def _shared_books(connection: SqlConnection) -> None:
    """What several processes count together (cluster.rows), and receipts without a place in the log (cluster.books).

    Every update of a row leaves its key alone, and half of a page is free, so rows stay where they are.
    """
    for statement in (
        """CREATE TABLE shared_state (
            key text COLLATE "C" PRIMARY KEY,
            state jsonb NOT NULL
        ) WITH (fillfactor = 50)""",
        """CREATE TABLE waiting_receipts (
            n bigserial PRIMARY KEY,  -- the order in which a tenant's receipts were linked
            receipt_id text NOT NULL,
            entry bytea NOT NULL  -- as in the journal
        )""",
    ):
        connection.execute(statement)


def _moves(connection: SqlConnection) -> None:
    """Whether the database is on its way here from a file, or was moved to one (postgres.moves): one row or none."""
    connection.execute("CREATE TABLE moves (state VARCHAR NOT NULL, store_id VARCHAR NOT NULL, place VARCHAR NOT NULL)")


def _log_state(connection: SqlConnection) -> None:
    """What the sequencer shows all processes of the log (cluster.following): one row."""
    connection.execute(
        """CREATE TABLE log_state (
            one boolean PRIMARY KEY DEFAULT true CHECK (one),
            size bigint NOT NULL,  -- how many receipts have their places
            edge bytea NOT NULL,  -- the unfinished tiles of the tree of that size, the lowest level first
            signed_size bigint NOT NULL DEFAULT 0,
            note bytea NOT NULL DEFAULT '',  -- the last signed checkpoint
            signed_us bigint NOT NULL DEFAULT 0,
            wanted bigint NOT NULL DEFAULT 0  -- a checkpoint of this size is waited for
        )"""
    )


def _kept_answers(connection: SqlConnection) -> None:
    """Answers of paid requests for a retry at another process, encrypted (cluster.shared_answers)."""
    connection.execute(
        "CREATE TABLE kept_answers (payment_id text PRIMARY KEY, sealed bytea NOT NULL, at timestamptz NOT NULL)"
    )


def _object_ids(connection: SqlConnection) -> None:
    """Ids that upstreams gave out, where several processes do (gateway.api.shared_object_ids)."""
    for statement in (
        "CREATE SEQUENCE object_ids_n",
        """CREATE TABLE object_ids (
            kind text COLLATE "C" NOT NULL,
            upstream text COLLATE "C" NOT NULL,
            id text COLLATE "C" NOT NULL,
            tenant text COLLATE "C" NOT NULL,
            n bigint NOT NULL,  -- the order of changes
            handle bytea NOT NULL,
            PRIMARY KEY (kind, upstream, id)
        )""",
        "CREATE INDEX object_ids_order ON object_ids (n)",
    ):
        connection.execute(statement)


def _oldest_program(connection: SqlConnection) -> None:
    """Add the least level (``_level``) that a program must have to serve the database."""
    connection.execute("ALTER TABLE postgres_schema ADD COLUMN oldest BIGINT NOT NULL DEFAULT 0")


#: Step N brings what Postgres alone has from N-1 to N.
STEPS: tuple[Step, ...] = (
    _indexes_and_changes,
    _nodes_and_roles,
    _shared_books,
    _moves,
    _log_state,
    _kept_answers,
    _object_ids,
    _oldest_program,
)

#: The steps, of ``MIGRATIONS``, too, that a program without them survives: it goes on serving, and can be started,
#: beside programs that have them. So such a step only adds what older programs do not read; a column that it adds has a
#: default, and its table is never read as a whole (``SELECT *``) or written by position. It takes locks for a moment
#: only. A program with any other new step starts when all programs without it have ended.
SURVIVED: frozenset[Step] = frozenset((_oldest_program,))


def is_latest(connection: SqlConnection) -> bool:
    """Returns whether nothing is to be brought up to date; also where the schema is a newer program's.

    Raises StoreDamaged if it is another program's database.
    """
    return not _missing(connection)


def comes_beside(connection: SqlConnection) -> bool:
    """Returns whether programs that serve the database survive all steps that it lacks."""
    return SURVIVED.issuperset(_missing(connection))


def migrate_postgres(connection: SqlConnection, now_us: int) -> None:
    """Bring the database to the latest schema; fill a new one with the seeds.

    The schema of a newer program that this one survives is left as it is.

    The caller holds the lock that only one process has. Raises StoreTooNew, StoreDamaged.
    """
    if _survives(connection):
        return
    is_new_era = not comes_beside(connection)
    migrate(connection, now_us)

    def bring_up(connection: SqlConnection) -> None:
        connection.execute("CREATE TABLE IF NOT EXISTS postgres_schema (step BIGINT NOT NULL)")
        rows = connection.execute("SELECT step FROM postgres_schema").fetchall()
        done = rows[0][0] if rows else 0
        if done > len(STEPS):
            raise StoreTooNew(
                f"The database was written by a newer TrustGate: its schema is {done}, this program's {len(STEPS)}.",
                hint="Use the newer TrustGate, or another database. This one has not been changed.",
            )
        for step in STEPS[done:]:
            step(connection)
        if not rows:
            connection.execute("INSERT INTO postgres_schema (step) VALUES (?)", [len(STEPS)])
        elif done < len(STEPS):
            connection.execute("UPDATE postgres_schema SET step = ?", [len(STEPS)])
        if is_new_era:
            connection.execute("UPDATE postgres_schema SET oldest = ?", [_level(LATEST, len(STEPS))])

    in_transaction(connection, bring_up)


def _level(version: int, step: int) -> int:
    """Returns the level of a schema or a program, which grows with every step of both lists."""
    return version + step


def _missing(connection: SqlConnection) -> list[Step]:
    """Returns this program's steps that the database lacks."""
    return [*MIGRATIONS[schema_version(connection) :], *STEPS[_state(connection)[0] :]]


def _survives(connection: SqlConnection) -> bool:
    """Returns whether the schema is a newer program's, and this one may serve it all the same."""
    step, oldest = _state(connection)
    own = _level(LATEST, len(STEPS))
    return oldest is not None and oldest <= own < _level(schema_version(connection), step)


def _state(connection: SqlConnection) -> tuple[int, int | None]:
    """Returns the database's last step, and the least level of a program that may serve it (None: not recorded)."""
    if one_value(connection.execute("SELECT to_regclass('postgres_schema')")) is None:
        return 0, None
    # The column may be missing.
    rows = connection.execute("SELECT step, (to_jsonb(s) ->> 'oldest')::bigint FROM postgres_schema s").fetchall()
    return (int(rows[0][0]), rows[0][1]) if rows else (0, None)
