"""``trustgate completion``: scripts that complete the command line in bash, zsh, fish and PowerShell.

Owns which scripts there are and what the values of this installation are (tenants, plans …). Commands and options are
written into the scripts, so that completing them starts no program; only values are asked for, of the program.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer

from trustgate.cli.context import open_admin, session
from trustgate.settings import remote_server

app = typer.Typer(help="Completion of the command line, for your shell.", no_args_is_help=True)

Shell = Literal["bash", "zsh", "fish", "powershell"]
#: Where each script lies in ``completions/``, named as its shell looks for it.
FILES: dict[Shell, str] = {
    "bash": "trustgate.bash",
    "zsh": "_trustgate",
    "fish": "trustgate.fish",
    "powershell": "trustgate.ps1",
}

#: The longest wait for a completion, seconds.
_TIMEOUT_S = 5.0


def script(shell: Shell) -> str:
    """Returns the completion script for a shell."""
    from trustgate.cli import app as whole
    from trustgate.cli.completion import bash, fish, powershell, zsh
    from trustgate.cli.completion.tree import read_tree

    writers = {"bash": bash.script, "zsh": zsh.script, "fish": fish.script, "powershell": powershell.script}
    return writers[shell](read_tree(whole))


def _show(shell: Shell) -> Callable[[], None]:
    def show() -> None:
        typer.echo(script(shell), nl=False)

    return show


#: How each script is put to use.
_INSTALL: dict[Shell, str] = {
    "bash": 'eval "$(trustgate completion bash)" in ~/.bashrc',
    "zsh": 'trustgate completion zsh > "${fpath[1]}/_trustgate"',
    "fish": "trustgate completion fish > ~/.config/fish/completions/trustgate.fish",
    "powershell": "trustgate completion powershell | Out-String | Invoke-Expression, in $PROFILE",
}
for _shell, _install in _INSTALL.items():
    _help = f"Print the completion script for {_shell}. To use it: {_install}"
    app.command(_shell, help=_help, short_help=_install)(_show(_shell))


@app.command("values", hidden=True)
def values(
    context: typer.Context, kind: Annotated[str, typer.Argument(metavar="KIND", help="tenant, plan, key …")]
) -> None:
    """Print what a word could be, one a line, each with a tab and what it is. Prints nothing when that fails."""
    # Whatever happens, the person at the prompt sees no error and does not wait.
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.setitimer(signal.ITIMER_REAL, _TIMEOUT_S)
    with contextlib.suppress(Exception):
        for value, what in _ask(context, kind):
            if value.isprintable():
                typer.echo(f"{value}\t{what if what.isprintable() else ''}")
    sys.stdout.flush()
    os._exit(0)


def _ask(context: typer.Context, kind: str) -> list[tuple[str, str]]:
    import asyncio

    from trustgate.admin import commands as c
    from trustgate.admin.budgeting import BudgetNames
    from trustgate.admin.log_commands import ReceiptList
    from trustgate.admin.model_commands import PassportList

    settings = session(context).settings()
    if remote_server() is None and not settings.may_have_database:
        return []  # and none is made
    kinds: dict[str, tuple[c.Command[Any], Callable[[Any], tuple[str, str]]]] = {
        "tenant": (c.TenantList(), lambda tenant: (tenant.name, f"on {tenant.plan}")),
        "plan": (c.PlanList(), lambda plan: (plan.name, "plan")),
        "passport": (PassportList(), lambda passport: (passport.slug, passport.provider)),
        "key": (c.KeyList(), lambda key: (key.id, f"{key.name} {key.redacted}")),
        "budget": (BudgetNames(), lambda budget: (budget.name, "budget")),
        "receipt": (ReceiptList(limit=20), lambda detail: (detail.receipt.id, detail.receipt.model)),
    }
    command, described = kinds[kind]

    async def asked() -> list[tuple[str, str]]:
        admin = await open_admin(settings)
        return [described(found) for found in await admin.execute(command)]

    return asyncio.run(asked())
