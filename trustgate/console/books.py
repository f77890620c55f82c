"""The pages of receipts and statements."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from trustgate.admin import notation
from trustgate.admin.commands import KeyList, TenantList
from trustgate.admin.log_commands import AnchorStatus, ReceiptDetail, ReceiptExport, ReceiptList, ReceiptShow
from trustgate.admin.model_commands import PassportShow
from trustgate.admin.money import StatementExport, StatementMonths
from trustgate.admin.walk import Refusal, Seen, walk
from trustgate.console.lists import pager
from trustgate.console.view import (
    Download,
    Shown,
    View,
    do,
    link,
    moment,
    moment_link,
    tenant_field,
    tenant_names,
    url,
    when,
    word,
)
from trustgate.errors import InvalidRequest, NotFound
from trustgate.formats.written import number, usd
from trustgate.types import Finish, Passport
from trustgate.web.html import Html, join, tag
from trustgate.web.parts import (
    buttons,
    card,
    code,
    command,
    facts,
    heading,
    heads,
    identifier,
    link_button,
    select_field,
    table,
    text_field,
)

_RECEIPTS_A_PAGE = 50


# receipts


async def receipts(view: View) -> Shown:
    named = await tenant_names(view.admin)
    given = {name: view.get(name) for name in ("tenant", "key", "model", "status", "ended", "since", "before")}
    errors: dict[str, str] = {}

    def wrong(name: str) -> str:
        return errors.get(name, "")

    def read(name: str, parser: Any) -> Any:
        try:
            return parser(given[name]) if given[name] else None
        except ValueError as error:
            errors[name] = str(error)
            return None

    wanted = ReceiptList(
        tenant=given["tenant"] or None,
        key=given["key"] or None,
        model=given["model"] or None,
        status=read("status", notation.status),
        finish=read("ended", _finish),
        since_us=read("since", notation.since),
        before_seq=read("before", notation.whole),
        limit=_RECEIPTS_A_PAGE,
    )
    found = () if errors else await view.admin.execute(wanted)
    further = url("receipts", **{**given, "before": str(found[-1].seq)}) if len(found) == _RECEIPTS_A_PAGE else ""
    first = url("receipts", **{**given, "before": ""}) if given["before"] else ""
    tenants = sorted(named.items(), key=lambda each: each[1].casefold())
    body = join(
        heading("Receipts"),
        tag(
            "form",
            {"class": "line", "method": "get", "action": url("receipt"), "role": "search"},
            text_field("id", "Receipt or request id", kind="search", placeholder="rcpt_… or req_…"),
            tag("div", {"class": "field"}, tag("button", {"type": "submit"}, "Find")),
        ),
        tag(
            "form",
            {"class": "line", "method": "get", "action": url("receipts")},
            tenant_field(tenants, given["tenant"], empty="all"),
            text_field("model", "Model", value=given["model"], placeholder="gpt-4o, openai/*"),
            text_field("status", "Status", value=given["status"], placeholder="429, 5xx", error=wrong("status")),
            select_field("ended", "Ended", [("", "any"), *((name, name) for name in _ENDINGS)], value=given["ended"]),
            text_field("since", "Since", value=given["since"], placeholder="7d, 2026-01-31", error=wrong("since")),
            _hidden_key(given["key"]),
            tag("div", {"class": "field"}, tag("button", {"type": "submit"}, "Show")),
        ),
        receipts_table(found, named),
        pager(first, further, ""),
    )
    return Shown("Receipts", body)


_ENDINGS: tuple[str, ...] = Finish.__args__  # type: ignore[attr-defined]


def _finish(text: str) -> str:
    if text not in _ENDINGS:
        raise ValueError(f"{text!r} is no way to end.")
    return text


def _hidden_key(key: str) -> Html | None:
    return tag("input", {"type": "hidden", "name": "key", "value": key}) if key else None


def receipts_table(found: Sequence[ReceiptDetail], named: Mapping[str, str]) -> Html:
    """Returns receipts as a list. ``named``: tenants' names by id."""
    titles = heads("Time", "Tenant", "Model", ">Tokens", ">Cost", ">ms", ">Status", "Ended")
    rows = [
        (
            moment_link(detail.receipt.created_us, "receipts", detail.receipt.id),
            link(named.get(detail.receipt.tenant, detail.receipt.tenant), "tenants", detail.receipt.tenant),
            detail.receipt.model or detail.receipt.endpoint,
            number(detail.receipt.prompt_tokens + detail.receipt.completion_tokens),
            usd(detail.receipt.cost_nano_usd),
            number(detail.receipt.latency_total_ms),
            str(detail.receipt.status),
            word(detail.receipt.finish),
        )
        for detail in found
    ]
    return table(
        "Receipts",
        titles,
        rows,
        empty="No receipts found. Every request leaves one; see how they come in under Requests.",
        hide_caption=True,
    )


