"""The gateway on Postgres: it serves, survives kills and a database that was away."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import ClientFactory, GatewayFactory
from tests.support.gateway import Gateway
from tests.support.postgres import GivenPostgres, Postgres, run_sql
from tests.support.processes import wait_until
from tests.support.shifted_clock import ShiftedClock
from trustgate.types import NANO_USD_PER_USD


@pytest.fixture
def url(postgres: Postgres | GivenPostgres) -> str:
    return postgres.clean()


@pytest.fixture
def gateway(make_gateway: GatewayFactory, url: str) -> Gateway:
    return make_gateway(upstream="builtin:echo", environment={"TRUSTGATE_STORE_URL": url})


@pytest.fixture
def stoppable(postgres: Postgres | GivenPostgres) -> Postgres:
    if isinstance(postgres, GivenPostgres):
        pytest.skip("LEFT OUT: the server that TEST_POSTGRES_URL names cannot be stopped")
    return postgres


@pytest.fixture
def patient(make_gateway: GatewayFactory, url: str) -> Gateway:
    """A gateway that may serve for as long as the requests take on a busy machine, with the database away."""
    environment = {"TRUSTGATE_STORE_URL": url, "TRUSTGATE_STORE_LEASE_S": "60"}
    return make_gateway(upstream="builtin:echo", environment=environment)


def _ask(gateway: Gateway, make_client: ClientFactory, secret: str, times: int) -> None:
    client = make_client(gateway.api_url, secret)
    for _ in range(times):
        client.chat.completions.create(model="trustgate/echo", messages=[{"role": "user", "content": "hello"}])


def _requests(gateway: Gateway) -> int:
    count: int = gateway.cli_json("usage")["total"]["requests"]
    return count


def test_it_serves_and_a_kill_loses_nothing(gateway: Gateway, make_client: ClientFactory) -> None:
    secret = gateway.add_tenant()
    gateway.start()
    _ask(gateway, make_client, secret, 20)
    gateway.kill()
    gateway.start()
    _ask(gateway, make_client, secret, 5)

    assert _requests(gateway) == 25
    assert gateway.stop() == 0
    gateway.cli("doctor", "--books")
    assert not (gateway.home / "trustgate.duckdb").exists()


def test_credits_and_refunds_count_once_whichever_way_the_clock_steps(
    make_gateway: GatewayFactory, url: str, tmp_path: Path
) -> None:
    clock = ShiftedClock(tmp_path / "clock")
    environment = {"TRUSTGATE_STORE_URL": url, **clock.environment}
    gateway = make_gateway(upstream="builtin:echo", environment=environment).start()
    gateway.add_tenant("acme")
    gateway.cli("payment", "set", "acme", "--mode", "prepaid")

    def change(number: int) -> list[bool]:
        credit = ("tenant", "credit", "acme", "--add", "2", "--reference", f"in {number}")
        refund = ("payment", "refund-credit", "acme", "--amount", "0.5", "--reference", f"out {number}")
        return [gateway.cli_json(*command)["repeated"] for command in (credit, refund)]

    def balance() -> int:
        nano_usd: int = gateway.cli_json("tenant", "credit", "acme")["balance_nano_usd"]
        return nano_usd

    steps_s = (0, -86_400, 40 * 86_400, -3_600)
    for number, ahead_s in enumerate(steps_s):
        clock.shift(ahead_s)
        assert change(number) == [False, False]
        assert [change(before) for before in range(number + 1)] == [[True, True]] * (number + 1)
    assert balance() == len(steps_s) * 3 * NANO_USD_PER_USD // 2
    gateway.kill()
    gateway.start()
    assert [change(before) for before in range(len(steps_s))] == [[True, True]] * len(steps_s)
    assert balance() == len(steps_s) * 3 * NANO_USD_PER_USD // 2
    gateway.cli("doctor", "--books")
    gateway.stop()
    gateway.cli("doctor", "--books")


def test_while_the_database_is_away_receipts_wait_in_the_journal(
    patient: Gateway, make_client: ClientFactory, stoppable: Postgres
) -> None:
    gateway, postgres = patient, stoppable
    secret = gateway.add_tenant(plan="internal")  # nothing is to be asked of the database to admit it
    gateway.start()
    _ask(gateway, make_client, secret, 2)

    postgres.stop()
    _ask(gateway, make_client, secret, 3)
    postgres.start()

    # Until the gateway is back at its database, a look at the books is refused.
    wait_until(lambda: gateway.cli("usage", check=False).returncode == 0, "the gateway to be at its database")
    wait_until(lambda: _requests(gateway) == 5, "the receipts to be in the database")
    assert gateway.stop() == 0
    gateway.cli("doctor", "--books")


def test_what_a_journal_alone_has_is_taken_in_by_a_command_and_is_not_left_behind_by_a_move(
    patient: Gateway, make_client: ClientFactory, url: str, stoppable: Postgres
) -> None:
    gateway, postgres = patient, stoppable
    on_file = Gateway(gateway.home)
    secret = gateway.add_tenant(plan="internal")
    gateway.start()
    _ask(gateway, make_client, secret, 2)
    wait_until(lambda: run_sql(url, "SELECT count(*) FROM receipts") == [(2,)], "their places")
    postgres.stop()
    _ask(gateway, make_client, secret, 3)
    gateway.kill()
    postgres.start()
    run_sql(url, "UPDATE nodes SET lease_until = now() - interval '1 second'")

    refused = on_file.cli("migrate", "--from", url, check=False)
    assert refused.returncode == 5
    assert "has receipts that the database lacks" in refused.stderr
    assert len(gateway.cli_json("receipt", "list")["receipts"]) == 5
    gateway.start()
    _ask(gateway, make_client, secret, 1)
    assert gateway.stop() == 0
    assert "missing" not in gateway.logs()
    assert on_file.cli_json("migrate", "--from", url)["receipts"] == 6
    on_file.cli("doctor", "--books")


def test_a_second_gateway_is_refused_with_the_first_ones_name(
    gateway: Gateway, make_gateway: GatewayFactory, url: str
) -> None:
    gateway.start()
    other = make_gateway(environment={"TRUSTGATE_STORE_URL": url})

    refused = other.cli("tenant", "list", check=False)

    assert refused.returncode == 6
    assert f"is in use by process {gateway.process.pid} on " in refused.stderr


def test_what_postgres_does_itself_is_named(gateway: Gateway) -> None:
    gateway.add_tenant()
    for command, named in (("backup", "pg_dump"), ("compact", "VACUUM"), ("restore", "pg_restore")):
        arguments = (str(gateway.home / "file"),) if command != "compact" else ()
        refused = gateway.cli(command, *arguments, check=False)
        assert refused.returncode == 1, refused.stderr
        assert named in refused.stderr


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("postgresql://trustgate:hunter2@127.0.0.1/x", "must not hold a password"),
        ("mysql://trustgate@127.0.0.1/x", "must look like postgresql://"),
        ("postgresql://trustgate@127.0.0.1:1/x", "does not answer"),
    ],
)
def test_an_address_that_does_not_do(make_gateway: GatewayFactory, address: str, said: str) -> None:
    gateway = make_gateway(environment={"TRUSTGATE_STORE_URL": address})
    refused = gateway.cli("tenant", "list", check=False)
    assert refused.returncode != 0
    assert said in refused.stderr
    assert "hunter2" not in refused.stderr


def test_what_a_failover_lost_is_told(gateway: Gateway, url: str) -> None:
    """The home's mark knows of a change that the database does not have."""
    gateway.add_tenant()
    run_sql(url, "UPDATE progress SET changes = 0; DELETE FROM changes; DELETE FROM tenants")

    assert "lacks what this gateway has seen in it" in gateway.cli("tenant", "list", check=False).stderr
    gateway.cli("accept-loss", "--yes")
    gateway.add_tenant()
    gateway.cli("doctor", "--books")


