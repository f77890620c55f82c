"""The log's key: the published form, what it signs, and its file."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trustgate.errors import Conflict, HomeUnusable
from trustgate.receipts.logkey import LogKey, create_log_key, load_log_key

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent.parent / "vectors" / "notes.json").read_text("utf-8"))
PRIVATE: str = VECTORS["private_key"]


def test_a_published_key_signs_as_published() -> None:
    key = LogKey.parse(PRIVATE)
    case = VECTORS["signed"][1]
    assert key.name == "PeterNeumann"
    assert str(key.verifier) == case["vkey"]
    assert key.secret_text() == PRIVATE
    assert key.sign(case["note"].rpartition("\n\n")[0] + "\n") == case["note"].encode()


def test_a_key_shows_nothing_of_its_secret() -> None:
    key = LogKey.parse(PRIVATE)
    assert repr(key) == str(key) == f"LogKey({VECTORS['signed'][1]['vkey']!r})"


@pytest.mark.parametrize("text", ["", "no newline", "a\rb\n", "\x00\n", "\ud800\n"])
def test_a_text_that_no_note_has_is_not_signed(text: str) -> None:
    with pytest.raises(ValueError, match=r"text of a note|surrogates"):
        LogKey.parse(PRIVATE).sign(text)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\n"])
def test_a_name_that_no_key_has(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="the name of a key"):
        create_log_key(tmp_path / "log.key", name)
    assert list(tmp_path.iterdir()) == []


# The file.


@pytest.fixture(params=[0o022, 0o000, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_a_new_key_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "log.key"
    key = create_log_key(path, "example.com/log")

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == key.secret_text() + "\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["log.key"]
    assert str(load_log_key(path).verifier) == str(key.verifier)
    assert key.name == "example.com/log"


def test_no_two_keys_are_the_same(tmp_path: Path) -> None:
    keys = {create_log_key(tmp_path / str(number), "log").secret_text() for number in range(3)}
    assert len(keys) == 3


def no_links(_source: Path, _target: Path) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize("link", [os.link, no_links], ids=["links", "no links"])
def test_a_file_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: Callable[[Path, Path], None]
) -> None:
    """On file systems without hard links neither."""
    monkeypatch.setattr(os, "link", link)
    path = tmp_path / "log.key"
    create_log_key(path, "first")
    with pytest.raises(Conflict, match="already exists and is not overwritten"):
        create_log_key(path, "second")
    assert load_log_key(path).name == "first"

    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nowhere")
    with pytest.raises(Conflict):
        create_log_key(dangling, "second")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["dangling", "log.key"]


def test_what_a_crash_left_does_not_stand_in_the_way(tmp_path: Path) -> None:
    left = tmp_path / "log.key.new"
    left.write_text("half a k")
    left.chmod(0o644)
    path = tmp_path / "log.key"
    create_log_key(path, "log")
    assert load_log_key(path).name == "log"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not left.exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(HomeUnusable, match=r"log\.key cannot be written: No such file or directory") as refused:
        create_log_key(tmp_path / "missing" / "log.key", "log")
    assert refused.value.hint is not None


def test_a_key_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(HomeUnusable, match=r"log\.key cannot be read: No such file"):
        load_log_key(tmp_path / "log.key")
    (tmp_path / "log.key").mkdir()
    with pytest.raises(HomeUnusable, match=r"log\.key cannot be read: Is a directory"):
        load_log_key(tmp_path / "log.key")


def other_digit(text: str, at: int) -> str:
    return text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a private key in the form"),
        (VECTORS["signed"][1]["vkey"], "not a private key in the form"),
        ("[1,2,3]", "not a private key in the form"),
        (PRIVATE[:-1], "not a private key in the form"),
        (PRIVATE + "\n\n", "not a private key in the form"),
        (PRIVATE + "x" * 5000, "not a private key in the form"),
        (PRIVATE.replace("PeterNeumann", "Peter Neumann"), "not a private key in the form"),
        (PRIVATE.replace("PeterNeumann", "PeterNeumän"), "its hash is not that"),
        (other_digit(PRIVATE, PRIVATE.index("c74f")), "its hash is not that"),
        (other_digit(PRIVATE, len(PRIVATE) - 9), "its hash is not that"),
        (PRIVATE.replace("+AYEK", "+AoEK"), "not an Ed25519 key"),
        (PRIVATE + "AAAA", "not an Ed25519 key"),
    ],
)
def test_a_damaged_key_is_refused_without_showing_it(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "log.key"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(HomeUnusable, match=message) as refused:
        load_log_key(path)
    assert refused.value.__cause__ is None
    assert PRIVATE[-40:-5] not in refused.value.message + (refused.value.hint or "")


def test_a_key_that_others_can_read_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "log.key"
    path.write_text(PRIVATE)
    path.chmod(0o600)
    assert load_log_key(path).name == "PeterNeumann"
    assert caplog.messages == []

    path.chmod(0o640)
    load_log_key(path)
    assert [message.partition(str(path))[2] for message in caplog.messages] == [
        " can be used by others on this machine: chmod 600 it."
    ]
