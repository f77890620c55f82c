"""Stock x402 clients as programs: which there are, what each buys, and running them. See tests/clients/paying."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tests import environments
from tests.support.market import MODEL, Buyer, TokenMarket
from tests.support.processes import clean_environment
from tests.support.programs import require_node_modules

_PROGRAMS = environments.ROOT / "tests" / "clients" / "paying"
_TIMEOUT_S = 180.0
_MISSING = "the clients are not installed: run `python3 tests --install-only`"


@dataclass(frozen=True)
class Program:
    name: str
    environment: Literal["tests", "clients", "node"]


#: client → its program.
PROGRAMS = {
    "x402 SDK, httpx": Program("sdk_httpx", "tests"),
    "x402-openai": Program("openai_paying", "clients"),
    "@x402/fetch": Program("x402_fetch", "node"),
}


class Wanted(NamedTuple):
    """A purchase before anybody makes it."""

    client: str
    name: str
    what: Literal["chat", "top-up"] = "chat"
    version: int = 2
    stream: bool = False


_CHATS = (("v2 whole", 2, False), ("v2 streamed", 2, True), ("v1 whole", 1, False), ("v1 streamed", 1, True))
WANTED = (
    *(Wanted(client, name, "chat", version, stream) for client in PROGRAMS for name, version, stream in _CHATS),
    Wanted("x402-openai", "async v2 whole"),
    Wanted("x402-openai", "async v2 streamed", stream=True),
    Wanted("@x402/fetch", "openai v2 whole"),
    Wanted("@x402/fetch", "openai v2 streamed", stream=True),
    *(
        Wanted(client, f"v{version} top-up", "top-up", version)
        for client in ("x402 SDK, httpx", "@x402/fetch")
        for version in (2, 1)
    ),
)


class Bought(NamedTuple):
    """What came of a purchase: as its client saw it, and as chain and gateway have it afterwards."""

    buyer: Buyer
    #: What the program reports: text or credits, status, headers, settled.
    got: dict[str, Any]


def buy(place: TokenMarket, client: str, wanted: list[Wanted], folder: Path, **terms: Any) -> dict[str, Bought]:
    """Have a client make purchases, each with a buyer of its own. ``terms``: what ``TokenMarket.buyers`` takes."""
    buyers = dict(zip((one.name for one in wanted), place.buyers(len(wanted), **terms), strict=True))
    given = {
        "origin": place.gateway.base_url,
        "rpc_url": place.rpc_url,
        "mint": place.mint,
        "model": MODEL,
        "purchases": [
            {
                "name": one.name,
                "what": one.what,
                "version": one.version,
                "stream": one.stream,
                "key": buyers[one.name].key,
                "secret": buyers[one.name].secret,
            }
            for one in wanted
        ],
    }
    done = subprocess.run(
        _command(PROGRAMS[client], folder),
        cwd=environments.ROOT,
        env=clean_environment({"HOME": str(folder), "NO_COLOR": "1"}),
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0 and done.stdout, f"{client}:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return {one.name: Bought(buyers[one.name], found[one.name]) for one in wanted}


def _command(program: Program, folder: Path) -> list[str]:
    if program.environment == "node":
        node = require_node_modules()
        # Node looks for packages beside the program's real place.
        shutil.copy(_PROGRAMS / f"{program.name}.mjs", folder)
        (folder / "node_modules").symlink_to(node / "node_modules")
        return ["node", str(folder / f"{program.name}.mjs")]
    python = environments.find_clients() if program.environment == "clients" else Path(sys.executable)
    assert python is not None, _MISSING
    return [str(python), "-m", f"tests.clients.paying.{program.name}"]
