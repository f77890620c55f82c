"""``python3 tests/binary``: TrustGate as one executable file, with a Python of its own inside. Standard library only.

    python3 tests/binary                    makes dist/trustgate
    python3 tests/binary --output FILE      makes it there
    python3 tests/binary --smoke            makes it and tries it in an empty environment

What is in it is listed beside it (``dist/trustgate.cdx.json``, CycloneDX).

Owns how the file is made: PyInstaller gathers the program into a folder, debug symbols are taken off, and the folder
becomes the payload of a shell script (stub.sh) that unpacks it once and then starts it from there. The file runs where
the C library is as new as here, or newer. Why not PyInstaller's own one file: it unpacks at every start (seconds for
`trustgate version`), and a `kill -9` hits its launcher and leaves the server running.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

# Run by its path, so that it needs nothing installed: the checkout is not on the path yet.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests import environments
from tests.binary.bom import bill
from tests.binary.smoke import smoke
from tests.environments import ROOT, say

HERE = Path(__file__).resolve().parent
#: Read with importlib.metadata at run time (trustgate version).
_METADATA = ("duckdb",)
#: Read from beside the modules (gateway.page, models.pricelist).
_DATA = ("trustgate/gateway/views/pages", "trustgate/models/data", "trustgate/web/static")
#: 3 takes a third of the time of the default, 6, for a file 3 % larger.
_COMPRESSION = 3


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python3 tests/binary", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=ROOT / "dist" / "trustgate", help="where to put the file")
    parser.add_argument("--smoke", action="store_true", help="try the file in an empty environment")
    options = parser.parse_args()
    began = time.monotonic()
    try:
        python = environments.binary_python(Path(sys.executable))
        build(python, options.output)
    except environments.EnvironmentFailed as error:
        say(str(error))
        return 1
    size = options.output.stat().st_size
    say(f"{options.output}: {size / 2**20:.0f} MiB, made in {time.monotonic() - began:.0f} s")
    if options.smoke:
        smoke(options.output.resolve())
    return 0


def build(python: Path, output: Path) -> None:
    """Make the file. Raises ``EnvironmentFailed`` when PyInstaller fails."""
    with tempfile.TemporaryDirectory() as work:
        folder = _gather(python, Path(work))
        _strip(folder)
        payload = _packed(folder)
    output.parent.mkdir(parents=True, exist_ok=True)
    new = output.with_name(f"{output.name}.new")
    new.write_bytes(_head(payload) + payload)
    new.chmod(0o755)
    new.replace(output)
    document = bill(python, _version())
    output.with_name(f"{output.name}.cdx.json").write_text(json.dumps(document, indent=2) + "\n")


def _version() -> str:
    found = re.search(r'__version__ = "(.+)"', (ROOT / "trustgate" / "__init__.py").read_text())
    assert found is not None, "the version is there"
    return found[1]


def _gather(python: Path, work: Path) -> Path:
    """The folder with the program, its Python and its libraries."""
    command = [str(python), "-m", "PyInstaller", "--onedir", "--name", "trustgate", "--noconfirm", "--log-level=WARN"]
    command += ["--distpath", str(work / "dist"), "--workpath", str(work / "work"), "--specpath", str(work)]
    # Imported by names that PyInstaller does not see. It looks for them in --paths, as it does not when it collects.
    command += [flag for name in sorted(_commands()) for flag in ("--hidden-import", name)]
    command += [flag for name in _METADATA for flag in ("--copy-metadata", name)]
    command += [flag for folder in _DATA for flag in ("--add-data", f"{ROOT / folder}:{folder}")]
    command += ["--paths", str(ROOT), str(HERE / "entry.py")]
    try:
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, cwd=work)
    except subprocess.CalledProcessError as error:
        raise environments.EnvironmentFailed(f"PyInstaller failed (exit code {error.returncode})") from None
    return work / "dist" / "trustgate"


def _commands() -> Iterator[str]:
    """The modules of the command line, by their names."""
    for path in (ROOT / "trustgate" / "cli").rglob("*.py"):
        yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _strip(folder: Path) -> None:
    """Take off debug symbols, a quarter of the size, where the machine has the tool. What it refuses stays whole."""
    tool = shutil.which("strip")
    if tool is None or sys.platform != "linux":
        return
    for library in folder.rglob("*.so*"):
        subprocess.run([tool, "--strip-unneeded", library], check=False, stderr=subprocess.DEVNULL)


def _packed(folder: Path) -> bytes:
    """The folder as tar.gz, the same bytes for the same content: names in order, without owners and times."""

    def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        return entry

    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=_COMPRESSION, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w|") as archive,
    ):
        for path in sorted(folder.rglob("*")):
            archive.add(path, str(path.relative_to(folder)), recursive=False, filter=anonymous)
    return packed.getvalue()


def _head(payload: bytes) -> bytes:
    stub = (HERE / "stub.sh").read_text()
    stub = stub.replace("@BUILD@", hashlib.sha256(payload).hexdigest()[:16])
    return stub.replace("@PAYLOAD_LINE@", str(stub.count("\n") + 1)).encode()


if __name__ == "__main__":
    os.environ.pop("PYTHONPATH", None)
    raise SystemExit(main())
