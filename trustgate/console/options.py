"""The page of the settings: what holds now, and where each value comes from."""

from __future__ import annotations

from trustgate.console.lists import Filter, ListColumn, listing
from trustgate.console.view import Shown, View, do
from trustgate.errors import SettingsError
from trustgate.settings import Source, describe, shown_value, trace_settings
from trustgate.web.html import join, tag
from trustgate.web.parts import command, heading, message


class _Row:
    def __init__(self, name: str, value: str, source: str, doc: str) -> None:
        self.name = name
        self.value = value
        self.source = source
        self.doc = doc


async def options(view: View) -> Shown:
    settings = view.settings
    problem = None
    try:
        traced = trace_settings(settings.home)
        sources, on_disk = traced.sources, traced.settings
    except SettingsError as error:
        sources, on_disk = {}, settings
        problem = message("bad", tag("p", None, f"The settings cannot be read anew: {error.message}"))
    rows = []
    for setting in describe():
        section, _, field = setting.name.partition(".")
        value = getattr(getattr(settings, section), field)
        source = sources.get(setting.name, Source("default"))
        place = source.place or source.kind
        if value != getattr(getattr(on_disk, section), field):
            # The flags of the running server are not on disk; neither is what was written since its last reload.
            flag = "a flag of trustgate serve"
            place = flag if source.kind == "default" else f"{flag}, or not reloaded since {place} changed"
        text = shown_value(setting.name, value)
        written = ", ".join(map(str, text)) if isinstance(text, tuple) else "" if text is None else str(text)
        written = written.lower() if isinstance(text, bool) else written or "–"
        rows.append(_Row(setting.name, written, place, setting.doc))
    columns: list[ListColumn[_Row]] = [
        ListColumn("Setting", lambda r: tag("code", None, r.name), lambda r: r.name),
        ListColumn("Value", lambda r: r.value),
        ListColumn("From", lambda r: r.source, lambda r: r.source),
        ListColumn("What it is", lambda r: r.doc),
    ]
    changed: Filter[_Row] = Filter(
        "which",
        "Which",
        [("all", "all"), ("changed", "not the default")],
        lambda r, c: c == "all" or r.source != "default",
    )
    body = join(
        heading("Settings", beside=do("Reload the settings", "reload")),
        problem,
        tag("p", None, "They are changed in ", tag("code", None, str(settings.config_file)), "; then:"),
        command("trustgate reload", "reload-line"),
        listing(
            view,
            ("settings",),
            rows,
            columns,
            caption="Settings",
            empty="There is none.",
            text=lambda r: f"{r.name} {r.value} {r.doc}",
            filters=[changed],
        ),
    )
    return Shown("Settings", body)
