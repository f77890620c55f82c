"""``trustgate config``: the settings and their sources."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from trustgate.cli import render
from trustgate.cli.context import JsonOption, session
from trustgate.cli.serve import ServeFlags, with_serve_flags
from trustgate.cli.settings_file import toml
from trustgate.settings import Source, describe, shown_value, trace_settings

app = typer.Typer(help="Settings in effect, and where each comes from.", no_args_is_help=True)

_STYLES = {"default": "dim", "file": "", "variable": "cyan", "flag": "cyan"}


@app.command("show", short_help="Show every setting, and where its value comes from.")
@with_serve_flags
def show(
    context: typer.Context,
    flags: ServeFlags,
    changed: Annotated[bool, typer.Option("--changed", help="Only settings that differ from their default.")] = False,
    json: JsonOption = False,
) -> None:
    """Show every setting and where its value comes from: default, file, variable or flag.

    With the flags of `trustgate serve` it shows what a server started with them would use.
    """
    traced = trace_settings(session(context).home, flags)
    settings = traced.settings
    rows = [
        {
            "name": setting.name,
            "value": shown_value(setting.name, _value(settings, setting.name)),
            "source": (source := traced.sources.get(setting.name, Source("default"))).kind,
            "place": source.place or None,
            "default": setting.default,
            "variable": setting.variable,
            "description": setting.doc,
        }
        for setting in describe()
        if not changed or setting.name in traced.sources
    ]
    file = settings.config_file
    if json:
        home = {"value": str(settings.home), "source": traced.home.kind, "place": traced.home.place or None}
        render.document({"home": home, "file": str(file), "file_exists": file.exists(), "settings": rows})
        return
    render.card([("Home", f"{settings.home} ({_from(traced.home)})"), ("File", f"{file}{_missing(file.exists())}")])
    render.say("")
    render.table(
        ["Setting", "Value", "From"],
        [(row["name"], _cell(row["value"]), render.Styled(_place(row), _STYLES[row["source"]])) for row in rows],
        empty="Every setting has its default.",
    )


def _value(settings: Any, name: str) -> Any:
    section, _, field = name.partition(".")
    return getattr(getattr(settings, section), field)


def _cell(value: Any) -> str:
    return "–" if value is None else toml(value)


def _place(row: dict[str, Any]) -> str:
    return _from(Source(row["source"], row["place"] or ""))


def _from(source: Source) -> str:
    return {"default": "default", "flag": "flag"}.get(source.kind, source.place)


def _missing(exists: bool) -> str:
    return "" if exists else " (does not exist; trustgate init writes it)"
