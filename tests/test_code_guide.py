"""``trustgate/README.md`` against the code: every file and test that it names exists, and no room is left out."""

from __future__ import annotations

import re

from tests.environments import ROOT

GUIDE = ROOT / "trustgate" / "README.md"


def test_every_path_exists() -> None:
    targets = re.findall(r"\]\(([^)]+)\)", GUIDE.read_text())
    assert len(targets) > 50
    assert [target for target in targets if not (GUIDE.parent / target).exists()] == []


def test_every_name_is_that_of_its_file() -> None:
    for name, target in re.findall(r"\[`([\w./]+\.py)`\]\(([^)]+)\)", GUIDE.read_text()):
        assert name == target


def test_every_promise_has_a_test_that_exists() -> None:
    promises = GUIDE.read_text().partition("\n## Promises\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (?!promise|---)(.*?) \|.*\| (.*?) \|$", promises, re.MULTILINE)
    assert len(rows) >= 10
    for promise, test in rows:
        named = re.fullmatch(r"\[`(test_\w+)`\]\((\S+)\)", test)
        assert named is not None, promise
        assert f"def {named[1]}(" in (GUIDE.parent / named[2]).read_text(), f"{named[2]} has no {named[1]}"


def test_every_room_is_in_the_picture() -> None:
    text = GUIDE.read_text()
    picture = text.partition("```text\n")[2].partition("```")[0]
    rooms = {path.name for path in GUIDE.parent.iterdir() if (path / "__init__.py").exists()}
    inner = {f"{path.parent.name}/{path.name}" for path in GUIDE.parent.glob("*/*") if (path / "__init__.py").exists()}
    assert [room for room in sorted(rooms) if not re.search(rf"\b{room}\b", picture)] == []
    assert [room for room in sorted(inner - {"cli/completion"}) if f"]({room})" not in text] == []
