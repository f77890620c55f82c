"""The forms of actions: shown, read, carried out. Nothing is done but by a POST with the session's token."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from trustgate.admin.budgeting import BudgetList
from trustgate.admin.commands import Admin, Command, Look, PlanList, TenantList
from trustgate.admin.model_commands import PassportList
from trustgate.console.actions import ACTIONS
from trustgate.console.fields import Action, Field, secret_of
from trustgate.console.overview import trial
from trustgate.console.view import CHOICES_MOST, Redirect, Shown, View, link, url
from trustgate.errors import NotFound, TrustGateError
from trustgate.web.html import Html, join, tag
from trustgate.web.parts import area_field, check_field, command, heading, hidden, message, select_field, text_field


async def form(view: View, name: str) -> Shown:
    """Returns the form of an action; what the address gives is filled in."""
    return await _shown(view, name, _action(name), view.query, {}, None)


async def carry_out(view: View, name: str, texts: Mapping[str, str]) -> Shown | Redirect:
    """Do what a form asks for.

    Args:
        view: its query is not looked at.
        name: of the action.
        texts: what stands in the fields.

    Returns:
        Where to go then; a page where a secret is to be shown, or the form with what is wrong with it.
    """
    action = _action(name)
    given, errors = _read(action, texts)
    form_id = texts.get("form_id", "")[:100]
    if form_id:
        # What a form adds counts once, however often it is sent, and wherever.
        given.setdefault("reference", f"form {form_id}")
    if action.ask and not texts.get("confirm"):
        errors["confirm"] = "Tick this to do it."
    if errors:
        return await _shown(view, name, action, texts, errors, None, form_id)
    try:
        if action.run is not None:
            return Redirect(url("works", view.works.begin(view.admin, action, action.line(texts), given).id))
        ordered = action.build(given)
        assert isinstance(ordered, Command)
        result = await view.admin.execute(ordered)
    except (TrustGateError, ValueError) as error:
        return await _shown(view, name, action, texts, {}, error, form_id)
    secret = secret_of(result)
    if secret is None:
        return Redirect(url(*action.then(result), done=name))
    address = (await view.admin.execute(Look())).address
    return _secret_page(action, texts, secret, action.then(result), address)


def done_message(name: str) -> Html | None:
    """Returns the message after an action; None where there is no such action."""
    action = ACTIONS.get(name)
    if action is None:
        return None
    return message("good", tag("p", None, f"Done: {_small(action.title)}."))


def _action(name: str) -> Action:
    if name not in ACTIONS:
        raise NotFound(f"There is no form {name[:100]}.", hint="Go to the overview.")
    return ACTIONS[name]


def _read(action: Action, texts: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    given: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for field in action.fields:
        text = texts.get(field.name, "").strip()
        if not text:
            if field.required:
                errors[field.name] = "This is needed."
            continue
        if field.options and text not in field.options:
            errors[field.name] = f"One of {', '.join(field.options)}."
            continue
        try:
            given[field.name] = field.read(text)
        except ValueError as error:
            errors[field.name] = str(error)
    return given, errors


async def _shown(
    view: View,
    name: str,
    action: Action,
    texts: Mapping[str, str],
    errors: Mapping[str, str],
    refusal: TrustGateError | ValueError | None,
    form_id: str = "",
) -> Shown:
    choices = await _choices(view.admin, action)
    plain = [_control(field, texts, errors, choices) for field in action.fields if not field.group]
    groups = dict.fromkeys(field.group for field in action.fields if field.group)
    folded = [_group(group, action, texts, errors, choices) for group in groups]
    ask = None
    if action.ask:
        ask = join(
            message("wary", tag("p", None, action.ask)),
            check_field("confirm", f"Yes: {_small(action.title)}"),
            tag("p", {"class": "error", "role": "alert"}, errors["confirm"]) if "confirm" in errors else None,
        )
    body = join(
        heading(action.title),
        tag("p", None, action.note) if action.note else None,
        _refusal(refusal),
        tag(
            "form",
            {"method": "post", "action": url("do", name), "id": "action", "data-words": " ".join(action.words)},
            hidden("form_token", view.form_token),
            hidden("form_id", form_id or secrets.token_urlsafe(12)),
            plain,
            folded,
            ask,
            tag(
                "div",
                {"class": "buttons"},
                tag("button", {"type": "submit", "class": "danger" if action.ask else "main"}, action.title),
            ),
        ),
        tag("h2", None, "The same on the command line"),
        command(action.line(texts), "action-line"),
    )
    return Shown(action.title, body, ("base.js", "console/form.js"), 200 if refusal is None and not errors else 400)


def _refusal(refusal: TrustGateError | ValueError | None) -> Html | None:
    if refusal is None:
        return None
    if isinstance(refusal, TrustGateError):
        return message("bad", tag("p", None, refusal.message), tag("p", None, refusal.hint) if refusal.hint else None)
    return message("bad", tag("p", None, str(refusal)))


def _group(
    group: str,
    action: Action,
    texts: Mapping[str, str],
    errors: Mapping[str, str],
    choices: Mapping[str, Sequence[tuple[str, str]]],
) -> Html:
    fields = [field for field in action.fields if field.group == group]
    is_open = any(texts.get(field.name) or field.name in errors for field in fields)
    controls = [_control(field, texts, errors, choices) for field in fields]
    return tag("details", {"open": is_open}, tag("summary", None, group), controls)


def _control(
    field: Field,
    texts: Mapping[str, str],
    errors: Mapping[str, str],
    choices: Mapping[str, Sequence[tuple[str, str]]],
) -> Html:
    value, error = texts.get(field.name, ""), errors.get(field.name, "")
    attributes: dict[str, str | int | bool | None] = {"data-flag": field.flag}
    if field.kind == "check":
        return check_field(field.name, field.label, checked=bool(value), help=field.help or None, attributes=attributes)
    offered = [(option, option) for option in field.options] or list(choices.get(field.choices, ()))
    known = {key for key, _ in offered}
    if offered and (not value or value in known):
        if not field.required or not value:
            offered.insert(0, ("", "choose one" if field.required else "–"))
        attributes["required"] = field.required
        return select_field(
            field.name, field.label, offered, value=value, help=field.help or None, error=error, attributes=attributes
        )
    if field.kind == "lines":
        return area_field(
            field.name,
            field.label,
            value=value,
            help=field.help or None,
            error=error,
            placeholder=field.example,
            attributes=attributes,
        )
    return text_field(
        field.name,
        field.label,
        value=value,
        help=field.help or None,
        error=error,
        required=field.required,
        placeholder=field.example,
        attributes=attributes,
    )


async def _choices(admin: Admin, action: Action) -> dict[str, list[tuple[str, str]]]:
    """Returns what exists, for fields that name it: of each its id or name, and how it is shown."""
    wanted = {field.choices for field in action.fields}
    found: dict[str, list[tuple[str, str]]] = {}
    if "tenants" in wanted:
        tenants = await admin.execute(TenantList(removed=action.words == ("tenant", "restore")))
        found["tenants"] = [(tenant.id, f"{tenant.name} ({tenant.plan})") for tenant in tenants]
    if "plans" in wanted:
        found["plans"] = [(plan.name, plan.name) for plan in await admin.execute(PlanList())]
    if "models" in wanted:
        passports = await admin.execute(PassportList(revoked=True))
        found["models"] = [(passport.slug, passport.slug) for passport in passports]
    if "budgets" in wanted:
        found["budgets"] = [(budget.name, budget.name) for budget in (await admin.execute(BudgetList())).budgets]
    return {name: listed for name, listed in found.items() if len(listed) <= CHOICES_MOST}


def _small(title: str) -> str:
    return title[0].lower() + title[1:]


def _secret_page(action: Action, texts: Mapping[str, str], secret: str, place: tuple[str, ...], address: str) -> Shown:
    body = join(
        heading(f"Done: {_small(action.title)}"),
        message(
            "wary", tag("p", None, tag("strong", None, "This secret is shown only now."), " Keep it where it is safe.")
        ),
        tag("div", {"class": "secret"}, command(secret, "secret")),
        tag("p", None, link("Go on", *place)),
        _how_to_use(address) if action.words[0] in ("tenant", "key") else None,
        tag("h2", None, "The same on the command line"),
        command(action.line(texts), "action-line"),
    )
    return Shown(action.title, body)


def _how_to_use(address: str) -> Html:
    told = (
        "It is an API key for every OpenAI client, with the base URL ",
        tag("code", None, f"{address}/v1"),
        "; its tenant signs in with it at ",
        tag("code", None, f"{address}/account"),
        ". Try it, with the key in OPENAI_API_KEY:",
    )
    return join(tag("h2", None, "How it is used"), tag("p", None, *told), trial(address))
