from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from trustgate.access.keys import explain_unknown, mint


def test_a_minted_key_is_recognisable_and_only_its_hash_is_given_for_keeping() -> None:
    minted = mint()
    assert minted.secret.startswith("tgk_")
    assert len(minted.secret) == 42
    assert minted.sha256 == hashlib.sha256(minted.secret.encode()).hexdigest()
    assert minted.secret not in minted.redacted
    assert len(minted.redacted) < 16


def test_no_two_keys_are_alike() -> None:
    assert len({mint().secret for _ in range(1_000)}) == 1_000


@given(position=st.integers(4, 41), letter=st.sampled_from("0aZ9kQ"))
def test_a_typing_error_is_told_from_an_unknown_key(position: int, letter: str) -> None:
    secret = mint().secret
    mistyped = secret[:position] + letter + secret[position + 1 :]
    said = explain_unknown(mistyped).message
    assert ("unknown" in said) if mistyped == secret else ("typing error" in said)


# Small letters are what the sentence itself is made of.
@given(st.text(st.characters(exclude_categories=("Cs", "Ll")), min_size=8, max_size=80))
def test_a_foreign_key_is_called_so_and_never_repeated(token: str) -> None:
    said = explain_unknown("sk-" + token).message
    assert "not a TrustGate key" in said
    assert token not in said
