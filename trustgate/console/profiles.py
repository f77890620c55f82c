"""The page of a profile: the rules of a plan, a tenant or a key, and what is in effect with the profiles above it."""

from __future__ import annotations

import shlex

from trustgate.admin.profile_words import rule_lines
from trustgate.admin.profiling import ProfileShow
from trustgate.console.view import Shown, View, do, link, when
from trustgate.types import ProfileRules
from trustgate.web.html import Html, join, tag
from trustgate.web.parts import buttons, card, code, command, facts, heading

_WITH = {"tenant": "with its plan's", "key": "with its tenant's and its plan's"}
_PAGES = {"plan": "plans", "tenant": "tenants", "key": "keys"}


async def profile(view: View, kind: str, ref: str) -> Shown:
    whose = {kind: ref}
    found = await view.admin.execute(ProfileShow(**whose))  # type: ignore[arg-type]
    merged = await view.admin.execute(ProfileShow(**whose, is_merged=True))
    has_rules = found.rules != ProfileRules()
    body = join(
        heading(f"Profile of the {kind} {found.owner}"),
        buttons(
            do("Change", "profile.set", **whose),
            do("Clear", "profile.clear", **whose) if has_rules else None,
        ),
        tag(
            "p",
            None,
            f"Which models, and which configuration of them, the {kind} ",
            link(found.owner, _PAGES[kind], ref),
            " gets.",
        ),
        tag(
            "div",
            {"class": "cards"},
            card("Its own rules", _rules(found.rules)),
            card(f"In effect, {_WITH[kind]}", _rules(merged.rules)) if kind != "plan" else None,
        ),
        tag("p", {"class": "soft"}, "Changed ", when(found.changed_us)) if has_rules else None,
        command(f"trustgate profile show --{kind} {shlex.quote(ref)}", "profile-line"),
    )
    return Shown(f"Profile of {found.owner}", body)


def _rules(rules: ProfileRules) -> Html:
    lines = rule_lines(rules)
    return facts([(title, code(text)) for title, text in lines] or [("Rules", "none")])
