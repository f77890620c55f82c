"""Lists of what upstreams keep, as one tenant may see them: pages of its own objects.

All tenants share an upstream's account, so its list is of everybody's objects. A page of a tenant's own is put together
from as many of the upstream's pages as that takes; where the tenant has nothing, the upstream is not asked.

Owns this paging, and its bounds. Sources of the form: OpenAI API reference, "List files" (``limit``, ``after``,
``order``, ``has_more``, ``first_id``, ``last_id``); Anthropic API reference, "List Message Batches" (``after_id``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

import msgspec

from trustgate.errors import InvalidRequest, UpstreamFailed
from trustgate.gateway.api.object_accounting import with_own_address
from trustgate.models.metering.lenient import UNREADABLE
from trustgate.models.metering.whole import Reported
from trustgate.models.upstream.answer import Answer
from trustgate.models.upstream.client import Outgoing, UpstreamClient
from trustgate.models.upstream.targets import Target

#: The upstream's pages that are read for one of a tenant's, at most; and how many objects each has at least.
MOST_PAGES: Final = 100
_PAGE_LEAST: Final = 100
#: The objects of a page where the client does not say; files have more (OpenAI API reference).
_LIMIT: Final = 20
_LIMIT_OF_FILES: Final = 10_000


class _Item(msgspec.Struct):
    id: str = ""
    created_at: float | str | None = None
    created: float | None = None


class _Page(msgspec.Struct):
    data: list[msgspec.Raw] = []
    has_more: bool = False


_item = msgspec.json.Decoder(_Item).decode
_page = msgspec.json.Decoder(_Page).decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_Listed = tuple[str, msgspec.Raw]


class OwnList:
    """One request for a page of a tenant's own objects."""

    def __init__(
        self,
        client: UpstreamClient,
        outgoing: Outgoing,
        own: frozenset[str],
        deadline: float | None,
        hidden: Mapping[str, frozenset[str]],
    ) -> None:
        """``outgoing``: the client's request; ``own``: the ids of what is the tenant's; ``hidden``: those of them that
        are another tenant's at an upstream, by its base URL.

        Raises ``InvalidRequest`` for a ``limit`` that is none.
        """
        self._client = client
        self._outgoing = outgoing
        self._own = own
        self._hidden = hidden
        self._deadline = deadline
        path, _, query = outgoing.path.partition("?")
        self._path = path
        is_anthropic = path == "/messages/batches"
        #: Members that set where a page begins, and where it ends.
        self._after, self._before = ("after_id", "before_id") if is_anthropic else ("after", "before")
        self._readdress = with_own_address if is_anthropic else bytes
        self._query = dict(parse_qsl(query, keep_blank_values=True))
        self._limit = _limit(self._query.pop("limit", None), _LIMIT_OF_FILES if path == "/files" else _LIMIT)
        self._first: Answer | None = None

    async def page(self, targets: Sequence[Target]) -> Answer:
        """Returns the page. ``targets``: where the objects may be.

        Raises what ``UpstreamClient.fetch`` raises, and ``UpstreamFailed`` for a list that cannot be read.
        """
        after = self._query.pop(self._after, None)
        if not self._own:
            return _empty(targets[0])
        if len(targets) == 1:
            found = await self._scan(targets[0], after, self._limit + 1)
        else:
            found = []
            for target in targets:
                found += await self._scan(target, None, len(self._own))
            found = self._merged(found, after)
        first = self._first
        assert first is not None, "one target at least was asked"
        return _replaced(first, found[: self._limit], has_more=len(found) > self._limit)

    async def _scan(self, target: Target, after: str | None, most: int) -> list[_Listed]:
        """Returns the tenant's own of the upstream's list behind ``after``, until there are ``most``."""
        found: list[_Listed] = []
        own = self._own - self._hidden.get(target.upstream.base_url, frozenset())
        for _ in range(MOST_PAGES):
            query = {**self._query, "limit": str(max(self._limit, _PAGE_LEAST))}
            if after is not None:
                query[self._after] = after
            asked = msgspec.structs.replace(self._outgoing, path=f"{self._path}?{urlencode(query)}")
            answer = await self._client.fetch([target], asked, deadline=self._deadline)
            await answer.close()
            self._first = self._first or answer
            page = _read(_page, answer.body)
            listed = [(_read(_item, bytes(raw)).id, raw) for raw in page.data]
            found += [
                (object_id, msgspec.Raw(self._readdress(bytes(raw)))) for object_id, raw in listed if object_id in own
            ]
            is_over = not page.has_more or not listed or not listed[-1][0] or listed[-1][0] == after
            if is_over or len(found) >= min(most, len(own)) or self._before in self._query:
                break
            after = listed[-1][0]
        return found

    def _merged(self, found: list[_Listed], after: str | None) -> list[_Listed]:
        """Returns the objects of several upstreams in one order, those behind ``after``."""
        newest_first = self._query.get("order", "desc") != "asc"
        found = sorted(found, key=lambda each: _made_at(each[1]), reverse=newest_first)
        names = [object_id for object_id, _ in found]
        return found if after not in names else found[names.index(after) + 1 :]


def _limit(text: str | None, default: int) -> int:
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 6):
        raise InvalidRequest("limit must be a number.", param="limit", code="invalid_value")
    return max(1, int(text))


def _made_at(raw: msgspec.Raw) -> tuple[float, str]:
    item = _read(_item, bytes(raw))
    made = item.created_at if item.created_at is not None else item.created
    return (0.0, made) if isinstance(made, str) else (made or 0.0, "")


def _read(decode: Any, body: bytes) -> Any:
    try:
        return decode(body)
    except UNREADABLE:
        raise UpstreamFailed("The upstream's list cannot be read.", retryable=False) from None


def _replaced(answer: Answer, found: list[_Listed], *, has_more: bool) -> Answer:
    """Returns the answer with these objects in place of its own."""
    members: dict[str, Any] = _read(_members, answer.body)
    members["data"] = [raw for _, raw in found]
    for name, at in (("first_id", 0), ("last_id", -1)):
        if name in members:
            members[name] = found[at][0] if found else None
    if "has_more" in members:
        members["has_more"] = has_more
    answer.body = msgspec.json.encode(members)
    return answer


def _empty(target: Target) -> Answer:
    import httpx

    body = b'{"object":"list","data":[],"first_id":null,"last_id":null,"has_more":false}'
    response = httpx.Response(200, headers={"content-type": "application/json"}, content=body)
    return Answer(target, response, 200, "application/json", body, reported=Reported())
