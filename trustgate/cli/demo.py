"""``trustgate demo``: a tour of everything.

Owns what people see of the tour (``trustgate.demo``), and its JSON.
"""

from __future__ import annotations

import contextlib
import itertools
import shlex
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from trustgate.admin.walk import walk
from trustgate.cli import render
from trustgate.cli.context import JsonOption, session
from trustgate.errors import InvalidRequest

if TYPE_CHECKING:
    from trustgate.demo import tour

_INTERRUPTED = 130


def register(app: typer.Typer) -> None:
    app.command("demo", short_help="Try everything in a few seconds: offline, in a temporary folder.")(demo)


def demo(
    context: typer.Context,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The gateway's port; 0 lets the system choose.")] = 0,
    leave: Annotated[bool, typer.Option("--exit", help="Exit after the tour, instead of serving on.")] = False,
    json: JsonOption = False,
) -> None:
    """Try everything, without a set-up and without a network.

    Runs a gateway, a built-in model and a local Solana in a temporary folder; sends a plain, a streamed, a refused and
    a paid request, and shows the eleven steps of each; anchors their receipts and verifies one. Then it serves your
    requests until Ctrl-C, and removes the folder. Your own settings are not read.
    """
    began = time.monotonic()
    if session(context).home is not None:
        raise InvalidRequest(
            "The demo makes a temporary home folder and removes it at the end; it accepts no --home.",
            hint="trustgate demo",
        )
    show: _Screen | _Record = _Record() if json else _Screen()
    with show:
        # With the command, and with something to look at: half a second goes by here.
        from trustgate.demo.environment import open_environment, run
        from trustgate.demo.tour import Tour

        async def work() -> None:
            async with open_environment(port) as environment:
                guide = Tour(environment, show.report, began)
                await guide.run()
                if leave:
                    return
                show.stay()
                await guide.watch()

        finished = run(work)
    if not finished and not show.is_over:
        raise typer.Exit(_INTERRUPTED)
    # Ctrl-C is how a demo that stays up ends.
    show.removed()


class _Screen:
    """What a person sees, as it happens."""

    def __init__(self) -> None:
        self._toured: tour.Toured | None = None
        self._working = contextlib.ExitStack()

    @property
    def is_over(self) -> bool:
        return self._toured is not None

    def __enter__(self) -> Self:
        self._work("Starting a gateway and a local Solana")
        return self

    def __exit__(self, *_: object) -> None:
        self._working.close()

    def report(self, event: tour.Event) -> None:
        from trustgate.demo import tour

        self._working.close()
        match event:
            case tour.Working():
                self._work(event.what)
            case tour.Begun():
                _show_begun(event)
            case tour.Asked():
                _show_asked(event)
            case tour.Moved():
                _show_moved(event)
            case tour.AnchoredReceipt():
                _show_anchored(event)
            case tour.Verified():
                _show_verified(event)
            case tour.Toured():
                self._toured = event
                render.say("")
                render.say(render.Styled(f"The tour took {event.took_s:.1f} s.", "bold"))
        sys.stdout.flush()

    def stay(self) -> None:
        assert self._toured is not None, "the tour is over"
        _show_invitation(self._toured)
        sys.stdout.flush()

    def removed(self) -> None:
        """Of a demo that came to its end."""
        render.say(
            "\nThe demo and its folder are removed. For a gateway that stays: trustgate init, then trustgate serve"
        )

    def _work(self, what: str) -> None:
        self._working.enter_context(render.working(what, quiet=False))


class _Record:
    """What a program gets: one document, at the end of the tour."""

    def __init__(self) -> None:
        self.is_over = False
        self._document: dict[str, Any] = {"requests": []}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def stay(self) -> None:
        return None

    def removed(self) -> None:
        return None

    def report(self, event: tour.Event) -> None:
        from trustgate.demo import tour

        document = self._document
        match event:
            case tour.Begun():
                document |= {"address": event.address, "chain": event.chain_url}
            case tour.Asked() if not self.is_over:
                document["requests"].append(_request(event))
            case tour.Moved():
                document["moved"] = event._asdict()
            case tour.AnchoredReceipt():
                document["anchor"] = event.outcome
            case tour.Verified():
                document["receipt"] = event.receipt_id
                document["checks"] = [check._asdict() for check in event.verdict.checks]
                document["forgery_fails"] = None if event.forged.failed is None else event.forged.failed.name
            case tour.Toured():
                self.is_over = True
                told = {"base_url": event.base_url, "key": event.key, "model": event.model, "home": event.home}
                render.document({**told, "took_s": round(event.took_s, 3), **document})
                sys.stdout.flush()


