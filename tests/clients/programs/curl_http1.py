"""curl over HTTP/1.1, and what both curl programs share."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from typing import Any

from tests.clients.programs.report import HELLO, TEXT, equal, folder, given
from tests.clients.programs.wire import Ask, report_all


@dataclass(frozen=True)
class Said:
    status: int
    body: bytes


def curl(version: str, *arguments: str, key: str = given.key) -> subprocess.CompletedProcess[bytes]:
    command = ["curl", "-sS", version, "--max-time", "60", "-H", f"Authorization: Bearer {key}", *arguments]
    return subprocess.run(command, capture_output=True, check=False)


def asker(option: str, version: str) -> Ask:
    """Asks with curl; every answer must have come in that version of HTTP."""

    def ask(method: str, path: str, body: Any, headers: dict[str, str], key: str) -> Said:
        arguments = ["-X", method, "-w", "\n%{http_version} %{http_code}", given.origin + path]
        if body is not None:
            arguments += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
        for name, value in headers.items():
            arguments += ["-H", f"{name}: {value}"]
        done = curl(option, *arguments, key=key)
        assert done.returncode == 0, done.stderr.decode()
        said, _, last = done.stdout.rpartition(b"\n")
        seen, status = last.decode().split()
        equal(seen, version)
        return Said(int(status), said)

    return ask


def upload(option: str) -> None:
    sound = folder / "a.wav"
    sound.write_bytes(b"RIFF" * 50_000)
    done = curl(option, "-F", "model=scripted", "-F", f"file=@{sound}", f"{given.url}/audio/transcriptions")
    assert done.returncode == 0, done.stderr.decode()
    equal(json.loads(done.stdout)["text"], TEXT)


def leave(option: str) -> None:
    """Leave a stream once it has begun."""
    body = json.dumps({"model": "endless", "messages": HELLO, "stream": True})
    command = ["curl", "-sSN", option, "--max-time", "20", "-H", f"Authorization: Bearer {given.key}"]
    command += ["-H", "Content-Type: application/json", "-d", body, f"{given.url}/chat/completions"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        began = time.monotonic()
        assert process.stdout.readline().startswith(b"data: ")
        assert time.monotonic() - began < 15, "the first frame did not leave at once"
        process.kill()


if __name__ == "__main__":
    report_all(
        asker("--http1.1", "1.1"), transcriptions=lambda: upload("--http1.1"), hang_up=lambda: leave("--http1.1")
    )
