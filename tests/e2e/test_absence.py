"""No lost or damaged file undoes a decision or a receipt without a word: files, damages, and the ways out."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.support import damage
from tests.support.damage import FILES, Home
from tests.support.gateway import Gateway

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("absence")


@pytest.fixture(scope="module")
def plain(at: Path) -> Home:
    return made(at, "plain")


@pytest.fixture(scope="module")
def paid(at: Path) -> Home:
    return made(at, "payments")


@pytest.fixture(scope="module")
def archived(at: Path) -> Home:
    return made(at, "archive")


def made(at: Path, what: str) -> Home:
    (at / what).mkdir()
    return damage.make_home(at / what, what)


@pytest.mark.parametrize("file", FILES)
def test_the_table_of_damages_is_what_happens(file: str, plain: Home, paid: Home, archived: Home, at: Path) -> None:
    homes = {"plain": plain, "payments": paid, "archive": archived}
    found = list(damage.outcomes(homes[damage.home_of(file)], file, at))

    told = re.findall(rf"^\| `{re.escape(file)}` \|.*\n", damage.published(), re.MULTILINE)
    assert damage.rows(file, found) == "".join(told), "python -m tests.support.damage writes the table"


def test_a_loss_is_shown_and_then_accepted(paid: Home, tmp_path: Path) -> None:
    folder = tmp_path / "home"
    shutil.copytree(paid.folder, folder, ignore=shutil.ignore_patterns("*.sock"))
    (folder / "trustgate.duckdb.wal").unlink()
    gateway = Gateway(folder)
    with pytest.raises(AssertionError):
        gateway.start()
    assert "trustgate accept-loss" in gateway.logs()
    assert gateway.cli("tenant", "list", check=False).returncode == 1, "commands do not pass over it either"

    shown = gateway.cli("accept-loss", check=False)
    assert (shown.returncode, "writes of payments are missing" in shown.stdout) == (5, True)
    with pytest.raises(AssertionError):
        gateway.start()
    assert "Accepted as lost" in gateway.cli("accept-loss", "--yes").stdout

    gateway.start()
    assert damage.ask(gateway, paid.revoked, 1) == [401], "what the operator decided is not among what is lost"
    assert damage.ask(gateway, paid.newcomer, 1) == [200]
    assert "writes of payments are missing" in (folder / "trustgate.duckdb.changes").read_text()
    assert gateway.cli("accept-loss", check=False).returncode == 5, "a server runs"
    assert gateway.stop() == 0
    assert gateway.cli("accept-loss").stdout.strip() == "Nothing is missing."


def test_a_log_that_has_signed_more_goes_on_under_another_name(plain: Home, tmp_path: Path) -> None:
    """The database and its journal are lost, an old copy of both is all there is; the checkpoint knows better."""
    folder = tmp_path / "home"
    shutil.copytree(plain.old, folder, ignore=shutil.ignore_patterns("*.sock"))
    gateway = Gateway(folder).start()
    key = gateway.add_tenant("third")
    damage.ask(gateway, key, 3)
    assert gateway.stop() == 0, "a stop signs what was answered"
    newer = (folder / "checkpoint").read_bytes()
    shutil.rmtree(folder)
    shutil.copytree(plain.old, folder, ignore=shutil.ignore_patterns("*.sock"))
    (folder / "checkpoint").write_bytes(newer)
    with pytest.raises(AssertionError):
        gateway.start()

    said = gateway.cli("accept-loss", "--yes").stdout

    assert "goes on under another name" in said
    gateway.start()
    assert len(list(folder.glob("log.key.replaced-*"))) == 1
    assert gateway.stop() == 0


def test_every_file_beside_the_database_is_its_users_alone(plain: Home) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in plain.folder.rglob("*") if path.is_file()}

    assert {name: oct(mode) for name, mode in modes.items() if mode & 0o077} == {}
    assert "trustgate.duckdb.wal" in modes
