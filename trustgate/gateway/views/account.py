"""What a caller may read: its models, usage and receipts.

These endpoints authenticate like the path but cost no quota and write no receipt.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from trustgate.access.budget_reach import Drawer, hides_figures
from trustgate.access.budgets import Budgets
from trustgate.access.directory import Caller, Directory
from trustgate.access.plans import allows_model
from trustgate.access.quota import Quota
from trustgate.access.standing import limit_cards
from trustgate.errors import InvalidRequest, NotFound, TrustGateError
from trustgate.gateway.api.dialects import ANTHROPIC, OPENAI, is_anthropics
from trustgate.gateway.path.arrival import Arrival
from trustgate.gateway.path.identity import identify
from trustgate.gateway.views.keys import key_card
from trustgate.gateway.views.models import anthropic_model, anthropic_models
from trustgate.http.sending import send_body, send_error, send_json
from trustgate.ids import MICROSECONDS_PER_SECOND, now_us
from trustgate.models.catalog import Catalog, Resolved
from trustgate.models.published import published
from trustgate.models.upstream.targets import Targets
from trustgate.receipts.archive import LABELS, Archive
from trustgate.receipts.log import Log
from trustgate.receipts.receipt import leaf_hash
from trustgate.store import ReceiptFilter, Store, UsageFilter
from trustgate.types import FACTOR_ONE_PPM, Entry, Limits

_logger = logging.getLogger("trustgate.gateway")

#: Cards of models that are made without a pause: half a millisecond.
_CARDS_A_TURN = 50
_PAGE_DEFAULT = 20
_PAGE_MOST = 100
_SHOWN_ID_CHARACTERS = 100

_DAY_US = 86_400 * MICROSECONDS_PER_SECOND

Handler = Callable[[Caller, Scope], Awaitable[Any]]
OnRefusal = Callable[[TrustGateError, str, str], None]


def _unnoticed(error: TrustGateError, what: str, request_id: str) -> None:
    """Do nothing with a refusal."""


async def _is_fresh(*subject_ids: str) -> None:
    """Do nothing: this process counts everything itself."""


def _is_served() -> None:
    """Raise nothing: one process has the database."""


class Reads:
    def __init__(
        self,
        *,
        directory: Directory,
        catalog: Catalog,
        targets: Targets,
        quota: Quota,
        budgets: Budgets,
        log: Log,
        store: Store,
        archive: Archive,
    ) -> None:
        self._directory = directory
        self._catalog = catalog
        self._targets = targets
        self._quota = quota
        self._budgets = budgets
        self._log = log
        self._store = store
        self._archive = archive
        #: Reads into memory what several processes have counted, of subjects and on budgets.
        self.refresh_counts: Callable[..., Awaitable[None]] = _is_fresh
        #: Raises ``Unavailable`` while this process cannot look at which keys are valid.
        self.check_serving: Callable[[], None] = _is_served
        #: Is called with each refusal, what was asked (method and path) and the request's id.
        self.on_refusal: OnRefusal = _unnoticed

    def app(self, handler: Handler, *, takes_keyless: bool = False) -> _Read:
        """``takes_keyless``: whether callers without a key may ask, where something is sold to them."""
        return _Read(self._directory, handler, self._refused, self._check, takes_keyless=takes_keyless)

    def _check(self) -> None:
        self.check_serving()

    def _refused(self, error: TrustGateError, what: str, request_id: str) -> None:
        self.on_refusal(error, what, request_id)

    async def models(self, caller: Caller, scope: Scope) -> Any:
        """``GET /v1/models?available=true|false``: what the caller's plan includes (OpenAI's list of models)."""
        wanted = QueryParams(scope["query_string"]).get("available", "all")
        if wanted not in ("all", "true", "false"):
            raise InvalidRequest("available must be true, false or all.", param="available")
        listed = await self._listed(caller)
        if wanted != "all":
            listed = [model for model in listed if model["available"] is (wanted == "true")]
        if is_anthropics(scope["headers"]):
            return anthropic_models(listed, QueryParams(scope["query_string"]))
        return {"object": "list", "data": listed}

    async def model(self, caller: Caller, scope: Scope) -> Any:
        """``GET /v1/models/{id}``: by slug, passport id, alias or a name that a wildcard takes; else the list."""
        name = scope["path_params"]["id"]
        if not name:
            return await self.models(caller, scope)
        resolved = self._catalog.resolve(name, caller.profile)
        if resolved is None or not allows_model(caller, resolved.names):
            raise NotFound(
                f"The model {name!r} does not exist or you do not have access to it.",
                code="model_not_found",
                param="model",
            )
        card = self._card(caller, name, resolved)
        return anthropic_model(card) if is_anthropics(scope["headers"]) else card

    async def _listed(self, caller: Caller) -> list[dict[str, Any]]:
        cards: list[dict[str, Any]] = []
        for number, name in enumerate(self._targets.names(caller.profile), 1):
            if number % _CARDS_A_TURN == 0:
                await asyncio.sleep(0)  # other requests run
            resolved = self._catalog.resolve(name, caller.profile)
            if resolved is not None and allows_model(caller, resolved.names):
                cards.append(self._card(caller, name, resolved))
        return cards

    def _card(self, caller: Caller, name: str, resolved: Resolved) -> dict[str, Any]:
        passport = resolved.passport
        return {
            "id": name,
            "object": "model",
            "created": passport.created_us // MICROSECONDS_PER_SECOND,
            "owned_by": passport.provider,
            "available": self._targets.is_available(passport, resolved.upstream_model),
            "passport": passport.id,
            "status": passport.status,
            "context_length": passport.context_length,
            "max_output_tokens": passport.max_output_tokens,
            "capabilities": passport.capabilities,
            "pricing": published(
                resolved.price,
                caller.price_factor_ppm,
                None if caller.terms is None else caller.terms.price_nano_usd,
            ),
        }

    async def account(self, caller: Caller, scope: Scope) -> Any:
        """``GET /v1/account``: who the caller is, its plan, and where its limits and budgets stand."""
        await self.refresh_counts(caller.tenant.id, caller.key.account_id)
        at_us = now_us()
        tenant, plan, key = caller.tenant, caller.plan, caller.key
        of_tenant, of_key = self._quota.used(tenant.id, at_us), self._quota.used(key.account_id, at_us)
        return {
            "object": "account",
            "tenant": {"id": tenant.id, "name": tenant.name},
            "plan": {
                "name": plan.name,
                "models": plan.scope.models,
                "endpoints": plan.scope.endpoints,
                "features": plan.scope.features,
                "price_factor": caller.price_factor_ppm / FACTOR_ONE_PPM,
                "own_keys": plan.own_keys,
                **_at_once(plan.limits),
            },
            "key": {**key_card(key, caller), **_at_once(key.limits)},
            "limits": [
                *limit_cards("plan", plan.limits, of_tenant, at_us),
                *limit_cards("key", key.limits, of_key, at_us),
            ],
            "budgets": self._budget_cards(caller),
            "payment": "off" if caller.terms is None else caller.terms.mode,
            "log": {"origin": self._archive.origin, "vkey": self._archive.vkey},
        }

    async def usage(self, caller: Caller, scope: Scope) -> Any:
        """``GET /v1/usage?since=2026-01-31&by=day|model|key|end_user``: the caller's, the last 30 days unless said."""
        query = QueryParams(scope["query_string"])
        by = query.get("by", "day")
        if by not in ("day", "model", "key", "end_user"):
            raise InvalidRequest("by must be day, model, key or end_user.", param="by")
        since_us = _since(query.get("since"))
        await self.refresh_counts(caller.tenant.id, caller.key.account_id)
        await self._log.flush()
        rows = await self._store.usage(
            UsageFilter(by=by, tenant_id=caller.tenant.id, since_us=since_us)  # type: ignore[arg-type]
        )
        return {
            "object": "list",
            "data": rows,
            "current": {
                "tenant": self._quota.used(caller.tenant.id, now_us()),
                "key": self._quota.used(caller.key.account_id, now_us()),
            },
            "limits": {"plan": caller.plan.limits, "key": caller.key.limits},
            "budgets": self._budget_cards(caller),
        }

    def _budget_cards(self, caller: Caller) -> list[dict[str, Any]]:
        """Returns where the budgets stand that this key draws on; of those shared with strangers, without their use."""
        drawer = Drawer(caller.tenant.id, caller.key.account_id, caller.plan.name, ())
        hidden = {budget.id for budget in self._budgets.budgets() if hides_figures(budget)}
        return [
            {
                "name": standing.name,
                "unit": standing.unit,
                "amount": standing.amount,
                "span": standing.span,
                "hard": standing.hard,
                **(
                    {"reached": standing.left == 0}
                    if standing.budget in hidden
                    else {"used": standing.used, "held": standing.held, "left": standing.left}
                ),
                "since_us": standing.since_us,
                "resets_us": standing.resets_us,
            }
            for standing in self._budgets.standing_of(drawer, now_us())
        ]

    async def receipt(self, caller: Caller, scope: Scope) -> Any:
        """``GET /v1/receipts/{id}``: a receipt of the caller's own tenant, with the secret that opens it."""
        return receipt_card(await self._entry(caller, scope["path_params"]["receipt"]))

    async def receipts(self, caller: Caller, scope: Scope) -> Any:
        """``GET /v1/receipts?after=ID&order=asc|desc&limit=20``: the caller's tenant's, paged as OpenAI pages lists.

        ``model`` (a glob), ``key`` (an id), ``status`` (``ok`` or ``failed``), ``since`` and ``before`` (days, UTC)
        narrow them.
        """
        query = QueryParams(scope["query_string"])
        order = query.get("order", "desc")
        if order not in ("asc", "desc"):
            raise InvalidRequest("order must be asc or desc.", param="order")
        limit = _page_size(query.get("limit"))
        after = query.get("after")
        oldest_first = order == "asc"
        await self._log.flush()
        seq = None if after is None else (await self._entry(caller, after, param="after")).seq
        found = await self._store.entries(
            ReceiptFilter(
                tenant_id=caller.tenant.id,
                key_id=query.get("key"),
                model=query.get("model") or None,
                status=_statuses(query.get("status")),
                since_us=None if query.get("since") is None else _since(query["since"]),
                until_us=None if query.get("before") is None else _since(query["before"], "before"),
                after_seq=seq if oldest_first else None,
                before_seq=None if oldest_first else seq,
                oldest_first=oldest_first,
                limit=limit + 1,
            )
        )
        page = found[:limit]
        return {
            "object": "list",
            "data": [receipt_card(entry) for entry in page],
            "first_id": page[0].receipt.id if page else None,
            "last_id": page[-1].receipt.id if page else None,
            "has_more": len(found) > limit,
        }

    async def proof(self, caller: Caller, scope: Scope) -> Any:
        """``GET /v1/receipts/{id}/proof``: its inclusion in the log, as a C2SP tlog-proof."""
        entry = await self._entry(caller, scope["path_params"]["receipt"])
        return RawAnswer("text/plain; charset=utf-8", await self._archive.proof(entry))

    async def bundle(self, caller: Caller, scope: Scope) -> Any:
        """``GET /v1/receipts/{id}/bundle``: it with its proof, checkpoint and anchor, to be verified by anybody
        (receipts.bundle). Both commitments can be opened with it.
        """
        entry = await self._entry(caller, scope["path_params"]["receipt"])
        name = b'attachment; filename="%s.json"' % entry.receipt.id.encode()
        data = await self._archive.bundle(entry, LABELS)
        return RawAnswer("application/json", data, ((b"content-disposition", name),))

    async def _entry(self, caller: Caller, receipt_id: str, *, param: str | None = None) -> Entry:
        """Returns a receipt of the caller's tenant. Raises ``NotFound``, for other tenants' too."""
        await self._log.flush()
        entry = await self._store.entry(receipt_id)
        # Of callers without a key each knows the ids of its own receipts alone.
        is_theirs = entry is not None and (
            entry.receipt.key == caller.key.id if caller.is_keyless else entry.receipt.tenant == caller.tenant.id
        )
        if entry is None or not is_theirs:
            shown = receipt_id[:_SHOWN_ID_CHARACTERS]
            raise NotFound(f"There is no receipt {shown!r}.", code="receipt_not_found", param=param)
        return entry


