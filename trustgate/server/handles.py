"""The file of the ids of upstreams' objects at a start: opened, and noticed where it is missing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from trustgate.errors import OperatorError, disk_hint
from trustgate.gateway.api.object_ids import ObjectIds
from trustgate.store import Store

Ids = TypeVar("Ids", bound=ObjectIds)

_logger = logging.getLogger("trustgate.server")


async def missing_handles(path: Path, store: Store) -> tuple[str, ...]:
    """Returns a note where the file of ids is missing although there have been requests; else none."""
    if path.exists():  # noqa: ASYNC240 - the server does not serve yet
        return ()
    if all(head.entry.receipt.finish == "credited" for head in await store.load_heads()):
        return ()
    note = (
        f"The file {path.name} was missing: files, batches and responses that upstreams made before now are not found "
        "any more. Put it back from a backup, with the server stopped, to find them."
    )
    _logger.warning("%s", note)
    return (note,)


def open_handles(path: Path, open_file: Callable[[Path], Ids]) -> Ids:
    """Open the file of ids with ``open_file``.

    Raises OperatorError: it cannot be used.
    """
    try:
        return open_file(path)
    except OSError as error:
        raise OperatorError(
            f"The file {path} cannot be used: {error.strerror}.", hint=disk_hint(error, "Correct its permissions.")
        ) from None
