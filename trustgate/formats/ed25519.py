"""Signing with Ed25519 (RFC 8032), with the OpenSSL that Python has loaded, else with solders.

solders brings a Solana VM with it, 13 MiB that every idle gateway would carry for one signature a minute. Python's own
modules have OpenSSL's libcrypto and no door to its Ed25519, so it is asked through ctypes. Where that cannot be (Python
built on something else, or with OpenSSL's names hidden) solders signs: Ed25519 signatures do not depend on the library.
"""

from __future__ import annotations

import ctypes
from typing import Any, Protocol

_EVP_PKEY_ED25519 = 1087
_KEY_BYTES = 32
_SIGNATURE_BYTES = 64


class Signer(Protocol):
    @property
    def public_key(self) -> bytes:
        """32 bytes."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Returns the signature, 64 bytes."""
        ...


def signer(seed: bytes) -> Signer:
    """Who signs with the key that follows from a seed of 32 bytes. Raises ``ValueError`` for another seed."""
    if len(seed) != _KEY_BYTES:
        raise ValueError(f"the seed of an Ed25519 key has {_KEY_BYTES} bytes")
    try:
        return _OpenSsl(seed)
    except (OSError, AttributeError, RuntimeError):
        return _Solders(seed)


class _OpenSsl:
    """Raises ``AttributeError`` or ``OSError`` where OpenSSL is out of reach, ``RuntimeError`` where it will not."""

    def __init__(self, seed: bytes) -> None:
        import _hashlib

        # Looked up through a module that is linked with it: exactly the library that this Python uses.
        library = ctypes.CDLL(_hashlib.__file__)
        self._new_context = _function(library.EVP_MD_CTX_new, ctypes.c_void_p)
        self._free_context = _function(library.EVP_MD_CTX_free, None, ctypes.c_void_p)
        self._free_key = _function(library.EVP_PKEY_free, None, ctypes.c_void_p)
        self._init = _function(library.EVP_DigestSignInit, ctypes.c_int, *[ctypes.c_void_p] * 5)
        self._sign = _function(
            library.EVP_DigestSign,
            ctypes.c_int,
            *(ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_size_t), ctypes.c_char_p, ctypes.c_size_t),
        )
        new_key = _function(
            library.EVP_PKEY_new_raw_private_key,
            ctypes.c_void_p,
            *(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t),
        )
        read_public = _function(
            library.EVP_PKEY_get_raw_public_key,
            ctypes.c_int,
            *(ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_size_t)),
        )
        self._key: int | None = new_key(_EVP_PKEY_ED25519, None, seed, len(seed))
        public_key = ctypes.create_string_buffer(_KEY_BYTES)
        size = ctypes.c_size_t(_KEY_BYTES)
        if not self._key or read_public(self._key, public_key, ctypes.byref(size)) != 1:
            raise RuntimeError("OpenSSL has no Ed25519")
        self.public_key = public_key.raw

    def sign(self, message: bytes) -> bytes:
        context = self._new_context()
        try:
            signature = ctypes.create_string_buffer(_SIGNATURE_BYTES)
            size = ctypes.c_size_t(_SIGNATURE_BYTES)
            begun = context and self._init(context, None, None, None, self._key) == 1
            if not begun or self._sign(context, signature, ctypes.byref(size), message, len(message)) != 1:
                raise RuntimeError("OpenSSL does not sign")
            return signature.raw
        finally:
            self._free_context(context)

    def __del__(self) -> None:
        key, self._key = getattr(self, "_key", None), None
        if key:
            self._free_key(key)


def _function(found: Any, result: Any, *arguments: Any) -> Any:
    found.restype = result
    found.argtypes = arguments
    return found


class _Solders:
    def __init__(self, seed: bytes) -> None:
        from solders.keypair import Keypair

        self._keypair = Keypair.from_seed(seed)
        self.public_key = bytes(self._keypair.pubkey())

    def sign(self, message: bytes) -> bytes:
        return bytes(self._keypair.sign_message(message))
