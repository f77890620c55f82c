"""The schema of the database, as numbered steps, and what a new database starts with.

Owns the only data-definition SQL. Steps are append-only: one that has been released is never edited, because files in
the field were made by it. A change that DuckDB cannot make in place is made by create, copy, rename. There are no
foreign keys (DuckDB refuses to update a referenced row) and no index on ``receipts``: it is append-only and ordered by
``seq``, so the minimum and maximum of each block of rows find what is asked for.
"""

from __future__ import annotations

from collections.abc import Callable

from trustgate.errors import StoreTooNew
from trustgate.ids import new_id
from trustgate.store.rows import table_of
from trustgate.store.sql import SqlConnection, dialect_of, in_transaction
from trustgate.types import FEATURES, UNMETERED_CALLS, Limits, Passport, Plan, Prices, Record, Scope

Migration = Callable[[SqlConnection], None]


def _first_schema(connection: SqlConnection) -> None:
    for statement in (
        """CREATE TABLE meta (
            schema_version INTEGER NOT NULL,
            store_id VARCHAR NOT NULL,
            created_us BIGINT NOT NULL
        )""",
        """CREATE TABLE tenants (
            id VARCHAR PRIMARY KEY,
            name VARCHAR NOT NULL,
            plan VARCHAR NOT NULL,
            status VARCHAR NOT NULL,
            created_us BIGINT NOT NULL
        )""",
        """CREATE TABLE keys (
            id VARCHAR PRIMARY KEY,
            tenant_id VARCHAR NOT NULL,
            name VARCHAR NOT NULL,
            secret_sha256 VARCHAR NOT NULL,
            redacted VARCHAR NOT NULL,
            limits VARCHAR NOT NULL,  -- JSON of types.Limits
            scope VARCHAR NOT NULL,  -- JSON of types.Scope
            created_us BIGINT NOT NULL,
            expires_us BIGINT,
            revoked_us BIGINT
        )""",
        """CREATE TABLE plans (
            name VARCHAR PRIMARY KEY,
            limits VARCHAR NOT NULL,  -- JSON of types.Limits
            scope VARCHAR NOT NULL,  -- JSON of types.Scope
            on_disconnect VARCHAR NOT NULL,
            created_us BIGINT NOT NULL
        )""",
        """CREATE TABLE passports (
            id VARCHAR PRIMARY KEY,
            slug VARCHAR NOT NULL,
            api_model_id VARCHAR NOT NULL,
            provider VARCHAR NOT NULL,
            format VARCHAR NOT NULL,
            base_url VARCHAR,
            credential_env VARCHAR,
            credential_file VARCHAR,
            context_length BIGINT,
            max_output_tokens BIGINT,
            capabilities VARCHAR NOT NULL,  -- JSON list of words
            prices VARCHAR NOT NULL,  -- JSON of types.Prices
            status VARCHAR NOT NULL,
            default_parameters VARCHAR NOT NULL,  -- JSON object
            fallbacks VARCHAR NOT NULL,  -- JSON list of types.Fallback
            created_us BIGINT NOT NULL
        )""",
        "CREATE TABLE aliases (name VARCHAR PRIMARY KEY, target VARCHAR NOT NULL)",
        """CREATE TABLE receipts (
            seq BIGINT NOT NULL,
            v SMALLINT NOT NULL,
            id VARCHAR NOT NULL,
            created_us BIGINT NOT NULL,
            tenant VARCHAR NOT NULL,
            "key" VARCHAR NOT NULL,
            tseq BIGINT NOT NULL,
            tprev BLOB NOT NULL,
            endpoint VARCHAR NOT NULL,
            model VARCHAR NOT NULL,
            passport VARCHAR NOT NULL,
            upstream_model VARCHAR NOT NULL,
            request_commitment BLOB NOT NULL,
            response_commitment BLOB NOT NULL,
            prompt_tokens BIGINT NOT NULL,
            cached_tokens BIGINT NOT NULL,
            completion_tokens BIGINT NOT NULL,
            reasoning_tokens BIGINT NOT NULL,
            usage_source VARCHAR NOT NULL,
            cost_nano_usd BIGINT NOT NULL,
            price_hash BLOB NOT NULL,
            policy_hash BLOB NOT NULL,
            latency_first_ms BIGINT NOT NULL,
            latency_total_ms BIGINT NOT NULL,
            status SMALLINT NOT NULL,
            finish VARCHAR NOT NULL,
            stream BOOLEAN NOT NULL,
            secret BLOB NOT NULL
        )""",
    ):
        connection.execute(statement)


