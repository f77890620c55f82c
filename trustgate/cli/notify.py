"""``trustgate notify``: who is told of conditions, by webhook or by a program."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from trustgate.admin.subscriptions import (
    DeliveryState,
    NotifyAdd,
    NotifyList,
    NotifyRemove,
    NotifyShow,
    NotifyTest,
    SubscriberState,
)
from trustgate.cli import render
from trustgate.cli.context import JsonOption, execute
from trustgate.cli.values import words
from trustgate.errors import OperatorError
from trustgate.observe.notices import KINDS

app = typer.Typer(help="Notices: tell people of budgets, keys, upstreams and other conditions.", no_args_is_help=True)

SubscriberArgument = Annotated[str, typer.Argument(metavar="SUBSCRIBER", help="Its name or id.")]


@app.command("add", short_help="Add a webhook or a program.")
def add(
    context: typer.Context,
    url: Annotated[
        str | None, typer.Argument(metavar="URL", help="A webhook that takes messages as Standard Webhooks has them.")
    ] = None,
    command: Annotated[
        str | None,
        typer.Option(
            metavar="PROGRAM", help="Run this program instead, with the notice as JSON on its stdin. No shell is used."
        ),
    ] = None,
    on: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help=f"Kinds, repeated or with commas: {', '.join(KINDS)}, all.  [default: all]"),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="A name for it.  [default: the host or the program]")
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Allow an address of this machine or a private network, and http://.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Add a webhook or a program that is told of conditions: once when one begins, once when it is over.

    Messages to a webhook are signed; the secret to check them with is shown now and never again. What cannot be
    delivered is tried again for two days, with the same id.
    """
    if (url is None) == (command is None):
        raise typer.BadParameter("give a URL, or --command PROGRAM.")
    made = execute(
        context,
        NotifyAdd(
            url=url or "",
            command=_split(command),
            kinds=words(on or []),
            name=name or "",
            is_private=private,
        ),
    )
    if json:
        render.document(made)
        return
    render.card(_fields(made.subscriber), title=made.subscriber.name)
    if made.secret:
        render.say(f"Secret: {made.secret}")
        render.say("Check every message with it (Standard Webhooks). It is not shown again.")
    render.say(f"Try it: trustgate notify test {shlex.quote(made.subscriber.name)}")


@app.command("list")
def list_subscribers(context: typer.Context, json: JsonOption = False) -> None:
    """List who is told of what, and how deliveries go."""
    found = execute(context, NotifyList())
    if json:
        render.document({"subscribers": found})
        return
    render.table(
        ["Name", "To", "On", render.right("Waiting"), render.right("Failed"), "Delivered", "Last attempt"],
        [
            (
                each.name,
                _place(each),
                ", ".join(each.kinds),
                _count(each.waiting, each.retrying),
                _count(each.failed, each.failed),
                render.instant(each.delivered_us),
                each.detail,
            )
            for each in found
        ],
        empty="There is no subscriber yet: trustgate notify add URL",
    )


@app.command("show")
def show(context: typer.Context, subscriber: SubscriberArgument, json: JsonOption = False) -> None:
    """Show a subscriber and its recent deliveries, the newest first."""
    found = execute(context, NotifyShow(subscriber=subscriber))
    if json:
        render.document(found)
        return
    render.card(_fields(found.subscriber), title=found.subscriber.name)
    render.table(
        ["Created", "State", render.right("Attempts"), "Message", "Last attempt"],
        [
            (render.instant(each.created_us), _state(each), str(each.attempts), each.message, each.detail)
            for each in found.deliveries
        ],
        empty="No notice was sent yet.",
    )


@app.command("remove")
def remove(context: typer.Context, subscriber: SubscriberArgument, json: JsonOption = False) -> None:
    """Remove a subscriber; what waits for it is given up."""
    found = execute(context, NotifyRemove(subscriber=subscriber))
    if json:
        render.document(found)
        return
    render.say(f"{found.name} gets no more notices.")


@app.command("test")
def try_out(
    context: typer.Context,
    subscriber: Annotated[
        str | None, typer.Argument(metavar="SUBSCRIBER", help="Its name or id.  [default: all of them]")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Send a test now and show what comes of it; fails unless every one arrives."""
    outcomes = execute(context, NotifyTest(subscriber=subscriber))
    if json:
        render.document({"outcomes": outcomes})
    else:
        for each in outcomes:
            render.check("ok" if each.ok else "fail", each.name, each.detail)
    failed = [each.name for each in outcomes if not each.ok]
    if failed:
        raise OperatorError(
            f"The test notice was not delivered: {', '.join(failed)}.",
            hint="Correct the receiver, or remove it and add it with another address.",
            code="test_not_delivered",
        )


def _split(command: str | None) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(command or ""))
    except ValueError as error:
        raise typer.BadParameter(f"{error}.", param_hint="'--command'") from None


def _fields(found: SubscriberState) -> list[tuple[str, render.Cell]]:
    fields: list[tuple[str, render.Cell]] = [("Id", found.id), ("To", _place(found)), ("On", ", ".join(found.kinds))]
    if found.is_private:
        fields.append(("Private", "its address may be private, without TLS"))
    fields.append(("Created", render.instant_utc(found.created_us)))
    return fields


def _place(found: SubscriberState) -> str:
    return found.url or shlex.join(found.command)


def _count(count: int, bad: int) -> render.Cell:
    return render.Styled(str(count), "yellow") if bad else str(count)


def _state(delivery: DeliveryState) -> render.Cell:
    styles = {"delivered": "green", "failed": "red", "waiting": "yellow" if delivery.attempts else ""}
    return render.Styled(delivery.state, styles[delivery.state])
