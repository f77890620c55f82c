"""Root's commands in a service user's home leave every file to that user."""

from __future__ import annotations

import os
from pathlib import Path, PosixPath

import pytest

from trustgate.admin.ownership import leave_to_owner


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int]]:
    """What is given away, by name: who is not root cannot do it for real."""
    given: dict[str, tuple[int, int]] = {}

    def chown(path: Path, user: int, group: int, *, follow_symlinks: bool) -> None:
        assert not follow_symlinks, "a link could lead anywhere"
        given[path.name] = user, group

    monkeypatch.setattr(os, "chown", chown)
    return given


class _Owned(PosixPath):
    """A path whose owner is the service's user 501, but for files with ``root`` in their names."""

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        found = super().stat(follow_symlinks=follow_symlinks)
        user = 0 if "root" in self.name else 501
        return os.stat_result((*found[:4], user, user + 1, *found[6:]))


def test_what_root_made_goes_to_the_homes_owner(
    tmp_path: Path, given: dict[str, tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / "journal").mkdir(parents=True)
    for name in ("by-root", "mine", "journal/segment-by-root"):
        (home / name).touch()

    monkeypatch.setattr(os, "geteuid", lambda: 501)
    leave_to_owner(_Owned(home))
    assert given == {}

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    leave_to_owner(_Owned(home))
    assert given == {"by-root": (501, 502), "segment-by-root": (501, 502)}