def _tree_and_anchors(connection: SqlConnection) -> None:
    """Tiles are append-only, written in the order they fill up, so they need no index, as ``receipts`` needs none."""
    for statement in (
        """CREATE TABLE tiles (
            level SMALLINT NOT NULL,
            position BIGINT NOT NULL,
            hashes BLOB NOT NULL  -- 256 hashes of 32 bytes
        )""",
        "CREATE TABLE log_names (vkey VARCHAR PRIMARY KEY, created_us BIGINT NOT NULL)",
        """CREATE TABLE anchors (
            id VARCHAR PRIMARY KEY,
            state VARCHAR NOT NULL,
            genesis VARCHAR NOT NULL,
            fee_payer VARCHAR NOT NULL,
            tree_size BIGINT NOT NULL,
            root VARCHAR NOT NULL,
            note VARCHAR NOT NULL,
            created_us BIGINT NOT NULL,
            attempts VARCHAR NOT NULL,  -- JSON list of types.AnchorAttempt
            signature VARCHAR NOT NULL,
            slot BIGINT NOT NULL,
            fee_lamports BIGINT NOT NULL,
            anchored_us BIGINT NOT NULL
        )""",
    ):
        connection.execute(statement)


def _payments(connection: SqlConnection) -> None:
    """Older receipts have no value in the new columns: they are of version 1, which lacks those members."""
    for statement in (
        "ALTER TABLE receipts ADD COLUMN charged_nano_usd BIGINT",
        "ALTER TABLE receipts ADD COLUMN credited_nano_usd BIGINT",
        "ALTER TABLE receipts ADD COLUMN payment VARCHAR",
        "ALTER TABLE receipts ADD COLUMN payment_detail VARCHAR",  # JSON list of store.rows.PAYMENT_DETAIL
        """CREATE TABLE payment_terms (
            tenant_id VARCHAR PRIMARY KEY,
            mode VARCHAR NOT NULL,
            price_nano_usd BIGINT,
            top_up_nano_usd BIGINT NOT NULL,
            offers VARCHAR NOT NULL,  -- JSON list of types.Offer
            created_us BIGINT NOT NULL
        )""",
        """CREATE TABLE payments (
            id VARCHAR NOT NULL,
            "key" VARCHAR PRIMARY KEY,
            tenant_id VARCHAR NOT NULL,
            key_id VARCHAR NOT NULL,
            receipt_id VARCHAR NOT NULL,
            request_sha256 VARCHAR NOT NULL,
            identifier VARCHAR NOT NULL,
            x402_version SMALLINT NOT NULL,
            offer VARCHAR NOT NULL,  -- JSON of types.Offer
            amount VARCHAR NOT NULL,
            value_nano_usd BIGINT NOT NULL,
            payload BLOB NOT NULL,
            requirements BLOB NOT NULL,
            state VARCHAR NOT NULL,
            "transaction" VARCHAR NOT NULL,
            payer VARCHAR NOT NULL,
            reason VARCHAR NOT NULL,
            created_us BIGINT NOT NULL,
            updated_us BIGINT NOT NULL
        )""",
    ):
        connection.execute(statement)


def _set_aside_and_progress(connection: SqlConnection) -> None:
    """What does not fit table ``receipts`` as it is, and how far the changes of other tables have come."""
    for statement in (
        """CREATE TABLE set_aside (
            seq BIGINT NOT NULL,
            receipt BLOB NOT NULL,  -- canonical JSON (RFC 8785)
            secret BLOB NOT NULL,
            reason VARCHAR NOT NULL,
            set_aside_us BIGINT NOT NULL,
            accepted BOOLEAN NOT NULL
        )""",
        """CREATE TABLE progress (
            changes BIGINT NOT NULL,  -- number of the last change of the operator's that is in here (store.changes)
            payments BIGINT NOT NULL,  -- transactions that wrote payments
            at_us BIGINT NOT NULL  -- of the last of either
        )""",
        "INSERT INTO progress VALUES (0, 0, 0)",
    ):
        connection.execute(statement)


