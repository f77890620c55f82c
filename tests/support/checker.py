"""The checker of receipts in a browser, as a person at the keyboard uses it; and whether what it shows can be read."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from tests.support.chromium import Browser

#: Chooses files and types texts as a person at the keyboard would; gives what the page shows then.
_CHECK = """
async function (files, texts) {
  const element = (id) => document.getElementById(id);
  for (const [id, text] of Object.entries(texts)) element(id).value = text;
  const shown = new Promise((resolve) => {
    const observer = new MutationObserver(() => { observer.disconnect(); resolve(); });
    observer.observe(element("verdict"), { childList: true });
  });
  for (const [id, encoded] of Object.entries(files)) {
    const chosen = new DataTransfer();
    const bytes = Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0));
    chosen.items.add(new File([bytes], "chosen"));
    element(id).files = chosen.files;
    element(id).dispatchEvent(new Event("change"));
  }
  await shown;
  const visible = (id) => element(id).checkVisibility();
  return {
    mood: element("verdict").className,
    verdict: element("verdict").innerText,
    checks: Array.from(element("checks").children, (item) => [
      item.querySelector(".name").innerText, item.querySelector(".state").innerText,
    ]),
    receipt: visible("receipt") ? element("receipt").innerText : null,
    seen: visible("verdict") && visible("checks"),
  };
}
"""

#: Every text that is seen: its words, its colour, and that of what is behind it.
_INKS = """
Array.from(document.querySelectorAll("body *"))
  .filter((e) => e.checkVisibility() && Array.from(e.childNodes, (n) => n.nodeType === 3 ? n.data.trim() : "").join(""))
  .map((e) => {
    let behind = e;
    while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
    const words = (e.innerText ?? e.textContent).slice(0, 40);
    return [words, getComputedStyle(e).color, getComputedStyle(behind).backgroundColor];
  })
"""


def shown(page: Browser, bundle: bytes, *, texts: dict[str, str] | None = None, **contents: bytes) -> dict[str, Any]:
    """What the page shows of a bundle; contents that were chosen before stay chosen."""
    files = {name: base64.b64encode(data).decode() for name, data in {**contents, "bundle": bundle}.items()}
    result: dict[str, Any] = page.call(_CHECK, files, texts or {})
    assert result["seen"]
    return result


def mood_of_chosen(page: Browser, file: Path) -> str:
    """What the page says of a bundle that is chosen from the disk."""
    page.evaluate(
        "globalThis.shown = new Promise((resolve) => new MutationObserver(resolve)"
        ".observe(document.getElementById('verdict'), {childList: true})), 0"
    )
    page.choose_file("#bundle", file)
    page.evaluate("shown.then(() => 0)")
    mood: str = page.evaluate("document.getElementById('verdict').className")
    return mood


def check_readable(page: Browser) -> None:
    """By day and by night, on screens of every width: all its text stands out, nothing is wider than the screen."""
    backs = []
    for dark in (False, True):
        for width in (360, 900):
            assert page.screenshot(dark=dark, width=width).startswith(b"\x89PNG")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        for words, ink, back in page.evaluate(_INKS):
            assert _contrast(ink, back) >= 4.5, f"{words!r}: {ink} on {back}"  # WCAG 2.2, 1.4.3
        backs.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert _luminance(backs[0]) > 0.5 > _luminance(backs[1])


def _contrast(one: str, other: str) -> float:
    """WCAG 2.2, "contrast ratio"."""
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    """WCAG 2.2, "relative luminance", of ``rgb(1, 2, 3)``."""
    parts: list[int] = json.loads(colour.replace("rgb(", "[").replace(")", "]"))
    linear = [part / 255 / 12.92 if part / 255 <= 0.04045 else ((part / 255 + 0.055) / 1.055) ** 2.4 for part in parts]
    red, green, blue = linear
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
