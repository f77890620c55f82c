"""What tests of several processes share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.town import Town, town
from tests.support.postgres import GivenPostgres, Postgres


@pytest.fixture(scope="session")
def world(postgres: Postgres | GivenPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with town(tmp_path_factory.mktemp("several"), postgres.schema()) as built:
        yield built
