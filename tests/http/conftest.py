"""The gateways of the gateway's tests, for tests that speak HTTP to them byte by byte."""

from __future__ import annotations

from tests.gateway.conftest import quick_gateway, scripted, shared_gateway, shared_upstream, sign_up, tenant

__all__ = ["quick_gateway", "scripted", "shared_gateway", "shared_upstream", "sign_up", "tenant"]