def _price_tables(connection: SqlConnection) -> None:
    """Older receipts have no value in the new columns: they are of versions 1 and 2, which lack those members.

    The built-in model was the one that cost nothing because nothing was said of its price; now that is said.
    """
    for statement in (
        "ALTER TABLE receipts ADD COLUMN price_known BOOLEAN",
        "ALTER TABLE receipts ADD COLUMN billed_nano_usd BIGINT",
        "ALTER TABLE receipts ADD COLUMN price_detail VARCHAR",  # JSON list of store.rows.PRICE_DETAIL
        "ALTER TABLE plans ADD COLUMN price_factor_ppm BIGINT DEFAULT 1000000",
        "ALTER TABLE plans ADD COLUMN unpriced_models VARCHAR DEFAULT 'refuse'",
        "ALTER TABLE passports ADD COLUMN price_source VARCHAR DEFAULT ''",
        "ALTER TABLE passports ADD COLUMN priced_us BIGINT DEFAULT 0",
        """CREATE TABLE price_lists (
            id VARCHAR PRIMARY KEY,
            source VARCHAR NOT NULL,
            as_of VARCHAR NOT NULL,
            installed_us BIGINT NOT NULL,
            data BLOB NOT NULL
        )""",
        """CREATE TABLE price_changes (
            id VARCHAR PRIMARY KEY,
            passport_id VARCHAR NOT NULL,
            slug VARCHAR NOT NULL,
            price_hash VARCHAR NOT NULL,
            prices VARCHAR NOT NULL,  -- JSON of types.Prices
            source VARCHAR NOT NULL,
            from_us BIGINT NOT NULL
        )""",
        """UPDATE passports SET prices = '{"free":true}' WHERE prices = '{}' AND starts_with(base_url, 'builtin:')""",
    ):
        connection.execute(statement)


def _budgets_and_end_users(connection: SqlConnection) -> None:
    """Older receipts have no value in the new column: they are of versions 1 to 4, which lack that member."""
    for statement in (
        """CREATE TABLE budgets (
            id VARCHAR PRIMARY KEY,
            name VARCHAR NOT NULL,
            unit VARCHAR NOT NULL,
            amount BIGINT NOT NULL,
            span VARCHAR NOT NULL,
            tenants VARCHAR NOT NULL,  -- JSON lists of ids, names, globs
            keys VARCHAR NOT NULL,
            plans VARCHAR NOT NULL,
            everyone BOOLEAN NOT NULL,
            "each" VARCHAR NOT NULL,
            models VARCHAR NOT NULL,
            hard BOOLEAN NOT NULL,
            notice_at_percent VARCHAR NOT NULL,
            created_us BIGINT NOT NULL,
            removed_us BIGINT
        )""",
        """CREATE TABLE end_users (
            id VARCHAR PRIMARY KEY,
            tenant_id VARCHAR NOT NULL,
            blocked BOOLEAN NOT NULL,
            amounts VARCHAR NOT NULL,  -- JSON object: budget id to amount
            changed_us BIGINT NOT NULL
        )""",
        "CREATE TABLE pseudonym_keys (id VARCHAR PRIMARY KEY, secret BLOB NOT NULL, created_us BIGINT NOT NULL)",
        "ALTER TABLE keys ADD COLUMN origin_id VARCHAR DEFAULT ''",
        "ALTER TABLE receipts ADD COLUMN end_user VARCHAR",
    ):
        connection.execute(statement)


def _sales_without_a_key(connection: SqlConnection) -> None:
    """Older terms have "": before this step nothing was sold without a key."""
    connection.execute("ALTER TABLE payment_terms ADD COLUMN keyless_key_id VARCHAR DEFAULT ''")


def _tenants_and_credits(connection: SqlConnection) -> None:
    for statement in (
        "ALTER TABLE tenants ADD COLUMN price_factor_ppm BIGINT",
        "ALTER TABLE tenants ADD COLUMN removed_us BIGINT",
        "ALTER TABLE payment_terms ADD COLUMN contact VARCHAR DEFAULT ''",
        """CREATE TABLE credit_notes (
            id VARCHAR PRIMARY KEY,
            tenant_id VARCHAR NOT NULL,
            reference VARCHAR NOT NULL,
            receipt_id VARCHAR NOT NULL,
            credited_nano_usd BIGINT NOT NULL,
            corrects VARCHAR NOT NULL,  -- JSON list of seqs
            created_us BIGINT NOT NULL
        )""",
    ):
        connection.execute(statement)


