"""Build the account page's x402 clients, one for each kind of chain: ``python -m tests.wallet``.

What npm has, at the versions of ``tests/clients/package-lock.json``, in one module each without comments; a test builds
them again and compares.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.environments import ROOT, node_folder

_SOURCES = Path(__file__).parent
_BUNDLES = ROOT / "trustgate" / "web" / "static" / "account"
#: The bundles by their names: of chains as Solana's, and as Ethereum's.
NAMES = ("pay_solana", "pay_evm")


def bundle(name: str) -> Path:
    return _BUNDLES / f"{name}.js"


def licences(name: str) -> Path:
    return _BUNDLES / f"{name}.licences.txt"


def build(name: str, modules: Path) -> tuple[bytes, bytes]:
    """Returns a bundle, and the packages in it, each with its version and the text of its licence.

    Args:
        name: one of ``NAMES``.
        modules: the ``node_modules`` that has esbuild and the client.
    """
    made, inputs = _built(name, modules)
    parts = []
    for folder in sorted({_package(path, modules) for path in inputs if "node_modules/" in path}):
        about = json.loads((folder / "package.json").read_text())
        texts = sorted(file for file in folder.iterdir() if file.name.upper().startswith("LICEN"))
        text = texts[0].read_text().strip() if texts else "(The package has no copy of it.)"
        parts.append(f"{about['name']} {about['version']}, {about['license']}\n\n{text}\n")
    head = f"What {name}.js is made of, with the licences under which it is.\n\n"
    return made, (head + f"\n{'-' * 80}\n\n".join(parts)).encode()


def _package(path: str, modules: Path) -> Path:
    """Returns the folder of the package that a file is of; packages may have others within."""
    within = path.partition(f"/{modules.parent.name}/{modules.name}/")[2]
    before, nested, last = within.rpartition(f"{modules.name}/")
    parts = last.split("/")
    return modules / f"{before}{nested}{'/'.join(parts[: 2 if parts[0].startswith('@') else 1])}"


def _built(name: str, modules: Path) -> tuple[bytes, list[str]]:
    """Returns the bundle, and the files that are in it."""
    command = [str(modules / ".bin" / "esbuild"), f"{name}.mjs", "--bundle", "--format=esm", "--minify"]
    command += ["--target=es2022", "--legal-comments=none", "--charset=ascii", "--log-level=error"]
    command += ["--alias:viem=./viem.mjs", f"--alias:viem-whole={modules}/viem/_esm/index.js"]
    with TemporaryDirectory() as folder:
        # Copied, so that no path of this machine gets in and what is imported is looked for in `modules` alone.
        for source in _SOURCES.glob("*.mjs"):
            shutil.copy(source, folder)
        meta, made = Path(folder) / "meta.json", Path(folder) / f"{name}.js"
        subprocess.run(
            [*command, f"--metafile={meta}", f"--outfile={made}"],
            cwd=folder,
            env={**os.environ, "NODE_PATH": str(modules)},
            timeout=60,
            check=True,
        )
        [output] = json.loads(meta.read_text())["outputs"].values()
        return made.read_bytes(), [path for path, part in output["inputs"].items() if part["bytesInOutput"]]


if __name__ == "__main__":
    folder = node_folder() / "node_modules" if len(sys.argv) == 1 else Path(sys.argv[1])
    for each in NAMES:
        made, text = build(each, folder)
        bundle(each).write_bytes(made)
        licences(each).write_bytes(text)