class RawAnswer(NamedTuple):
    """An answer that is no JSON of this module's: its content type, its bytes, further headers."""

    content_type: str
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


def receipt_card(entry: Entry) -> dict[str, Any]:
    return {
        "object": "receipt",
        "seq": entry.seq,
        "receipt": entry.receipt,
        "secret": entry.secret.hex(),
        "leaf_hash": leaf_hash(entry.receipt).hex(),
    }


class _Read:
    """The ASGI application of one reading endpoint: authenticate, ask, answer in JSON."""

    def __init__(
        self,
        directory: Directory,
        handler: Handler,
        on_refusal: OnRefusal,
        check_serving: Callable[[], None],
        *,
        takes_keyless: bool,
    ) -> None:
        self._directory = directory
        self._check_serving = check_serving
        self._handler = handler
        self._takes_keyless = takes_keyless
        self._on_refusal = on_refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrival = Arrival.of(scope)
        # It is one caller's, and may hold a receipt's secret. Without this, a cache between could keep what was asked
        # for with a key in another header than Authorization (RFC 9111, section 3.5).
        headers = [(b"x-request-id", arrival.request_id), (b"cache-control", b"no-store")]
        try:
            self._check_serving()
            caller = identify(self._directory, arrival, takes_keyless=self._takes_keyless)
            answer = await self._handler(caller, scope)
        except TrustGateError as error:
            request_id = arrival.request_id.decode()
            self._on_refusal(error, f"{scope['method']} {scope['path'][:_SHOWN_ID_CHARACTERS]}", request_id)
            dialect = ANTHROPIC if is_anthropics(scope["headers"]) else OPENAI
            await send_error(send, error, headers, dialect.body(error, request_id))
        except Exception:
            _logger.exception("internal error in request %s", arrival.request_id.decode())
            await send_error(send, TrustGateError("The gateway failed. The error is in its log."), headers)
        else:
            if isinstance(answer, RawAnswer):
                told = [(b"content-type", answer.content_type.encode()), *answer.headers, *headers]
                await send_body(send, 200, told, answer.body)
            else:
                await send_json(send, answer, headers)


