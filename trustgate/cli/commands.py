"""Which commands there are: each with the module that has it, and its line in the help.

Owns that table, and that a command's module is imported when the command is called: neither the help of the whole
program nor a mistyped name imports one. A test holds the table against what the modules say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, NamedTuple, cast

import typer
from typer.core import TyperGroup


class CommandEntry(NamedTuple):
    """``module`` is one of ``trustgate.cli``; it has an ``app`` with commands of its own, or it ``register``s some."""

    module: str
    help: str


#: In the order of the help.
TABLE: Mapping[str, CommandEntry] = {
    "demo": CommandEntry("demo", "Try everything in a few seconds: offline, in a temporary folder."),
    "init": CommandEntry("init", "Write trustgate.toml: find the LLM server, ask a few questions."),
    "serve": CommandEntry("serve", "Run the gateway until SIGTERM or Ctrl-C."),
    "reload": CommandEntry("serve", "Reload the settings of the running server."),
    "connect": CommandEntry("connect", "Configure a client program for this gateway: codex, claude-code, opencode …"),
    "usage": CommandEntry("usage", "Show requests, tokens and cost."),
    "backup": CommandEntry("backup", "Back up the home folder into one file."),
    "restore": CommandEntry("backup", "Restore a backup."),
    "accept-loss": CommandEntry("backup", "Accept that data is lost, and start without it."),
    "archive": CommandEntry("archive", "Move old receipts out of the database, into Parquet files."),
    "compact": CommandEntry("backup", "Make the database file smaller."),
    "migrate": CommandEntry("migrate", "Move the database to Postgres, or back into a file."),
    "top": CommandEntry("top", "Watch the running gateway."),
    "console": CommandEntry("console", "Open the console: pages to watch and manage the running gateway."),
    "doctor": CommandEntry("doctor", "Find what is wrong, and how to fix it."),
    "localnet": CommandEntry("localnet", "Run a local Solana for development until SIGTERM or Ctrl-C."),
    "version": CommandEntry("version", "Show the versions of TrustGate and of what it runs on."),
    "tenant": CommandEntry("tenant", "Tenants: the users of the gateway, each with keys and a plan."),
    "key": CommandEntry("key", "API keys of tenants."),
    "plan": CommandEntry("plan", "Plans: limits, and which models and endpoints are allowed."),
    "budget": CommandEntry("budget", "Budgets: how much tenants, keys and end users may use, alone or together."),
    "end-user": CommandEntry("end_user", "End users: the users of an app behind a key, by pseudonym."),
    "node": CommandEntry("node", "Nodes: the processes that serve one Postgres database."),
    "passport": CommandEntry("passport", "Models: where they are served, and at what price."),
    "profile": CommandEntry(
        "profile", "Profiles: model names, parameters and upstream keys of a plan, a tenant or a key."
    ),
    "receipt": CommandEntry("receipt", "Receipts: the provable record of each request."),
    "statement": CommandEntry("statement", "Monthly statements that prove themselves."),
    "anchor": CommandEntry(
        "anchor", "Anchors: the log of receipts on Solana, one transaction for all of them since the last."
    ),
    "payment": CommandEntry("payment", "Payments (x402): each tenant's terms, and payments received."),
    "notify": CommandEntry("notify", "Notices: tell people of budgets, keys, upstreams and other conditions."),
    "export": CommandEntry("export", "Export receipts or usage as JSON lines, CSV or Parquet."),
    "config": CommandEntry("config", "Settings in effect, and where each comes from."),
    "completion": CommandEntry("completion", "Completion of the command line, for your shell."),
}


class Commands(TyperGroup):
    """The whole program: a group that knows its commands from the table alone until one of them is called."""

    def __init__(self, **details: Any) -> None:
        super().__init__(**details)
        self.commands = cast(Any, _Loaded())

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in TABLE.items()])


class _Loaded(Mapping[str, Any]):
    """The commands by name; asking for one imports it."""

    def __getitem__(self, name: str) -> Any:
        module = import_module(f"trustgate.cli.{TABLE[name].module}")
        app = typer.Typer(rich_markup_mode=None)
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
        else:
            module.register(app)
        return typer.main.get_group(app).commands[name]

    def __contains__(self, name: object) -> bool:
        return name in TABLE

    def __iter__(self) -> Iterator[str]:
        return iter(TABLE)

    def __len__(self) -> int:
        return len(TABLE)
