"""``trustgate doctor``: what is wrong here, and how to mend it.

Owns the order of the checks and how they are shown; ``checks`` has the checks themselves.
"""

from __future__ import annotations

import typer

from trustgate.cli import render
from trustgate.cli.context import JsonOption, session


def register(app: typer.Typer) -> None:
    app.command("doctor", short_help="Explain what is wrong, and how to mend it.")(doctor)


def doctor(context: typer.Context, json: JsonOption = False) -> None:
    """Check the settings, the home folder, the database, the server, the LLM servers, the clock and the disk.

    Changes nothing. Exits with 1 when something keeps the gateway from working. With TRUSTGATE_URL the server there
    is asked instead.
    """
    from trustgate.cli.checks import check_everything

    findings = check_everything(session(context))
    failed = any(finding.status == "fail" for finding in findings)
    if json:
        render.document({"ok": not failed, "checks": findings})
    else:
        for finding in findings:
            render.finding(finding.status, finding.name, finding.message, finding.hint)
    if failed:
        raise typer.Exit(1)