def _request(event: tour.Asked) -> dict[str, Any]:
    seen = event.seen
    return {
        "name": event.name,
        "status": None if seen.answer is None else seen.answer.status,
        "steps": [step._asdict() for step in walk(seen)],
        "receipt": None if seen.receipt is None else seen.receipt.receipt,
    }


def _show_begun(event: tour.Begun) -> None:
    render.say(render.Styled("TrustGate, with test money, in a temporary folder", "bold"))
    render.card(
        [
            ("Gateway", event.address),
            ("Model", f"{event.model}, built in: it echoes the message"),
            ("Chain", f"{event.chain_url}, a local Solana instead of devnet"),
            ("Folder", event.home),
            ("Ready", f"after {event.took_s:.1f} s"),
        ]
    )


def _show_asked(event: tour.Asked) -> None:
    answer = event.seen.answer
    render.say("")
    render.say(render.Styled(event.title, "bold cyan"))
    if answer is not None and answer.status == _OK:
        render.say(render.Styled(f' "{answer.text}", {answer.total_ms:.1f} ms after it was asked', "italic"))
    for state, group in itertools.groupby(walk(event.seen), key=lambda step: step.state):
        steps = list(group)
        if state == "not reached":
            first, last = steps[0].number, steps[-1].number
            render.step(state, str(first) if first == last else f"{first}–{last}", "not reached", "")
            continue
        for step in steps:
            render.step(state, str(step.number), step.name, step.detail)


_OK = 200


def _show_moved(event: tour.Moved) -> None:
    def told(before: int, after: int) -> str:
        return f"{render.usd(before * _NANO_USD)} before, {render.usd(after * _NANO_USD)} now"

    render.say("")
    render.say(render.Styled("The two wallets' balances on the chain", "bold cyan"))
    render.card([("Buyer", told(*event.buyer)), ("Seller", told(*event.seller))])


#: One unit of the token: it has six decimals and is worth a dollar.
_NANO_USD = 1_000


def _show_anchored(event: tour.AnchoredReceipt) -> None:
    outcome = event.outcome
    render.say("")
    render.say(
        render.Styled(
            f"Anchored: {render.counted(outcome.tree_size, 'receipt')} under one root, in one Solana transaction",
            "bold cyan",
        )
    )
    render.card(
        [
            ("Root", outcome.root),
            ("Signature", outcome.signature),
            ("Fee", f"{render.number(outcome.fee_lamports)} lamports, in slot {render.number(outcome.slot)}"),
        ]
    )


def _show_verified(event: tour.Verified) -> None:
    checks, forged = event.verdict.checks, event.forged.failed
    passed = [check.name for check in checks if check.state == "passed"]
    render.say("")
    render.say(render.Styled("The paid request's receipt, exported and verified offline", "bold cyan"))
    render.step("passed", str(len(passed)), "checks", f"passed: {', '.join(passed)}")
    if forged is not None:
        render.step("stopped", "", "forgery", f"one token less, and the check {forged.name!r} fails")


def _show_invitation(event: tour.Toured) -> None:
    messages = '[{"role": "user", "content": "Hello!"}]'
    lines: list[render.Cell] = [
        "",
        render.Styled("Try it from another terminal (the key is for this demo only)", "bold cyan"),
        "",
        f"export OPENAI_BASE_URL={event.base_url}",
        f"export OPENAI_API_KEY={event.key}",
        "",
        "curl $OPENAI_BASE_URL/chat/completions \\",
        '  -H "Authorization: Bearer $OPENAI_API_KEY" \\',
        '  -H "Content-Type: application/json" \\',
        f"""  -d '{{"model": "{event.model}",""",
        f"""       "messages": {messages}}}'""",
        "",
        render.Styled("or with OpenAI's SDK, which finds both there:", "bold"),
        "",
        "from openai import OpenAI",
        "answer = OpenAI().chat.completions.create(",
        f'    model="{event.model}", messages={messages})',
        "print(answer.choices[0].message.content)",
        "",
        render.Styled("and as its operator:", "bold"),
        "",
        f"trustgate --home {shlex.quote(event.home)} top",
        "",
        "Your requests are shown here. Ctrl-C stops the demo and removes its folder.",
    ]
    for line in lines:
        render.say(line)
