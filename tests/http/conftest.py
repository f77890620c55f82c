"""What tests speak HTTP to byte by byte: the gateways of the gateway's tests, and an application of the tests' own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gateway.conftest import quick_gateway, scripted, shared_gateway, shared_upstream, sign_up, tenant
from tests.http.serving import App

__all__ = ["app", "quick_gateway", "scripted", "shared_gateway", "shared_upstream", "sign_up", "tenant"]


@pytest.fixture
def app() -> Iterator[App]:
    """Whatever it still holds at the test's end it lets go of then."""
    app = App()
    yield app
    app.open()