async def receipt_by_id(view: View) -> Shown | Download:
    return await receipt(view, view.get("id"))


async def receipt(view: View, ref: str) -> Shown | Download:
    if not ref:
        raise InvalidRequest("Give the id of a receipt or of its request.")
    detail = await view.admin.execute(ReceiptShow(receipt=ref))
    found = detail.receipt
    named = await tenant_names(view.admin)
    tenants = {each.id: each for each in await view.admin.execute(TenantList(removed=True))}
    keys = {each.id: each for each in await view.admin.execute(KeyList(revoked=True))}
    try:
        passport: Passport | None = None
        if found.passport:
            passport = await view.admin.execute(PassportShow(passport=found.passport))
    except NotFound:
        pass
    refusal = None
    if found.finish in ("refused", "upstream_error"):
        refusal = Refusal(found.status, found.finish, "see the log of the server", found.finish == "upstream_error")
    seen = Seen(
        found.endpoint,
        refusal=refusal,
        receipt=detail,
        key=keys.get(found.key),
        tenant=tenants.get(found.tenant),
        passport=passport,
    )
    steps = [
        tag(
            "li",
            None,
            tag("strong", None, step.name),
            " ",
            word({"passed": "ok", "stopped": "fail", "not reached": "not reached"}[step.state]),
            tag("div", {"class": "soft"}, step.detail),
        )
        for step in walk(seen)
    ]
    log = await view.admin.execute(AnchorStatus())
    anchored = detail.seq <= log.anchored_size
    body = join(
        heading("Receipt", beside=word(found.finish)),
        buttons(
            link_button(url("receipts", found.id, "bundle"), "Download the bundle", kind="main"),
            link_button(url("receipts", found.id, "bundle", disclose="both"), "Bundle that opens the contents"),
        ),
        tag(
            "div",
            {"class": "cards"},
            card("The eleven steps", tag("ol", {"class": "steps"}, steps)) if found.finish != "credited" else None,
            tag(
                "div",
                None,
                card("Request", facts(_told(detail, named))),
                card("Proof", facts(_proof(detail, log.tree_size, log.anchored_size, log.anchored_us, anchored))),
            ),
        ),
        tag("h2", None, "The same on the command line"),
        command(f"trustgate receipt show {found.id}", "show-line"),
        command(f"trustgate receipt export {found.id} -o bundle.json", "export-line"),
    )
    return Shown("Receipt", body)


def _told(detail: ReceiptDetail, named: Mapping[str, str]) -> list[tuple[str, object]]:
    found = detail.receipt
    tokens = f"{number(found.prompt_tokens)} prompt ({number(found.cached_tokens)} cached)"
    tokens += f" + {number(found.completion_tokens)} completion ({number(found.reasoning_tokens)} reasoning)"
    cost = "not known: the model had no price" if found.price_known is False else usd(found.cost_nano_usd)
    answered = f"answered by {found.upstream_model}" if found.upstream_model else "not answered"
    rows: list[tuple[str, object]] = [
        ("Receipt", identifier(found.id, "copy-id")),
        ("Time", moment(found.created_us)),
        ("Tenant", link(named.get(found.tenant, found.tenant), "tenants", found.tenant)),
        ("Key", link(found.key, "keys", found.key) if found.key else "none"),
        ("Endpoint", found.endpoint + (", streamed" if found.stream else "")),
        ("Model", f"{found.model} ({answered})"),
        ("Ended", f"{found.finish}, status {found.status}"),
        ("Tokens", tokens + ("" if found.usage_source == "provider" else ", estimated")),
        ("Cost", cost),
        ("Took", f"{number(found.latency_first_ms)} ms to the first byte, {number(found.latency_total_ms)} ms in all"),
    ]
    if isinstance(found.charged_nano_usd, int) and isinstance(found.credited_nano_usd, int):
        rows += [("Charged", usd(found.charged_nano_usd)), ("Credited", usd(found.credited_nano_usd))]
    if isinstance(found.payment, str) and found.payment:
        rows.append(("Payment", link(found.payment, "payments", found.payment)))
    if isinstance(found.end_user, str) and found.end_user:
        rows.append(("End user", link(found.end_user, "end-users", tenant=found.tenant, q=found.end_user)))
    return rows