def _at_once(limits: Limits) -> dict[str, int | None]:
    """Returns the limits that no window has."""
    return {name: getattr(limits, name) for name in ("parallel_requests", "max_tokens", "max_prompt_tokens")}


def _statuses(text: str | None) -> tuple[int, int] | None:
    """Returns the lowest and the highest HTTP status that is wanted; None: any. Raises ``InvalidRequest``."""
    if text is None:
        return None
    if text not in _STATUSES:
        raise InvalidRequest(f"status must be {' or '.join(_STATUSES)}.", param="status")
    return _STATUSES[text]


def _page_size(text: str | None) -> int:
    """Raises ``InvalidRequest``."""
    if text is None:
        return _PAGE_DEFAULT
    if not (text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= _PAGE_MOST):
        raise InvalidRequest(f"limit must be a number from 1 to {_PAGE_MOST}.", param="limit")
    return int(text)


_STATUSES = {"ok": (0, 399), "failed": (400, 999)}
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def _since(text: str | None, param: str = "since") -> int:
    """Returns the start of a day in UTC, microseconds; 30 days ago when not given. Raises ``InvalidRequest``."""
    if text is None:
        return now_us() - 30 * _DAY_US
    try:
        if not _DATE.fullmatch(text):
            raise ValueError
        day = datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        raise InvalidRequest(f"{param} must be a date like 2026-01-31.", param=param) from None
    return (day - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