def _copied(url: str, copy: str) -> None:
    """Have an empty schema hold what another one has now."""
    names = [name for (name,) in run_sql(url, "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")]
    [(source,)] = run_sql(url, "SELECT current_schema()")
    for name in names:
        run_sql(copy, f"CREATE TABLE {name} (LIKE {source}.{name} INCLUDING ALL)")
        run_sql(copy, f"INSERT INTO {name} SELECT * FROM {source}.{name}")


def test_a_log_that_an_older_database_took_the_place_of_goes_on_under_another_name(
    gateway: Gateway, url: str, postgres: Postgres | GivenPostgres, make_client: ClientFactory
) -> None:
    secret, older = gateway.add_tenant(), postgres.schema()
    gateway.start()
    _ask(gateway, make_client, secret, 3)
    gateway.stop()
    _copied(url, older)
    gateway.start()
    _ask(gateway, make_client, secret, 4)
    gateway.stop()

    on_older = Gateway(gateway.home, upstream="builtin:echo", environment={"TRUSTGATE_STORE_URL": older})
    assert "Put back the newer database" in on_older.cli("serve", "--port", "0", check=False).stderr
    told = on_older.cli("accept-loss", "--yes").stdout
    assert "it goes on under another name" in told
    on_older.start()
    _ask(on_older, make_client, secret, 2)
    on_older.cli("doctor", "--books")
    listed = on_older.cli_json("receipt", "list", "--limit", "20")["receipts"]
    # Four of the journal, which the older database lacked, and those of now: all have their places.
    assert sorted(each["seq"] for each in listed) == list(range(1, 10))
    on_older.close()


def test_a_change_that_was_altered_is_told(gateway: Gateway, url: str) -> None:
    for name in ("a", "b", "c"):
        gateway.add_tenant(name)
    run_sql(url, "UPDATE changes SET body = body || ' ' WHERE number = 2")

    told = gateway.cli("doctor", "--books", check=False)

    assert told.returncode != 0
    assert "Change 2 of the operators: its digest is another" in told.stdout


def test_a_home_has_one_database(make_gateway: GatewayFactory, url: str) -> None:
    """A file is not left behind unnoticed by setting store.url, nor Postgres by forgetting it."""
    in_file = make_gateway()
    in_file.add_tenant()
    on_both = Gateway(in_file.home, environment={"TRUSTGATE_STORE_URL": url})
    refused = on_both.cli("tenant", "add", "b", check=False)
    assert refused.returncode == 1
    assert "trustgate migrate --to" in refused.stderr

    on_postgres = make_gateway(environment={"TRUSTGATE_STORE_URL": url})
    on_postgres.add_tenant()
    refused = Gateway(on_postgres.home).cli("tenant", "add", "b", check=False)
    assert refused.returncode == 1
    assert "store.url" in refused.stderr
    assert not (on_postgres.home / "trustgate.duckdb").exists()
