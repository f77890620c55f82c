"""One name, one meaning: no class of the program has the name of another."""

from __future__ import annotations

import ast
from collections import defaultdict

from tests.environments import ROOT

PACKAGE = ROOT / "trustgate"


def test_no_two_public_classes_have_one_name() -> None:
    places = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(PACKAGE)))
    assert len(places) > 300, "the classes were not found"
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
