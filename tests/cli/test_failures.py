"""What can go wrong before a command reaches anybody: wrong words, bad settings, unusable folders, other processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import GatewayFactory
from tests.support.disks import fill, tiny_disk
from tests.support.gateway import Gateway
from tests.support.processes import PATIENCE_S, clean_environment
from trustgate import __version__


def _run(*arguments: str | bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "trustgate", *arguments],
        env=clean_environment(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    program = (
        "import sys; from trustgate.cli import run; run(['--help']); "
        "heavy = {'duckdb', 'httpx', 'aiohttp', 'starlette', 'hypercorn', 'rich', 'asyncio', 'yaml', 'http.client', "
        "'msgspec', 'pydantic', 'trustgate.cli.tenant'}; "
        "sys.exit(', '.join(sorted(heavy & sys.modules.keys())) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "serve" in done.stdout


def test_the_version() -> None:
    assert _run("--version").stdout.decode() == f"trustgate {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("frobnicate",), "No such command 'frobnicate'"),
        (("tenant", "list", "--frob"), "No such option: --frob"),
        (("tenant", "add"), "Missing argument 'NAME'"),
        (("key", "create", "acme", "--expires", "soon"), "'--expires': 'soon' is not a time to come"),
        (("key", "create", "acme", "--requests-per-day=-1"), "'--requests-per-day': '-1' is not a whole number"),
        (("plan", "set", "pro", "--usd-per-day", "5,00"), "'--usd-per-day': '5,00' is not an amount in USD"),
        (("passport", "add", "m", "--input-price", "0.0000001"), "more than 6 decimals"),
        (("passport", "add", "m", "--parameter", "stop=x"), "'--parameter': the value of stop is not JSON"),
        (("usage", "--by", "weather"), "'weather' is not one of 'day', 'hour', 'model', 'key', 'tenant'"),
        (("receipt", "list", "--limit", "0"), "'--limit'"),
        (("serve", "--port", "http"), "'--port'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_words_are_usage_errors(home: Gateway, arguments: tuple[str, ...], said: str) -> None:
    result = home.cli(*arguments, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert said in result.stderr
    assert "--help" in result.stderr
    assert not home.home.exists()


def test_a_noun_alone_shows_its_verbs() -> None:
    result = _run("tenant")
    assert result.returncode == 2
    assert b"suspend" in result.stderr


def test_an_argument_that_is_no_utf8_is_refused(home: Gateway) -> None:
    result = _run("--home", str(home.home), "tenant", "add", b"caf\xe9")
    assert result.returncode == 2
    assert b"is not UTF-8" in result.stderr


def test_a_mistake_in_the_settings_file_is_told_with_its_line(home: Gateway) -> None:
    home.home.mkdir(mode=0o700)
    (home.home / "trustgate.toml").write_text('[serve]\nhost = "127.0.0.1"\nport = "many"\n')
    result = home.cli("tenant", "list", "--json", check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert "trustgate.toml, line 3" in result.stderr
    (home.home / "trustgate.toml").write_text("[serve\n")
    assert "trustgate.toml, line 1" in home.cli("tenant", "list", check=False).stderr


def test_a_home_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    result = _run("--home", str(tmp_path / "file" / "home"), "tenant", "add", "acme")
    assert result.returncode == 1
    assert b"cannot be created" in result.stderr
    assert b"--home" in result.stderr


def test_a_home_on_a_read_only_disk_is_refused_with_that_reason(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", 2**20, ",ro") as disk:
        for command in (("tenant", "list"), ("serve", "--port", "0")):
            result = _run("--home", str(disk), *command)
            assert result.returncode == 1
            assert result.stderr.startswith(f"Error: The home folder {disk} is on a disk that is".encode())
        assert b"is on a disk that is mounted read-only" in _run("--home", str(disk), "doctor").stdout


def test_on_a_full_disk_a_settings_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", 2**20) as disk:
        settings = disk / "home" / "trustgate.toml"
        settings.parent.mkdir()
        filler = fill(disk)
        refused = _run("--home", str(settings.parent), "init", "--yes")
        assert (refused.returncode, refused.stderr.splitlines()[1]) == (1, b"  Free some space on its disk.")
        assert not settings.exists()
        filler.unlink()
        settings.write_text("# mine\n")
        fill(disk)
        refused = _run("--home", str(settings.parent), "init", "--yes", "--force")
        assert (refused.returncode, refused.stderr.splitlines()[1]) == (1, b"  Free some space on its disk.")
        assert settings.read_text() == "# mine\n"
        refused = _run("--home", str(disk / "other"), "tenant", "add", "acme")
        assert (refused.returncode, refused.stderr.splitlines()[1]) == (1, b"  Free some space on its disk.")


def test_a_long_home_needs_a_folder_for_its_socket(tmp_path: Path) -> None:
    home = tmp_path / ("x" * 120)
    result = _run("--home", str(home), "tenant", "add", "acme", XDG_RUNTIME_DIR="/dev/null")
    assert result.returncode == 1
    assert result.stderr.startswith(b"Error: The folder /dev/null/trustgate-")
    assert b"cannot be created: Not a directory." in result.stderr


def test_the_home_can_come_from_the_environment(tmp_path: Path) -> None:
    assert _run("tenant", "add", "acme", TRUSTGATE_HOME=str(tmp_path / "there")).returncode == 0
    assert (tmp_path / "there" / "trustgate.duckdb").exists()


def test_a_database_that_another_process_holds_is_told_with_its_process(home: Gateway) -> None:
    home.make_home()
    program = (
        "import asyncio, sys; from pathlib import Path; from trustgate.store import open_store\n"
        "async def hold():\n"
        "    store = await open_store(Path(sys.argv[1])); print('held', flush=True)\n"
        "    await asyncio.to_thread(sys.stdin.read); await store.close()\n"
        "asyncio.run(hold())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(home.home / "trustgate.duckdb")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        result = home.cli("tenant", "list", check=False)
        diagnosis = home.cli("doctor", check=False)
        holder.stdin.close()
    assert result.returncode == 6
    assert str(holder.pid) in result.stderr
    assert diagnosis.returncode == 1
    assert str(holder.pid) in diagnosis.stdout
    assert home.cli("tenant", "list").returncode == 0


def test_a_reader_that_leaves_early_is_no_failure(home: Gateway) -> None:
    home.make_home()
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(
        [sys.executable, "-m", "trustgate", "--home", str(home.home), "plan", "list", "--json"],
        env=clean_environment(),
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=PATIENCE_S,
        check=False,
    )
    os.close(write)
    assert (result.returncode, result.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_output_that_cannot_be_written_is_told(home: Gateway) -> None:
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(
            [sys.executable, "-m", "trustgate", "version"],
            env=clean_environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=PATIENCE_S,
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr.startswith(b"Error: The output cannot be written")


def _in_shell(home: Gateway, command: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of a shell; in it ``trustgate`` is the program on this home."""
    program = f'trustgate() {{ exec "{sys.executable}" -m trustgate --home "{home.home}" "$@"; }}\n'
    return subprocess.run(
        ["sh", "-c", program + command], env=clean_environment(), capture_output=True, timeout=PATIENCE_S, check=False
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_an_exit_code_does_not_depend_on_what_stderr_takes(home: Gateway) -> None:
    home.make_home()
    assert _in_shell(home, "trustgate tenant show nobody 2>/dev/full").returncode == 4
    assert _in_shell(home, "trustgate tenant nonsense 2>/dev/full >/dev/full").returncode == 2
    # It writes to stderr that there is nothing to list.
    assert _in_shell(home, "trustgate tenant list 2>/dev/full").returncode == 0
    assert _in_shell(home, "trustgate tenant list --json >/dev/full 2>&-").returncode == 1


def test_what_is_opened_never_takes_the_place_of_output_that_is_closed(home: Gateway) -> None:
    """Else messages would be written into the database, whose file would have the number of stderr."""
    added = _in_shell(home, "trustgate tenant add bob <&- >&-")
    assert (added.returncode, added.stderr.splitlines()[0]) == (
        1,
        b"Error: The output cannot be written: Bad file descriptor.",
    )
    assert _in_shell(home, "trustgate tenant show nobody <&- >&- 2>&-").returncode == 4
    assert home.cli_json("tenant", "list")["tenants"][0]["name"] == "bob"


def test_a_fault_of_our_own_is_told_without_a_traceback_unless_it_is_wanted() -> None:
    program = (
        "import sys; import trustgate.cli.version as v; from trustgate.cli import run\n"
        "def broken(): raise ZeroDivisionError('oops')\n"
        "v.versions = broken; sys.exit(run(['version']))"
    )
    command = [sys.executable, "-c", program]
    quiet = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=False)
    assert quiet.returncode == 1
    assert quiet.stderr.startswith("Error: internal error: ZeroDivisionError")
    assert "TRUSTGATE_DEBUG=1" in quiet.stderr
    assert "Traceback" not in quiet.stderr
    wanted = clean_environment({"TRUSTGATE_DEBUG": "1"})
    loud = subprocess.run(command, env=wanted, capture_output=True, text=True, check=False)
    assert "Traceback" in loud.stderr


