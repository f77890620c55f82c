"""The pages of notices: their subscribers, and what was delivered."""

from __future__ import annotations

from trustgate.admin.subscriptions import NotifyList, NotifyShow, SubscriberState
from trustgate.console.lists import ListColumn, listing
from trustgate.console.view import Shown, View, do, link, moment, when, word
from trustgate.formats.written import names, number
from trustgate.web.html import join, tag
from trustgate.web.parts import buttons, card, facts, heading, heads, identifier, table


async def notices(view: View) -> Shown:
    found = await view.admin.execute(NotifyList())
    columns: list[ListColumn[SubscriberState]] = [
        ListColumn("Name", lambda s: link(s.name, "notices", s.id), lambda s: s.name.casefold()),
        ListColumn("To", _place, _place),
        ListColumn("On", lambda s: names(s.kinds)),
        ListColumn("Waiting", lambda s: number(s.waiting), lambda s: s.waiting, True),
        ListColumn("Failed", lambda s: number(s.failed), lambda s: s.failed, True),
        ListColumn("Delivered", lambda s: when(s.delivered_us), lambda s: s.delivered_us or 0),
        ListColumn("Last attempt", lambda s: s.detail or "–"),
    ]
    body = join(
        heading("Notices", beside=do("Add a webhook", "notify.add")),
        tag(
            "p",
            None,
            "Notices of budgets, keys, upstreams, the log and the disk go to them: when it begins, and when it ends.",
        ),
        buttons(do("Send a test to all", "notify.test")) if found else None,
        listing(
            view,
            ("notices",),
            found,
            columns,
            caption="Subscribers",
            empty="There is no subscriber yet: add a webhook, or a program on the command line.",
            text=lambda s: f"{s.name} {s.id} {_place(s)} {' '.join(s.kinds)}",
        ),
    )
    return Shown("Notices", body)


async def notice(view: View, ref: str) -> Shown:
    detail = await view.admin.execute(NotifyShow(subscriber=ref))
    found = detail.subscriber
    rows = [
        (
            when(each.created_us),
            word(each.state),
            each.message,
            number(each.attempts),
            when(each.next_us),
            each.detail or "–",
        )
        for each in detail.deliveries
    ]
    body = join(
        heading(found.name),
        buttons(
            do("Send a test", "notify.test", subscriber=found.id), do("Remove", "notify.remove", subscriber=found.id)
        ),
        card(
            "Subscriber",
            facts(
                [
                    ("Id", identifier(found.id, "copy-id")),
                    ("To", _place(found)),
                    ("On", names(found.kinds)),
                    ("Private", "its address may be private, without TLS" if found.is_private else "no"),
                    ("Created", moment(found.created_us)),
                ]
            ),
        ),
        tag("h2", None, "Deliveries, the newest first"),
        table(
            "Deliveries",
            heads("Created", "State", "Message", ">Attempts", "Next attempt", "What came of it"),
            rows,
            empty="No notice was sent yet.",
            hide_caption=True,
        ),
    )
    return Shown(found.name, body)


def _place(found: SubscriberState) -> str:
    return found.url or f"the program {' '.join(found.command)}"