def _archives(connection: SqlConnection) -> None:
    """Receipts that lie in Parquet files, and what has to be known of them without the files (store.archives)."""
    for statement in (
        """CREATE TABLE archives (
            first_seq BIGINT NOT NULL,
            last_seq BIGINT NOT NULL,
            first_us BIGINT NOT NULL,
            last_us BIGINT NOT NULL,
            name VARCHAR NOT NULL,
            folder VARCHAR NOT NULL,
            size_bytes BIGINT NOT NULL,
            sha256 VARCHAR NOT NULL,
            columns VARCHAR NOT NULL,  -- JSON list
            archived_us BIGINT NOT NULL
        )""",
        """CREATE TABLE archived_sums (
            first_seq BIGINT NOT NULL,  -- of the file
            tenant VARCHAR NOT NULL,
            "key" VARCHAR NOT NULL,
            model VARCHAR NOT NULL,
            end_user VARCHAR,
            requests BIGINT NOT NULL,
            tokens HUGEINT NOT NULL,
            billed_nano_usd HUGEINT NOT NULL,
            with_balance BIGINT NOT NULL,  -- receipts that say what was charged
            credited_nano_usd HUGEINT NOT NULL,
            charged_nano_usd HUGEINT NOT NULL
        )""",
        # The last archived receipt of each tenant; gets every column that ``receipts`` gets.
        "CREATE TABLE archived_heads AS SELECT * FROM receipts LIMIT 0",
    ):
        connection.execute(statement)


def _notifications(connection: SqlConnection) -> None:
    for statement in (
        """CREATE TABLE subscribers (
            id VARCHAR PRIMARY KEY,
            name VARCHAR NOT NULL,
            kinds VARCHAR NOT NULL,  -- JSON list of words
            url VARCHAR NOT NULL,
            command VARCHAR NOT NULL,  -- JSON list of words
            is_private BOOLEAN NOT NULL,
            secret VARCHAR NOT NULL,
            created_us BIGINT NOT NULL,
            removed_us BIGINT
        )""",
        "CREATE TABLE open_conditions (identity VARCHAR PRIMARY KEY, notice VARCHAR NOT NULL)",
        """CREATE TABLE deliveries (
            id VARCHAR PRIMARY KEY,
            subscriber_id VARCHAR NOT NULL,
            body VARCHAR NOT NULL,
            message VARCHAR NOT NULL,
            state VARCHAR NOT NULL,
            attempts BIGINT NOT NULL,
            detail VARCHAR NOT NULL,
            created_us BIGINT NOT NULL,
            next_us BIGINT NOT NULL,
            updated_us BIGINT NOT NULL
        )""",
    ):
        connection.execute(statement)


def _own_keys(connection: SqlConnection) -> None:
    """Tenants may make keys where their plan says so; of the keys there are, the operator has made every one."""
    for statement in (
        "ALTER TABLE plans ADD COLUMN own_keys BIGINT DEFAULT 0",
        "ALTER TABLE keys ADD COLUMN made_by VARCHAR DEFAULT ''",
        "ALTER TABLE keys ADD COLUMN revoked_by VARCHAR DEFAULT ''",
    ):
        connection.execute(statement)


def _profiles_and_pools(connection: SqlConnection) -> None:
    for statement in (
        """CREATE TABLE profiles (
            id VARCHAR PRIMARY KEY,  -- plan:NAME, tenant:ID or key:ID
            rules VARCHAR NOT NULL,  -- JSON
            changed_us BIGINT NOT NULL
        )""",
        "ALTER TABLE passports ADD COLUMN pool VARCHAR DEFAULT '{}'",
    ):
        connection.execute(statement)


def _nodes_of_payments(connection: SqlConnection) -> None:
    connection.execute("ALTER TABLE payments ADD COLUMN node VARCHAR DEFAULT ''")


_OUR_COLUMNS = """information_schema.columns
    WHERE table_catalog = current_database() AND table_schema = current_schema()"""


