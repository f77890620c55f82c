"""Build the account page's x402 client: ``python -m tests.wallet``.

What npm has, at the versions of ``tests/clients/package-lock.json``, in one module without comments; a test builds it
again and compares.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.environments import ROOT, node_folder

SOURCE = Path(__file__).with_name("pay.mjs")
BUNDLE = ROOT / "trustgate" / "web" / "static" / "account" / "pay.js"
LICENCES = BUNDLE.with_name("pay.licences.txt")


def build(modules: Path) -> bytes:
    """Returns the bundle. ``modules``: the ``node_modules`` that has esbuild and the client."""
    return _built(modules)[0]


def licences(modules: Path) -> bytes:
    """Returns the packages in the bundle, each with its version and the text of its licence."""
    parts = []
    for name in sorted({_package(path) for path in _built(modules)[1] if "node_modules/" in path}):
        folder = modules / name
        about = json.loads((folder / "package.json").read_text())
        texts = sorted(file for file in folder.iterdir() if file.name.upper().startswith("LICEN"))
        text = texts[0].read_text().strip() if texts else "(The package has no copy of it.)"
        parts.append(f"{name} {about['version']}, {about['license']}\n\n{text}\n")
    head = "What pay.js is made of, with the licences under which it is.\n\n"
    return (head + f"\n{'-' * 80}\n\n".join(parts)).encode()


def _package(path: str) -> str:
    parts = path.rpartition("node_modules/")[2].split("/")
    return "/".join(parts[: 2 if parts[0].startswith("@") else 1])


def _built(modules: Path) -> tuple[bytes, list[str]]:
    """Returns the bundle, and the files that are in it."""
    # Read from stdin, so that no path of this machine gets in.
    command = [str(modules / ".bin" / "esbuild"), "--bundle", "--format=esm", "--minify", "--target=es2022"]
    command += ["--legal-comments=none", "--charset=ascii", "--log-level=error", "--sourcefile=pay.mjs"]
    with TemporaryDirectory() as folder:
        meta, bundle = Path(folder) / "meta.json", Path(folder) / "pay.js"
        subprocess.run(
            [*command, f"--metafile={meta}", f"--outfile={bundle}"],
            input=SOURCE.read_bytes(),
            cwd=modules.parent,
            timeout=60,
            check=True,
        )
        [output] = json.loads(meta.read_text())["outputs"].values()
        made = bundle.read_bytes()
    return made, [path for path, part in output["inputs"].items() if part["bytesInOutput"]]


if __name__ == "__main__":
    folder = node_folder() / "node_modules" if len(sys.argv) == 1 else Path(sys.argv[1])
    BUNDLE.write_bytes(build(folder))
    LICENCES.write_bytes(licences(folder))
