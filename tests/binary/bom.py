"""The bill of materials of the single file: which packages are in it, at which versions, under which licences.

CycloneDX 1.6, JSON. What is in the file is what the lock names and its environment has; PyInstaller is not.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.environments import MAIN_LOCK
from tests.lock import locked, normalised

#: Run in the environment: name → version and what its metadata has of licences.
_METADATA = """
import json
from importlib.metadata import distributions
print(json.dumps({one.metadata["Name"]: {
    "version": one.version,
    "expression": one.metadata.get("License-Expression") or "",
    "license": one.metadata.get("License") or "",
    "classifiers": [line.rpartition(" :: ")[2] for line in one.metadata.get_all("Classifier") or []
                    if line.startswith("License :: ")],
    "summary": one.metadata.get("Summary") or "",
} for one in distributions()}))
"""
#: What classifiers and free texts mean in SPDX's words.
_SPDX = {
    "MIT License": "MIT",
    "MIT": "MIT",
    "Apache Software License": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache-2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "BSD": "BSD-3-Clause",
    "BSD-3-Clause": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "MPL-2.0": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}


#: Packages whose metadata does not say; read from the licence that they bring. jsonalias, of solders' author, says
#: nothing and brings none.
_BY_HAND = {"httpx-aiohttp": "BSD-3-Clause", "solana": "MIT", "jsonalias": "NOASSERTION"}


def metadata_of(python: Path | str) -> dict[str, dict[str, Any]]:
    """Returns the metadata of what an environment has, by normalised name."""
    # -I: what is beside this file is not part of that environment.
    done = subprocess.run([str(python), "-I", "-c", _METADATA], check=True, capture_output=True, text=True)
    return {normalised(name): found for name, found in json.loads(done.stdout).items()}


def licence_of(name: str, metadata: Mapping[str, Any]) -> str:
    """Returns a package's licence as an SPDX expression; "" where neither its metadata nor our table knows it."""
    if metadata["expression"] or name in _BY_HAND:
        return str(metadata["expression"] or _BY_HAND[name])
    words = [*metadata["classifiers"], *metadata["license"].splitlines()[:1]]
    return " OR ".join(dict.fromkeys(_SPDX[word] for word in words if word in _SPDX))


def bill(python: Path | str, version: str) -> dict[str, Any]:
    """Returns the document for a file whose packages are those of this environment, as far as the lock names them."""
    has = metadata_of(python)
    components = [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{name}@{pinned}",
            "name": name,
            "version": pinned,
            "purl": f"pkg:pypi/{name}@{pinned}",
            "licenses": [{"expression": licence_of(name, has[name])}],
            # Of each file that the lock allows: which of them was taken depends on the platform.
            "properties": [{"name": "trustgate:locked-sha256", "value": digest} for digest in hashes],
        }
        for name, (pinned, hashes) in sorted(locked(MAIN_LOCK).items())
        if name in has
    ]
    python_version = ".".join(map(str, sys.version_info[:3]))
    components.append(
        {
            "type": "platform",
            "bom-ref": f"pkg:generic/python@{python_version}",
            "name": "CPython",
            "version": python_version,
            "purl": f"pkg:generic/python@{python_version}",
            "licenses": [{"expression": "PSF-2.0"}],
        }
    )
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": "trustgate",
                "name": "trustgate",
                "version": version,
                "licenses": [{"expression": "Apache-2.0"}],
            }
        },
        "components": components,
        "dependencies": [{"ref": "trustgate", "dependsOn": [one["bom-ref"] for one in components]}],
    }
