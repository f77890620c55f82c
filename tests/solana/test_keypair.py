"""Keypair files: those of the Solana CLI work, everything else is refused without a word of what is in it."""

from __future__ import annotations

import errno
import json
import logging
import os
import pickle
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from solders.keypair import Keypair
from solders.signature import Signature

from tests.support.disks import fill, tiny_disk
from trustgate.errors import Conflict, HomeUnusable, SettingsError
from trustgate.solana.keypair import PayerKey, create_keypair, load_keypair

#: Made with ``solana-keygen``'s form: the seed of 32 sevens, and its public key.
SEED = bytes([7]) * 32
NUMBERS = list(bytes(Keypair.from_seed(SEED)))
ADDRESS = "GmaDrppBC7P5ARKV8g3djiwP89vz1jLK23V2GBjuAEGB"


def write(path: Path, content: object, mode: int = 0o600) -> Path:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    path.write_bytes(data)
    path.chmod(mode)
    return path


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_of_the_solana_cli_works_as_it_is(tmp_path: Path) -> None:
    key = load_keypair(write(tmp_path / "id.json", NUMBERS))
    assert key.address == ADDRESS == str(key.pubkey())
    assert Signature.from_bytes(key.sign(b"text")).verify(key.pubkey(), b"text")


@pytest.mark.parametrize("text", [json.dumps(NUMBERS, indent=4), json.dumps(NUMBERS) + "\n", f"  {NUMBERS}\r\n"])
def test_blanks_do_not_matter(tmp_path: Path, text: str) -> None:
    assert load_keypair(write(tmp_path / "id.json", text.encode())).address == ADDRESS


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    write(tmp_path / "id.json", NUMBERS)
    (tmp_path / "link").symlink_to("id.json")
    assert load_keypair(tmp_path / "link").address == ADDRESS


def test_what_is_made_can_be_loaded_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "anchor.json"
    mask = os.umask(0o277)  # takes away even the owner's right to write
    try:
        made = create_keypair(path)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_keypair(path).address == made.address
    numbers = json.loads(path.read_bytes())
    assert Keypair.from_bytes(bytes(numbers)) == Keypair.from_json(path.read_text())
    assert names_in(tmp_path) == ["anchor.json"]
    assert create_keypair(tmp_path / "another.json").address != made.address


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path / "id.json", b"mine")
    with pytest.raises(Conflict, match="not overwritten"):
        create_keypair(path)
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(Conflict, match="not overwritten"):
        create_keypair(tmp_path / "dangling")
    assert path.read_bytes() == b"mine"
    assert names_in(tmp_path) == ["dangling", "id.json"]


