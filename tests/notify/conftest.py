from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.receiver import Receiver

#: Looks often, and tells at once that something is over.
QUICK = {"TRUSTGATE_NOTIFY_CHECK_EVERY_S": "0.1", "TRUSTGATE_NOTIFY_RESOLVE_AFTER_S": "0"}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running
