"""What pages cost while they are not looked at: nothing of them is loaded where they are off, nothing runs on the path.

Calls are counted, not times: the gateway's interpreter notes each call, and each import, of the pages' code.
"""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest

from tests.conftest import GatewayFactory
from tests.support.gateway import Gateway

#: Python runs a module of this name when it starts. Each line of the note: a file of the pages' code, a function.
_WATCH = """
import os, sys

_PAGES = ("/trustgate/web/", "/trustgate/console/", "/views/account_page.py", "/views/wallet_node.py")
_note = open(os.environ["PAGES_NOTE"], "a", buffering=1)


def _watch(frame, event, argument):
    if event != "call":
        return
    code = frame.f_code
    if any(part in code.co_filename for part in _PAGES) or (
        code.co_filename.endswith("/views/page.py") and code.co_name == "_template"
    ):
        _note.write(f"{code.co_filename} {code.co_name}\\n")


if "serve" in sys.argv:
    sys.setprofile(_watch)
"""
_OFF = '[serve]\npage = false\naccount = false\nconsole = "off"\n'


class Watched:
    """A gateway whose calls into the pages' code are noted."""

    def __init__(self, make: GatewayFactory, folder: Path) -> None:
        (folder / "sitecustomize.py").write_text(_WATCH)
        self._note = folder / "note"
        self._note.touch()
        paths = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH", ""))))
        self.gateway: Gateway = make(environment={"PYTHONPATH": paths, "PAGES_NOTE": str(self._note)})

    @property
    def calls(self) -> list[str]:
        return self._note.read_text().splitlines()


@pytest.fixture
def watched(make_gateway: GatewayFactory, tmp_path: Path) -> Watched:
    folder = tmp_path / "watch"
    folder.mkdir()
    return Watched(make_gateway, folder)


def test_off_nothing_is_loaded_and_not_looked_at_nothing_runs(watched: Watched) -> None:
    gateway = watched.gateway
    gateway.home.mkdir(exist_ok=True)
    settings = gateway.home / "trustgate.toml"
    settings.write_text(_OFF)
    gateway.start()
    headers = {"authorization": f"Bearer {gateway.add_tenant('acme')}"}
    with httpx.Client(base_url=gateway.base_url, trust_env=False) as http:

        def ask() -> None:
            for _ in range(3):
                body = {"model": "trustgate/echo", "messages": [{"role": "user", "content": "Hello"}]}
                assert http.post("/v1/chat/completions", json=body, headers=headers).status_code == 200

        ask()
        for path in ("/", "/account", "/account/verify.js", "/console", "/console/open"):
            refused = http.get(path)
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, "unknown_url"), path
        assert "switched off" in gateway.cli("console", check=False).stderr
        assert watched.calls == [], "what is off is not even loaded"

        settings.unlink()
        gateway.cli("reload")
        ask()
        assert watched.calls == [], "no page was looked at"
        assert http.get("/account").status_code == http.get("/").status_code == 200
        link = gateway.cli_json("console")["url"]
        code = link.partition("code=")[2]
        entered = http.post("/console/open", data={"code": code}, headers={"origin": gateway.base_url})
        assert entered.status_code == 303 and http.get("/console/requests").status_code == 200
        looked = watched.calls
        names = ("account_page.py", "/console/app.py", "/web/html.py", "_template")
        assert all(any(name in call for call in looked) for name in names), "or this test would see nothing"
        ask()
        assert watched.calls == looked, "signed in, and no page open: a request runs no code of the pages"