def test_an_interrupted_command_ends_with_130() -> None:
    program = (
        "import os, signal, sys; import trustgate.cli.version as v; from trustgate.cli import run\n"
        # A background job inherits SIGINT as ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "v.versions = lambda: os.kill(os.getpid(), signal.SIGINT); sys.exit(run(['version']))"
    )
    done = subprocess.run([sys.executable, "-c", program], env=clean_environment(), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (130, b"")


def test_a_second_server_is_refused(make_gateway: GatewayFactory) -> None:
    first = make_gateway(upstream="builtin:echo").start()
    result = first.cli("serve", "--port", "0", check=False)
    assert result.returncode == 6
    assert str(first.process.pid) in result.stderr
    assert first.cli_json("doctor")["ok"] is True


def test_doctor_warns_of_metrics_that_everybody_may_read(make_gateway: GatewayFactory) -> None:
    home = make_gateway(upstream="builtin:echo")
    home.home.mkdir(mode=0o700)
    config = home.home / "trustgate.toml"
    for host, key_env, warns in (
        ("127.0.0.1", "", False),
        ("[::1]", "", False),
        ("0.0.0.0", "", True),
        ("::", "K", False),
    ):
        config.write_text(f'[serve]\nhost = "{host}"\n' + (f'[metrics]\nkey_env = "{key_env}"\n' if key_env else ""))
        found = [
            check
            for check in json.loads(home.cli("doctor", "--json", check=False).stdout)["checks"]
            if check["name"] == "metrics"
        ]
        assert [check["status"] for check in found] == (["warn"] if warns else []), host
        assert all("metrics.key_env" in check["hint"] for check in found)
