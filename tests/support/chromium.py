"""A headless Chromium for tests of pages. Owns finding it, starting it and speaking its DevTools protocol.

It installs nothing: a machine without Chromium gets a failure that says how to install it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import aiohttp

from tests.support.processes import PATIENCE_S, Process, clean_environment
from tests.support.programs import require

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",  # they would be cut off screenshots, with what is beneath
    "--disable-quic",
    "--disable-dev-shm-usage",  # containers have little of it
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)


#: The text that a key enters, and its code on Windows, which the protocol wants.
_KEYS = {"Tab": ("", 9), "Enter": ("\r", 13), "Space": (" ", 32)}

_SUBMIT = """
function (selector, values) {
  const form = document.querySelector(selector);
  for (const [name, value] of Object.entries(values)) {
    const field = form.elements.namedItem(name);
    if (field.type === "checkbox") field.checked = value;
    else field.value = value;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }
  form.querySelector("button:not([type=button])").click();
}
"""


def find_chromium() -> str:
    """The command that starts it. Where there is none, the test is left out."""
    return require("chromium")


class Browser:
    """A running browser with one page, for synchronous tests; closes with its ``with``."""

    def __init__(self, folder: Path) -> None:
        """``folder`` becomes its home and has to be empty."""
        profile = folder / "profile"
        self._process = Process(
            "Chromium",
            [find_chromium(), *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
            folder,
            clean_environment({"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}),
            folder / "chromium.log",
        )
        self._runner = asyncio.Runner()
        port_file = profile / "DevToolsActivePort"
        try:
            self._process.wait_until(lambda: port_file.is_file() and port_file.read_text().count("\n") == 1)
            port, path = port_file.read_text().split("\n")
            self._runner.run(self._connect(f"ws://127.0.0.1:{port}{path}"))
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._disconnect())
        self._stop()

    def open(self, page: Path | str, *, first: str = "", scripts: bool = True) -> None:
        """Show a page from the disk, as by its address ``file://…``, or one by its address.

        ``first`` is a script to run before its own; ``scripts``: whether the page's own run at all.
        """
        self._runner.run(self._open(page.absolute().as_uri() if isinstance(page, Path) else page, first, scripts))

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page, a promise's once it is kept. AssertionError when it throws."""
        return self._runner.run(self._evaluate(script))

    def call(self, function: str, *arguments: Any) -> Any:
        """Call a function (its text) in the page, with arguments that JSON can say."""
        return self._runner.run(self._call_function(function, arguments))

    def click(self, selector: str) -> None:
        """Click an element that leads to another page, and wait until that is shown."""
        self._runner.run(self._leave(f"document.querySelector({json.dumps(selector)}).click()"))

    def submit(self, form: str, **values: str | bool) -> None:
        """Fill in a form's fields by their names, send it as its button does, and wait for the page that follows."""
        self._runner.run(self._leave(f"({_SUBMIT})({json.dumps(form)}, {json.dumps(values)})"))

    def type(self, text: str) -> None:
        """Enter a text where the focus is, as the keyboard does."""
        self._runner.run(self._send("Input.insertText", text=text))

    def key(self, name: str, *, shift: bool = False, leaves: bool = False) -> None:
        """Press a key: Tab, Enter or Space. ``leaves``: it leads to another page; wait until that is shown."""
        self._runner.run(self._key(name, 8 if shift else 0, leaves))

    def wait_for(self, expression: str) -> None:
        """Wait until an expression in the page is true, in the one too that the page makes room for by itself."""
        script = (
            f"new Promise((done) => {{ const look = () => ({expression}) ? done(true) : "
            "requestAnimationFrame(look); look(); })"
        )
        while True:
            try:
                self._runner.run(self._evaluate(script))
                return
            except AssertionError as error:
                if not any(words in str(error) for words in ("navigated", "context was destroyed", "default context")):
                    raise

    def look(self, *, dark: bool = False, width: int = 1200, height: int = 800) -> None:
        """Show pages in the light or the dark, and so wide, from now on."""
        self._runner.run(self._look(dark, width, height))

    def cookies(self) -> list[dict[str, Any]]:
        """The cookies of the page, those too that scripts cannot read."""
        found: list[dict[str, Any]] = self._runner.run(self._send("Network.getCookies"))["cookies"]
        return found

    def clear_cookies(self) -> None:
        self._runner.run(self._send("Network.clearBrowserCookies"))

    def axe(self, source: str) -> list[dict[str, Any]]:
        """What axe-core (its ``source``) finds amiss in the page: of each violation its id, and where."""
        self._runner.run(self._evaluate(f"{source}\n;0"))
        found: list[dict[str, Any]] = self.evaluate(
            "axe.run(document, {resultTypes: ['violations']}).then((r) => r.violations.map((v) => "
            "({id: v.id, help: v.help, nodes: v.nodes.map((n) => n.html + ' ' + n.failureSummary)})))"
        )
        return found

    @property
    def transferred_bytes(self) -> int:
        """What all answers since the page was opened were long on the wire, heads included."""
        return self._transferred

    @property
    def url(self) -> str:
        """The address of the page."""
        return str(self.evaluate("location.href"))

    def choose_file(self, selector: str, path: Path) -> None:
        """Choose a file in an ``<input type=file>``, as a person at the keyboard would."""
        self._runner.run(self._choose_file(selector, path))

    def screenshot(self, *, dark: bool = False, width: int = 900) -> bytes:
        """The whole page as PNG."""
        return self._runner.run(self._screenshot(dark, width))

    @property
    def complaints(self) -> list[str]:
        """What went wrong in the page unseen since it was opened: uncaught exceptions, errors in the console."""
        return list(self._complaints)

    @property
    def requests(self) -> list[str]:
        """The addresses that the page has asked for since it was opened, its own first."""
        return list(self._requests)

    # The protocol: https://chromedevtools.github.io/devtools-protocol/

    async def _connect(self, url: str) -> None:
        self._complaints: list[str] = []
        self._requests: list[str] = []
        self._session = ""
        self._last_id = 0
        self._loads = 0
        self._transferred = 0
        self._client = aiohttp.ClientSession()
        self._socket = await self._client.ws_connect(url, max_msg_size=0)
        target = await self._send("Target.createTarget", url="about:blank")
        attached = await self._send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self._send(f"{domain}.enable")

    async def _disconnect(self) -> None:
        await self._socket.close()
        await self._client.close()

    def _stop(self) -> None:
        self._runner.close()
        if self._process.exit_code is None:
            self._process.signal(signal.SIGTERM)
            self._process.wait()

    async def _open(self, url: str, first: str, scripts: bool) -> None:
        await self._send("Emulation.setScriptExecutionDisabled", value=not scripts)
        script = await self._send("Page.addScriptToEvaluateOnNewDocument", source=first)
        self._complaints.clear()
        self._requests.clear()
        self._transferred = 0
        navigated = await self._send("Page.navigate", url=url)
        assert "errorText" not in navigated, navigated["errorText"]
        while (await self._receive())["method"] != "Page.loadEventFired":
            pass
        await self._send("Page.removeScriptToEvaluateOnNewDocument", identifier=script["identifier"])

    async def _leave(self, script: str) -> None:
        """Run a script that leads to another page, and wait until that is loaded."""
        loads = self._loads
        self._complaints.clear()
        self._requests.clear()
        self._transferred = 0
        await self._send("Runtime.evaluate", expression=script, userGesture=True)
        while self._loads == loads:
            await self._receive()

    async def _key(self, name: str, modifiers: int, leaves: bool) -> None:
        loads = self._loads
        if leaves:
            self._complaints.clear()
            self._requests.clear()
            self._transferred = 0
        text, code = _KEYS[name]
        given = {"key": " " if name == "Space" else name, "code": name, "windowsVirtualKeyCode": code}
        down = {"type": "keyDown" if text else "rawKeyDown", "text": text, "modifiers": modifiers}
        await self._send("Input.dispatchKeyEvent", **given, **down)
        await self._send("Input.dispatchKeyEvent", **given, type="keyUp", modifiers=modifiers)
        while leaves and self._loads == loads:
            await self._receive()

    async def _look(self, dark: bool, width: int, height: int) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self._send("Emulation.setEmulatedMedia", features=[scheme])
        await self._send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    async def _evaluate(self, expression: str) -> Any:
        return _value(
            await self._send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        )

    async def _call_function(self, function: str, arguments: tuple[Any, ...]) -> Any:
        window = await self._send("Runtime.evaluate", expression="window")
        return _value(
            await self._send(
                "Runtime.callFunctionOn",
                functionDeclaration=function,
                objectId=window["result"]["objectId"],
                arguments=[{"value": argument} for argument in arguments],
                awaitPromise=True,
                returnByValue=True,
            )
        )

    async def _choose_file(self, selector: str, path: Path) -> None:
        document = await self._send("DOM.getDocument")
        node = await self._send("DOM.querySelector", nodeId=document["root"]["nodeId"], selector=selector)
        await self._send("DOM.setFileInputFiles", nodeId=node["nodeId"], files=[str(path)])

    async def _screenshot(self, dark: bool, width: int) -> bytes:
        await self._look(dark, width, 800)
        taken = await self._send("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(taken["data"])

    async def _send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command; gives its result. What happens meanwhile is noted."""
        self._last_id += 1
        command = {"id": self._last_id, "method": method, "params": parameters}
        await self._socket.send_json({**command, "sessionId": self._session} if self._session else command)
        while True:
            answer = await self._receive()
            if answer.get("id") == self._last_id:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result

    async def _receive(self) -> dict[str, Any]:
        message: dict[str, Any] = await self._socket.receive_json(timeout=PATIENCE_S)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, details: Mapping[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            self._complaints.append(_thrown(details["exceptionDetails"]))
        elif event == "Log.entryAdded" and details["entry"]["level"] == "error":
            self._complaints.append(details["entry"]["text"])
        elif event == "Runtime.consoleAPICalled" and details["type"] in ("error", "assert"):
            self._complaints.append(str(details["args"]))
        elif event == "Network.requestWillBeSent":
            self._requests.append(details["request"]["url"])
        elif event == "Network.loadingFinished":
            self._transferred += int(details["encodedDataLength"])
        elif event == "Page.loadEventFired":
            self._loads += 1


def _value(evaluated: Mapping[str, Any]) -> Any:
    assert "exceptionDetails" not in evaluated, _thrown(evaluated["exceptionDetails"])
    return evaluated["result"].get("value")


def _thrown(details: Mapping[str, Any]) -> str:
    return str(details.get("exception", {}).get("description") or details["text"])
