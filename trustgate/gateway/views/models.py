"""The list of models in Anthropic's form, for its clients.

Owns the form. Source: Anthropic API reference, "Models".
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import QueryParams

from trustgate.errors import InvalidRequest

_LIMIT = 20
_LIMIT_MOST = 1000


def anthropic_model(card: dict[str, Any]) -> dict[str, Any]:
    """Returns a model as Anthropic's clients read it. ``card``: as OpenAI's do."""
    created = datetime.fromtimestamp(card["created"], UTC)
    return {
        "type": "model",
        "id": card["id"],
        "display_name": card["id"],
        "created_at": created.isoformat().replace("+00:00", "Z"),
    }


def anthropic_models(cards: list[dict[str, Any]], query: QueryParams) -> dict[str, Any]:
    """Returns a page of the models. Raises ``InvalidRequest`` for a ``limit``, or an id to go on from, that is none."""
    text = query.get("limit", str(_LIMIT))
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= _LIMIT_MOST):
        raise InvalidRequest(f"limit must be a number from 1 to {_LIMIT_MOST}.", param="limit")
    limit = int(text)
    names = [card["id"] for card in cards]
    for name in ("after_id", "before_id"):
        if query.get(name) is not None and query[name] not in names:
            raise InvalidRequest(f"There is no model {query[name][:80]!r}.", param=name)
    start, end = 0, len(cards)
    if "after_id" in query:
        start = names.index(query["after_id"]) + 1
    if "before_id" in query:
        end = names.index(query["before_id"])
        start = max(start, end - limit) if "after_id" not in query else start
    page = cards[start:end][:limit]
    has_more = start > 0 if "before_id" in query and "after_id" not in query else start + len(page) < end
    return {
        "data": [anthropic_model(card) for card in page],
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": has_more,
    }
