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


#: By the headings of the help, in its order.
SECTIONS: Mapping[str, Mapping[str, CommandEntry]] = {
    "Start": {
        "demo": CommandEntry("demo", "Try everything in a few seconds: offline, in a temporary folder."),
        "init": CommandEntry("init", "Write trustgate.toml: find the LLM server, ask a few questions."),
        "serve": CommandEntry("serve", "Run the gateway until SIGTERM or Ctrl-C."),
        "connect": CommandEntry(
            "connect", "Configure a client program for this gateway: codex, claude-code, opencode …"
        ),
    },
    "Callers": {
        "tenant": CommandEntry("tenant", "Tenants: the users of the gateway, each with keys and a plan."),
        "key": CommandEntry("key", "API keys of tenants."),
        "plan": CommandEntry("plan", "Plans: limits, and which models and endpoints are allowed."),
        "budget": CommandEntry("budget", "Budgets: how much tenants, keys and end users may use, alone or together."),
        "end-user": CommandEntry("end_user", "End users: the users of an app behind a key, by pseudonym."),
    },
    "Models": {
        "passport": CommandEntry("passport", "Models: where they are served, and at what price."),
        "profile": CommandEntry(
            "profile", "Profiles: model names, parameters and upstream keys of a plan, a tenant or a key."
        ),
    },
    "Records and payment": {
        "usage": CommandEntry("usage", "Show requests, tokens and cost."),
        "receipt": CommandEntry("receipt", "Receipts: the provable record of each request."),
        "statement": CommandEntry("statement", "Monthly statements that prove themselves."),
        "payment": CommandEntry("payment", "Payments (x402): each tenant's terms, and payments received."),
        "anchor": CommandEntry(
            "anchor", "Anchors: the log of receipts on Solana, one transaction for all of them since the last."
        ),
        "export": CommandEntry("export", "Export receipts or usage as JSON lines, CSV or Parquet."),
    },
    "The running gateway": {
        "top": CommandEntry("top", "Watch the running gateway."),
        "console": CommandEntry("console", "Open the console: pages to watch and manage the running gateway."),
        "doctor": CommandEntry("doctor", "Find what is wrong, and how to fix it."),
        "notify": CommandEntry("notify", "Notices: tell people of budgets, keys, upstreams and other conditions."),
        "reload": CommandEntry("serve", "Reload the settings of the running server."),
        "config": CommandEntry("config", "Settings in effect, and where each comes from."),
        "node": CommandEntry("node", "Nodes: the processes that serve one Postgres database."),
    },
    "The home folder": {
        "backup": CommandEntry("backup", "Back up the home folder into one file."),
        "restore": CommandEntry("backup", "Restore a backup."),
        "archive": CommandEntry("archive", "Move old receipts out of the database, into Parquet files."),
        "compact": CommandEntry("backup", "Make the database file smaller."),
        "migrate": CommandEntry("migrate", "Move the database to Postgres, or back into a file."),
        "accept-loss": CommandEntry("backup", "Accept that data is lost, and start without it."),
    },
    "Tools": {
        "localnet": CommandEntry("localnet", "Run a local Solana for development until SIGTERM or Ctrl-C."),
        "completion": CommandEntry("completion", "Completion of the command line, for your shell."),
        "version": CommandEntry("version", "Show the versions of TrustGate and of what it runs on."),
    },
}
TABLE: Mapping[str, CommandEntry] = {name: entry for section in SECTIONS.values() for name, entry in section.items()}
#: Words that other programs have for a command, or that people try first.
_OTHER_WORDS: Mapping[str, str] = {
    **dict.fromkeys(("start", "run", "up"), "serve"),
    **dict.fromkeys(("user", "users", "customer", "customers", "team", "teams", "org", "account"), "tenant"),
    **dict.fromkeys(("token", "apikey", "api-key"), "key"),
    **dict.fromkeys(("quota", "quotas", "limit", "limits"), "plan"),
    **dict.fromkeys(("model", "models", "price", "prices", "provider", "upstream", "alias"), "passport"),
    **dict.fromkeys(("log", "logs", "request", "requests"), "receipt"),
    **dict.fromkeys(("bill", "invoice"), "statement"),
    **dict.fromkeys(("credit", "balance"), "tenant credit"),
    **dict.fromkeys(("pay", "x402"), "payment"),
    **dict.fromkeys(("stats", "cost", "costs", "spend"), "usage"),
    **dict.fromkeys(("status", "check", "health"), "doctor"),
    **dict.fromkeys(("watch", "monitor"), "top"),
    **dict.fromkeys(("dashboard", "ui", "admin"), "console"),
    **dict.fromkeys(("webhook", "alert", "alerts"), "notify"),
    **dict.fromkeys(("settings", "env"), "config"),
    **dict.fromkeys(("worker", "workers", "cluster"), "node"),
}


class Commands(TyperGroup):
    """The whole program: a group that knows its commands from the table alone until one of them is called."""

    def __init__(self, **details: Any) -> None:
        super().__init__(**details)
        self.commands = cast(Any, _Loaded())

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(map(len, TABLE))
        for heading, section in SECTIONS.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), entry.help) for name, entry in section.items()])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        meant = _OTHER_WORDS.get(args[0]) if args else None
        if meant is not None:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {meant!r}?")
        return super().resolve_command(ctx, args)


class _Loaded(Mapping[str, Any]):
    """The commands by name; asking for one imports it."""

    def __getitem__(self, name: str) -> Any:
        module = import_module(f"trustgate.cli.{TABLE[name].module}")
        app = typer.Typer(rich_markup_mode=None)
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
        else:
            module.register(app)
        command = typer.main.get_group(app).commands[name]
        for below in getattr(command, "commands", {}).values():
            # Typer would cut it off in mid-sentence; a whole one may take two lines.
            if not below.short_help and below.help:
                below.short_help = f"{first_sentence(below.help)}."
        return command

    def __contains__(self, name: object) -> bool:
        return name in TABLE

    def __iter__(self) -> Iterator[str]:
        return iter(TABLE)

    def __len__(self) -> int:
        return len(TABLE)


def first_sentence(text: str) -> str:
    """Returns the first sentence of a command's or an option's help, without its full stop."""
    line = " ".join(text.partition("\n\n")[0].split())
    return line.partition("  [")[0].partition(". ")[0].rstrip(".")
