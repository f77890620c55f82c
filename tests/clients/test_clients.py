"""Every client works unchanged: its program, run against a gateway in front of LiteLLM and a scripted upstream."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.clients import CLIENTS, FEATURES, table
from tests.clients.stage import Findings, Stage, stage, tenant_of
from tests.docs import CLIENTS as CLIENTS_PAGE
from tests.docs import table_of
from tests.support.litellm import LiteLLM


@pytest.fixture(scope="module")
def clients_stage(tmp_path_factory: pytest.TempPathFactory, litellm: LiteLLM) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("clients"), litellm) as made:
        yield made


@pytest.fixture(scope="module")
def findings(clients_stage: Stage) -> Findings:
    return clients_stage.find()


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_works(findings: Findings, client: str) -> None:
    found = findings[client]
    assert found.keys() <= FEATURES.keys()
    broken = {feature: why for feature, why in found.items() if why is not None}
    assert not broken, "\n".join(f"{client}, {feature}: {why}" for feature, why in broken.items())


def test_every_feature_is_shown_by_some_client(findings: Findings) -> None:
    assert {feature for found in findings.values() for feature in found} == set(FEATURES)


def test_whoever_left_a_stream_was_accounted_for(findings: Findings, clients_stage: Stage) -> None:
    leavers = [client for client, found in findings.items() if "hang_up" in found]
    assert len(leavers) > 3
    for client in leavers:
        listed = clients_stage.gateway.cli_json("receipt", "list", "--tenant", tenant_of(client), "--limit", "1000")
        finishes = [entry["receipt"]["finish"] for entry in listed["receipts"]]
        assert finishes.count("client_gone") == 1, client
    left = [request for request in clients_stage.upstream.requests if b'"endless"' in request.body]
    for request in left:
        request.wait_aborted()
    assert len(left) == len(leavers)


def test_the_published_table_is_what_was_found(findings: Findings) -> None:
    assert table_of(CLIENTS_PAGE.read_text()) == table(findings), "run: python3 tests --run python -m tests.clients"
