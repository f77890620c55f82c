"""Commands that add up, typed again: under which reference each is carried out."""

from __future__ import annotations

import contextlib
import fcntl
import io
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest
import typer

from trustgate.admin.money import BalanceChange, TenantCredit
from trustgate.cli import repeating
from trustgate.cli.context import Session
from trustgate.cli.render import instant_utc
from trustgate.cli.repeating import note_in_json, repeatable, repeated_note
from trustgate.errors import Conflict, TrustGateError, Unavailable
from trustgate.ids import now_us
from trustgate.types import Tenant

CREDIT = TenantCredit(tenant="acme", add_nano_usd=5)
DAY_US = 24 * 3600 * 1_000_000


class _Line:
    """A command line in a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._context = cast(typer.Context, SimpleNamespace(obj=Session(home)))

    def type(
        self, command: TenantCredit = CREDIT, fault: BaseException | None = None
    ) -> contextlib.AbstractContextManager[tuple[str, str]]:
        """Gives the reference, and when the command was typed before; ``fault``: what it ends with."""
        return self._typed(command, fault)

    @contextlib.contextmanager
    def _typed(self, command: TenantCredit, fault: BaseException | None) -> Iterator[tuple[str, str]]:
        with (
            contextlib.nullcontext() if fault is None else pytest.raises(type(fault)),
            repeatable(self._context, command) as (with_reference, before),
        ):
            yield with_reference.reference, before
            if fault is not None:
                raise fault

    def once(self, command: TenantCredit = CREDIT, fault: BaseException | None = None) -> tuple[str, str]:
        with self.type(command, fault) as typed:
            return typed

    @property
    def kept(self) -> list[Path]:
        """The files of commands without an answer."""
        folder = self.home / "unanswered"
        return sorted(folder.iterdir()) if folder.is_dir() else []


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Line:
    for name in ("TRUSTGATE_URL", "TRUSTGATE_STORE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRUSTGATE_ADMIN_KEY", "of-any-server")
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    return _Line(home)


def test_what_had_an_answer_is_another_command_the_next_time(line: _Line) -> None:
    (first, before), (second, before_that) = line.once(), line.once()
    assert first.startswith("typed ") and first != second
    assert (before, before_that, line.kept) == ("", "", [])


def test_an_operators_own_reference_stays(line: _Line) -> None:
    command = TenantCredit(tenant="acme", add_nano_usd=5, reference="invoice 1")
    assert line.once(command, fault=OSError()) == ("invoice 1", "")
    assert line.once(command) == ("invoice 1", "")
    assert line.kept == []


@pytest.mark.parametrize(
    "fault",
    [
        KeyboardInterrupt(),
        OSError("the pipe is closed"),
        Unavailable("The disk is full."),
        TrustGateError("A fault of our own."),
        type("BrokeOff", (Conflict,), {"status": 499, "code": "server_broke_off"})("The server broke off."),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_what_had_no_answer_is_the_same_command_once(
    line: _Line, fault: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    started_us = now_us()
    lost, _ = line.once(fault=fault)
    [file] = line.kept
    assert (stat.S_IMODE(file.stat().st_mode), stat.S_IMODE(file.parent.stat().st_mode)) == (0o600, 0o700)
    again, before = line.once()
    assert again == lost
    assert instant_utc(started_us) <= before <= instant_utc(now_us())
    assert line.kept == []
    assert line.once()[0] != lost
    assert capsys.readouterr().err == "", "the file has the reference"
    if isinstance(fault, TrustGateError):
        assert fault.hint == "Typed again within a day, it counts once."


def test_what_was_refused_is_forgotten(line: _Line) -> None:
    refusal = Conflict("It draws on no balance.", hint="Let it.")
    line.once(fault=refusal)
    assert (line.kept, refusal.hint) == ([], "Let it.")


def test_another_command_or_another_server_is_another(line: _Line, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = Unavailable("The disk is full.")
    seen = {line.once(fault=fault)[0]}
    seen.add(line.once(TenantCredit(tenant="acme", add_nano_usd=6), fault=fault)[0])
    for url in ("http://127.0.0.1:9", "http://127.0.0.1:10"):
        monkeypatch.setenv("TRUSTGATE_URL", url)
        seen.add(line.once(fault=fault)[0])
    assert len(seen) == len(line.kept) == 4
    monkeypatch.delenv("TRUSTGATE_URL")
    assert line.once()[1] != ""
    assert len(line.kept) == 3


def test_one_that_still_runs_is_not_taken_for_one_without_an_answer(line: _Line) -> None:
    with line.type() as first, line.type() as second:
        assert first[0] != second[0]
        assert (second[1], len(line.kept)) == ("", 2)
    assert line.kept == []


@pytest.mark.parametrize("is_late", [False, True])
def test_it_is_remembered_for_a_day(line: _Line, is_late: bool) -> None:
    lost, _ = line.once(fault=KeyboardInterrupt())
    [file] = line.kept
    typed = msgspec.json.decode(file.read_bytes())
    typed["typed_us"] -= DAY_US if is_late else DAY_US - 60_000_000
    file.write_bytes(msgspec.json.encode(typed))
    with line.type() as (reference, before):
        assert (reference == lost, before == "") == (not is_late, is_late)
        assert len(line.kept) == 1, "what is too old is removed"


def _open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_damaged_file_is_passed_over(line: _Line) -> None:
    lost, _ = line.once(fault=KeyboardInterrupt())
    [file] = line.kept
    file.write_bytes(b"{")
    descriptors = _open_files()
    reference, before = line.once()
    assert (reference != lost, before, line.kept) == (True, "", [])
    assert _open_files() == descriptors


def test_what_ended_with_its_answer_meanwhile_is_not_repeated(line: _Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file is there when it is looked for, and gone once it could be locked."""
    lost, _ = line.once(fault=KeyboardInterrupt())
    [file] = line.kept
    flock = fcntl.flock

    def lock_late(descriptor: int, operation: int) -> None:
        if operation & fcntl.LOCK_NB:
            file.unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    descriptors = _open_files()
    reference, before = line.once()
    assert (reference != lost, before, _open_files()) == (True, "", descriptors)


