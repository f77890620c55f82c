"""Step 2 of the path: whose request it is.

Owns what counts as a request without a key: no key in any header, or the word that x402 clients put in its place, since
OpenAI's clients must be given one. Such a request is taken for one of the tenant that sells without a key, where there
is one and the endpoint can be sold so; it then pays for itself at step 3.
"""

from __future__ import annotations

from trustgate.access.directory import Caller, Directory
from trustgate.access.keys import hash_secret
from trustgate.gateway.path.arrival import KEY_HEADERS, Arrival, bearer_token

#: What clients send as a key that have none.
_NO_KEY = b"x402"
_NO_AUTHORIZATION = frozenset({None, b"Bearer " + _NO_KEY})
_NO_KEY_HEADER = frozenset({None, _NO_KEY})


def identify(directory: Directory, arrival: Arrival, *, takes_keyless: bool = False) -> Caller:
    """Returns the caller.

    Args:
        directory: Who may call.
        arrival: The head of the request.
        takes_keyless: Whether what is asked for can be had without a key, where something is sold so.

    Raises:
        AuthenticationFailed: the key is missing, wrong or dead.
    """
    head = arrival.head
    if head is not None and head.key_hash is not None:
        known = directory.known(head.key_hash, arrival.at_us)
        if known is not None:
            return known
    if takes_keyless and _is_without_key(arrival):
        caller = directory.keyless(arrival.at_us)
        if caller is not None:
            return caller
    token = bearer_token(arrival)
    caller = directory.authenticate(token, arrival.at_us)
    if head is not None:
        head.key_hash = hash_secret(token)
    return caller


def _is_without_key(arrival: Arrival) -> bool:
    if arrival.headers.get(b"authorization") not in _NO_AUTHORIZATION:
        return False
    return all(arrival.headers.get(name) in _NO_KEY_HEADER for name in KEY_HEADERS)
