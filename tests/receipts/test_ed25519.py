"""Signatures by OpenSSL: the same as solders', and there on every Python that the tests run on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustgate.formats import ed25519


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300))
def test_both_ways_give_the_same_key_and_signature(seed: bytes, message: bytes) -> None:
    openssl, solders = ed25519._OpenSsl(seed), ed25519._Solders(seed)
    assert openssl.public_key == solders.public_key
    assert openssl.sign(message) == solders.sign(message)


def test_rfc_8032_section_7_1_test_2() -> None:
    key = ed25519.signer(bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"))
    assert key.public_key.hex() == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    assert key.sign(b"\x72").hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )


def test_where_openssl_is_out_of_reach_solders_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_reach(_: object, seed: bytes) -> None:
        raise AttributeError(seed)

    seed = bytes(range(32))
    expected = ed25519.signer(seed).sign(b"x")
    monkeypatch.setattr(ed25519._OpenSsl, "__init__", out_of_reach)
    assert type(ed25519.signer(seed)) is ed25519._Solders
    assert ed25519.signer(seed).sign(b"x") == expected


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_seed_has_32_bytes(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        ed25519.signer(bytes(size))