def _match_heads(connection: SqlConnection) -> None:
    """Give ``archived_heads`` the columns that later steps have given ``receipts``."""
    missing = connection.execute(
        f"""SELECT column_name, data_type, column_default FROM {_OUR_COLUMNS} AND table_name = 'receipts'
            AND column_name NOT IN (SELECT column_name FROM {_OUR_COLUMNS} AND table_name = 'archived_heads')
            ORDER BY ordinal_position"""  # noqa: S608 - constants
    ).fetchall()
    for name, kind, default in missing:
        connection.execute(f'ALTER TABLE archived_heads ADD COLUMN "{name}" {kind} DEFAULT {default or "NULL"}')


def _receipts_of_work(connection: SqlConnection) -> None:
    """Receipts of versions 7 to 10: their members stand in ``price_detail``, so no table changes.

    The number alone does: an older program would read such a receipt without them, which is another receipt.
    """


#: Step N brings a database from schema N-1 to schema N.
MIGRATIONS: tuple[Migration, ...] = (
    *(_first_schema, _tree_and_anchors, _payments, _set_aside_and_progress),
    *(_price_tables, _budgets_and_end_users, _sales_without_a_key, _tenants_and_credits, _archives),
    *(_notifications, _own_keys, _profiles_and_pools, _nodes_of_payments, _receipts_of_work),
)

LATEST = len(MIGRATIONS)


def columns_of(connection: SqlConnection) -> dict[str, list[str]]:
    """Returns the columns of each of our tables, by its name."""
    found: dict[str, list[str]] = {}
    for table, column in connection.execute(
        f"SELECT table_name, column_name FROM {_OUR_COLUMNS} ORDER BY table_name, ordinal_position"  # noqa: S608 - ours
    ).fetchall():
        found.setdefault(table, []).append(column)
    return found


def schema_version(connection: SqlConnection) -> int:
    """Returns the schema of the open database; 0 if it is empty.

    Raises StoreDamaged if it is another program's database.
    """
    columns = connection.execute(f"SELECT table_name, column_name FROM {_OUR_COLUMNS}").fetchall()  # noqa: S608 - ours
    if not columns:
        return 0
    ours = ("meta", "schema_version") in columns
    rows = connection.execute("SELECT schema_version FROM meta").fetchall() if ours else []
    if len(rows) != 1:
        raise dialect_of(connection).foreign()
    return int(rows[0][0])


def migrate(connection: SqlConnection, now_us: int) -> None:
    """Bring the database to the latest schema, in one transaction; fill a new one with the seeds.

    Raises StoreTooNew for a database of a newer TrustGate, StoreDamaged for one of another program. Either way it is
    left as it was.
    """
    version = schema_version(connection)
    if version > LATEST:
        raise StoreTooNew(
            f"The database was written by a newer TrustGate: its schema is {version}, this program's {LATEST}.",
            hint="Use the newer TrustGate, or choose another folder with --home. The database has not been changed.",
        )
    if version == LATEST:
        return

    def bring_up(connection: SqlConnection) -> None:
        for step in MIGRATIONS[version:]:
            step(connection)
        _match_heads(connection)
        if version == 0:
            connection.execute("INSERT INTO meta VALUES (?, ?, ?)", [LATEST, new_id("store", now_us), now_us])
            for record in seeds(now_us):
                table_of(record).put(connection, [record])
        else:
            connection.execute("UPDATE meta SET schema_version = ?", [LATEST])

    in_transaction(connection, bring_up)


def seeds(now_us: int) -> tuple[Record, ...]:
    """Returns what a new database holds: four plans, and the passports that make the first request work."""
    paid = ("streaming", UNMETERED_CALLS)
    free = tuple(feature for feature in FEATURES if feature not in paid)
    return (
        Plan(
            name="free",
            limits=Limits(requests_per_day=1_000),
            scope=Scope(features=free),
            created_us=now_us,
        ),
        Plan(name="pro", limits=Limits(requests_per_day=50_000), created_us=now_us),
        Plan(name="growth", limits=Limits(requests_per_day=500_000), created_us=now_us),
        Plan(name="internal", created_us=now_us),
        Passport(id=new_id("passport", now_us), slug="*", api_model_id="*", created_us=now_us),
        Passport(
            id=new_id("passport", now_us),
            slug="trustgate/echo",
            api_model_id="trustgate/echo",
            provider="trustgate",
            base_url="builtin:echo",
            context_length=200_000,
            max_output_tokens=32_000,
            capabilities=("chat", "completions", "responses", "messages", "embeddings", "tools", "structured_outputs"),
            prices=Prices(free=True),
            created_us=now_us,
        ),
    )