def _proof(
    detail: ReceiptDetail, tree_size: int, anchored_size: int, anchored_us: int, anchored: bool
) -> list[tuple[str, object]]:
    found = detail.receipt
    on_chain = join(word("anchored"), f" with {number(anchored_size)} receipts, ", when(anchored_us))
    return [
        ("Place in the log", f"{number(detail.seq)} of {number(tree_size)}"),
        ("Leaf hash", identifier(detail.leaf_hash, "copy-leaf-hash")),
        ("Place of the tenant", number(found.tseq)),
        ("Previous of the tenant", code(found.tprev)),
        ("On the chain", on_chain if anchored else "not yet: the next anchor covers it"),
        ("Request commitment", code(found.request_commitment)),
        ("Response commitment", code(found.response_commitment)),
        ("Price hash", code(found.price_hash)),
        ("Policy hash", code(found.policy_hash)),
    ]


async def bundle(view: View, ref: str) -> Download:
    disclose: Any = ("request", "response") if view.get("disclose") == "both" else ()
    text = await view.admin.execute(ReceiptExport(receipt=ref, disclose=disclose))
    return Download(f"{ref}.json", "application/json", text.encode())


# statements


async def statements(view: View) -> Shown:
    tenants = await view.admin.execute(TenantList(removed=True))
    chosen = view.get("tenant")
    found: object = None
    if chosen:
        months = await view.admin.execute(StatementMonths(tenant=chosen))
        rows = [
            (
                month,
                tag("a", {"href": url("statements", chosen, f"{month}.html")}, "HTML"),
                tag("a", {"href": url("statements", chosen, f"{month}.json")}, "JSON"),
                tag("a", {"href": url("statements", chosen, f"{month}.csv")}, "CSV"),
                code(f"trustgate statement {shlex.quote(chosen)} --month {month} -o statement.html"),
            )
            for month in months
        ]
        titles = heads("Month", "Page", "Data", "Table", "On the command line")
        found = table("Statements", titles, rows, empty="The tenant has no receipts yet.", hide_caption=True)
    body = join(
        heading("Statements", beside=do("Make a statement", "statement.make", tenant=chosen)),
        tag(
            "p",
            None,
            "A tenant's month in one file that proves itself: its sums, its receipts, and that the log has them. "
            "One of very many receipts takes a while: make it, and fetch it when it is done.",
        ),
        tag(
            "form",
            {"class": "line", "method": "get", "action": url("statements")},
            tenant_field([(each.id, each.name) for each in tenants], chosen, empty="choose one"),
            tag("div", {"class": "field"}, tag("button", {"type": "submit"}, "Show")),
        ),
        found,
    )
    return Shown("Statements", body)


async def statement(view: View, tenant: str, month: str, form: str) -> Download:
    text = bytearray()

    async def write(data: bytes) -> None:
        text.extend(data)

    await view.admin.feed(StatementExport(tenant=tenant, month=month), write)
    return statement_file(bytes(text), form)


def statement_file(text: bytes, form: str) -> Download:
    """Returns a statement as a file. ``text``: its document in JSON; ``form``: ``html``, ``json`` or ``csv``."""
    from trustgate.statements.document import outline

    document = outline(text)
    name = f"statement-{document.account.month}.{form}"
    if form == "csv":
        from trustgate.statements.sheet import statement_csv

        return Download(name, "text/csv; charset=utf-8", statement_csv(document))
    if form == "html":
        from trustgate.statements.page import statement_page

        return Download(name, "text/html; charset=utf-8", statement_page(document, text))
    return Download(name, "application/json", text)