def test_of_many_that_make_the_same_file_one_succeeds(tmp_path: Path) -> None:
    made: list[str] = []
    refused: list[Conflict] = []
    barrier = threading.Barrier(8)

    def make() -> None:
        barrier.wait()
        try:
            made.append(create_keypair(tmp_path / "id.json").address)
        except Conflict as error:
            refused.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 7
    assert made == [load_keypair(tmp_path / "id.json").address]
    assert names_in(tmp_path) == ["id.json"]


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def no_links(*_: object) -> None:
        raise OSError(code, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    made = create_keypair(tmp_path / "id.json")
    assert load_keypair(tmp_path / "id.json").address == made.address
    with pytest.raises(Conflict):
        create_keypair(tmp_path / "id.json")
    assert names_in(tmp_path) == ["id.json"]
    assert load_keypair(tmp_path / "id.json").address == made.address


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(HomeUnusable, match="No such file or directory"):
        create_keypair(tmp_path / "no" / "id.json")


def test_a_full_disk_leaves_no_half_of_a_key(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", 65536) as disk:
        fill(disk)
        with pytest.raises(HomeUnusable, match="No space left"):
            create_keypair(disk / "id.json")
        assert names_in(disk) == ["filler"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o602])
def test_a_file_that_others_can_use_is_used_with_a_warning(
    tmp_path: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "id.json", NUMBERS, mode)
    assert load_keypair(path).address == ADDRESS
    assert [(record.levelno, "chmod 600" in record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, True)
    ]
    caplog.clear()
    load_keypair(write(path, NUMBERS, 0o400))
    assert caplog.records == []


HOSTILE = {
    "empty": (b"", "not a JSON array"),
    "text": (b"hello", "not a JSON array"),
    "base58": (json.dumps(str(Keypair.from_seed(SEED))).encode(), "not a JSON array"),
    "object": (b'{"secret": [1, 2, 3]}', "not a JSON array"),
    "null": (b"null", "not a JSON array"),
    "binary": (bytes(range(256)), "not a JSON array"),
    "surrogate": (b'"\\ud800"', "not a JSON array"),
    "half": (json.dumps(NUMBERS).encode()[:80], "not a JSON array"),
    "two": (json.dumps(NUMBERS).encode() * 2, "not a JSON array"),
    "fractions": (json.dumps([float(n) + 0.5 for n in NUMBERS]).encode(), "not a JSON array"),
    "booleans": (json.dumps([True] * 64).encode(), "not a JSON array"),
    "strings": (json.dumps([str(n) for n in NUMBERS]).encode(), "not a JSON array"),
    "nested": (b"[" * 2000 + b"]" * 2000, "not a JSON array"),
    "none": (b"[]", "holds 0 numbers, not 64"),
    "seed": (json.dumps(NUMBERS[:32]).encode(), "holds 32 numbers, not 64"),
    "one too many": (json.dumps([*NUMBERS, 0]).encode(), "holds 65 numbers, not 64"),
    "too large a number": (json.dumps([256, *NUMBERS[1:]]).encode(), "not from 0 to 255"),
    "negative": (json.dumps([-1, *NUMBERS[1:]]).encode(), "not from 0 to 255"),
    "huge number": (b"[" + b"9" * 400 + b"]", "holds 1 numbers"),
    "other public key": (json.dumps(NUMBERS[:32] + [1] * 32).encode(), "does not belong to its secret half"),
    "halves swapped": (json.dumps(NUMBERS[32:] + NUMBERS[:32]).encode(), "does not belong to its secret half"),
    "huge": (b"[" + b" " * 100_000, "larger than"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_keypair_is_refused_clearly(tmp_path: Path, name: str) -> None:
    content, why = HOSTILE[name]
    with pytest.raises(SettingsError, match=why) as caught:
        load_keypair(write(tmp_path / "id.json", content))
    assert caught.value.hint is not None and "trustgate anchor keygen" in caught.value.hint


def test_what_cannot_be_read_is_refused_clearly(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="There is no keypair file"):
        load_keypair(tmp_path / "none.json")
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        load_keypair(tmp_path)
    with pytest.raises(SettingsError, match="cannot be read: Not a directory"):
        load_keypair(write(tmp_path / "file", b"") / "id.json")
    with pytest.raises(SettingsError, match="cannot be read"):
        load_keypair(Path("nul\0byte"))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SettingsError, match="not a file"):
        load_keypair(tmp_path / "pipe")  # and does not wait for a writer


@given(st.binary(max_size=400) | st.lists(st.integers(-1, 257), max_size=70).map(lambda n: json.dumps(n).encode()))
def test_no_content_leads_to_anything_but_a_key_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "hostile.json"
    with pytest.raises(SettingsError):
        load_keypair(write(path, content))


def test_the_secret_shows_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    path = write(tmp_path / "id.json", NUMBERS, 0o644)
    key = load_keypair(path)
    secret = str(Keypair.from_seed(SEED))
    shown = f"{key!r} {key} {caplog.text} {vars(key) if hasattr(key, '__dict__') else ''}"
    assert ADDRESS in shown
    for form in (secret, "7, 7, 7", "7,7,7", "07" * 8, secret[:20]):
        assert form not in shown
    with pytest.raises(TypeError):
        pickle.dumps(key)
    with pytest.raises(SettingsError) as caught:
        load_keypair(write(path, NUMBERS[:63]))
    assert (
        "7, 7" not in f"{caught.value.message}{caught.value.hint}{caught.value.__cause__!r}{caught.value.__context__!r}"
    )


def test_a_generated_key_is_a_new_one() -> None:
    assert PayerKey.generate().address != PayerKey.generate().address
    assert PayerKey.from_seed(SEED).address == ADDRESS