def test_an_answer_that_could_not_be_written_is_none(line: _Line, monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError

    with monkeypatch.context() as closed:
        closed.setattr(sys, "stdout", Closed())
        with pytest.raises(BrokenPipeError), line.type() as (lost, _):
            pass
    assert line.once()[0] == lost


def test_in_json_the_reason_of_a_repetition_is_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    acme = Tenant(id="ten_1", name="acme", plan="pro")
    change = BalanceChange(tenant=acme, balance_nano_usd=0, held_nano_usd=0)
    repeated = msgspec.structs.replace(change, repeated=True)
    for told, before in ((change, ""), (change, "2026-02-02"), (repeated, "")):
        note_in_json(told, before)
    assert capsys.readouterr() == ("", "")
    note_in_json(repeated, "2026-02-02")
    out, err = capsys.readouterr()
    assert (out, "typed before, at 2026-02-02" in " ".join(err.split())) == ("", True)
    assert "reference was used before" in repeated_note("")


def test_what_root_keeps_in_a_services_home_is_the_services(line: _Line, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    monkeypatch.setattr(repeating, "give_to_owner", lambda home, path: given.append((home, path)))
    line.once(fault=KeyboardInterrupt())
    assert given == [(line.home, path) for path in (line.home / "unanswered", *line.kept)]


def test_where_nothing_can_be_kept_the_reference_is_shown(line: _Line, capsys: pytest.CaptureFixture[str]) -> None:
    (line.home / "unanswered").write_text("in the way")
    fault = Unavailable("The disk is full.")
    reference, _ = line.once(fault=fault)
    assert f"add: --reference '{reference}'" in " ".join(capsys.readouterr().err.split())
    assert fault.hint is None, "typed again it would count twice"
    line.once(fault=OSError())
    assert capsys.readouterr().err.count("To repeat this safely") == 2, "at first, and where it goes wrong"


def test_no_home_is_made_for_what_changes_nothing(line: _Line, monkeypatch: pytest.MonkeyPatch) -> None:
    line.home.rmdir()
    reference, before = line.once()
    assert (reference.startswith("typed "), before, line.home.exists()) == (True, "", False)
    monkeypatch.setenv("TRUSTGATE_URL", "http://127.0.0.1:9")
    line.once(fault=KeyboardInterrupt())
    assert len(line.kept) == 1, "what another server has no answer of is remembered here"
