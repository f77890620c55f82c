"""``SECURITY.md`` against the code, and what comes from others: locked, of a known licence, listed."""

from __future__ import annotations

import re
import sys

from tests.binary.bom import bill, licence_of, metadata_of
from tests.environments import (
    BINARY_LOCK,
    CLIENTS_LOCK,
    FUZZ_LOCK,
    LITELLM_LOCK,
    MAIN_LOCK,
    MODEL_LOCK,
    ROOT,
    TESTS_LOCK,
)
from tests.lock import locked

_PAGE = ROOT / "SECURITY.md"
_TEST = re.compile(r"\[`(test_\w+)`\]\(([\w/.]+)\)")
#: What may be passed on inside a program under the Apache License 2.0, as expressions of single licences.
_TAKEN = {"MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "PSF-2.0", "MPL-2.0"}
#: Brought by another's package, and says nothing.
_UNSAID = {"jsonalias"}


def test_every_protection_names_a_test_that_exists() -> None:
    rows = re.findall(r"^\| (?!attack|---)(.*) \|$", _PAGE.read_text(), re.MULTILINE)
    assert len(rows) > 20
    for row in rows:
        assert _TEST.search(row), f"no test: {row}"
    for name, file in _TEST.findall(_PAGE.read_text()):
        assert re.search(rf"def {name}\(", (ROOT / file).read_text()), f"{file} has no {name}"


def test_every_lock_has_hashes() -> None:
    for lock in (MAIN_LOCK, TESTS_LOCK, BINARY_LOCK, LITELLM_LOCK, MODEL_LOCK, CLIENTS_LOCK, FUZZ_LOCK):
        found = locked(lock)
        assert found
        assert not [name for name, (_, hashes) in found.items() if not hashes], lock


def test_every_dependency_has_a_licence_that_may_be_passed_on() -> None:
    has = metadata_of(sys.executable)
    looked_at = [name for name in locked(MAIN_LOCK) if name in has and name not in _UNSAID]
    assert len(looked_at) > 40
    odd = {name: licence_of(name, has[name]) for name in looked_at}
    assert {
        name: licence
        for name, licence in odd.items()
        if not licence or not set(re.split(r" AND | OR ", licence)) <= _TAKEN
    } == {}


def test_the_bill_of_materials_is_that_of_the_lock() -> None:
    document = bill(sys.executable, "1.2.3")
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    listed = {one["name"]: one for one in document["components"]}
    has = metadata_of(sys.executable)
    assert listed.keys() - {"CPython"} == {name for name in locked(MAIN_LOCK) if name in has}
    assert "pyinstaller" not in listed and "pytest" not in listed
    for name, (version, hashes) in locked(MAIN_LOCK).items():
        if name in listed:
            assert listed[name]["version"] == version
            assert [one["value"] for one in listed[name]["properties"]] == hashes
    assert document["dependencies"][0]["dependsOn"] == [one["bom-ref"] for one in document["components"]]
