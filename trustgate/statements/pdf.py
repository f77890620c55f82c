"""A statement as PDF: its HTML page, printed by the Chromium or Chrome of this machine.

A browser prints the very page that people open, so there is one layout and no further dependency; PDF libraries lay
pages out themselves (another look to keep in step), or need system libraries of their own. The page has no script and
asks for nothing, and the browser gets a profile of its own, which is removed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from trustgate.errors import ExtraMissing, OperatorError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
_TIMEOUT_S = 120.0
_FLAGS = (
    *("--headless", "--disable-gpu", "--no-first-run", "--no-pdf-header-footer", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
)


def find_browser() -> str:
    """Returns the command of a browser that prints. Raises ``ExtraMissing`` where none is found."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        raise ExtraMissing(
            "A PDF is printed by Chromium or Chrome, and none is installed here.",
            hint="Install it (apt install chromium), or write HTML (--format html) and print it from any browser.",
        )
    return found


def statement_pdf(page: bytes) -> bytes:
    """Returns the PDF of a statement's page. Raises ``OperatorError`` where it cannot be printed."""
    browser = find_browser()
    with tempfile.TemporaryDirectory(prefix="trustgate-pdf-") as folder:
        source, printed = Path(folder) / "statement.html", Path(folder) / "statement.pdf"
        source.write_bytes(page)
        # Root has no user namespace to put the page into; the page is ours, and has no script.
        sandbox = ("--no-sandbox",) if os.geteuid() == 0 else ()
        command = [
            *(browser, *_FLAGS, *sandbox, f"--user-data-dir={folder}/profile", f"--print-to-pdf={printed}"),
            source.as_uri(),
        ]
        try:
            ran = subprocess.run(  # noqa: S603 - a browser that was found, and paths of ours; no shell
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _not_printed(browser, type(error).__name__) from None
        if not printed.is_file() or not (pdf := printed.read_bytes()).startswith(b"%PDF-"):
            raise _not_printed(browser, ran.stderr.decode(errors="replace").strip().rpartition("\n")[2][:200])
        return pdf


def _not_printed(browser: str, why: str) -> OperatorError:
    return OperatorError(
        f"{browser} did not print the page: {why or 'it gave no reason'}.",
        hint="Write HTML (--format html) and print it from a browser.",
    )
