"""The random bytes of requests, which are drawn for many at once."""

from __future__ import annotations

import os

from trustgate.ids import new_request


def _secrets(count: int) -> set[bytes]:
    return {new_request(0)[2] for _ in range(count)}


def test_no_two_requests_have_the_same_ids_or_secret_and_none_of_a_forked_process() -> None:
    drawn = [new_request(1_000) for _ in range(200)]
    assert len({receipt_id for receipt_id, _, _ in drawn}) == len({secret for _, _, secret in drawn}) == 200
    assert all(receipt_id == "rcpt_" + request_id.decode().removeprefix("req_") for receipt_id, request_id, _ in drawn)
    assert {len(secret) for _, _, secret in drawn} == {32}
    read, write = os.pipe()
    child = os.fork()
    if not child:  # nothing but this: the tests are the parent's
        os.write(write, b"".join(_secrets(64)))
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        of_child = pipe.read()
    os.waitpid(child, 0)
    own = _secrets(64)
    assert len(of_child) == 64 * 32
    assert not own & {of_child[at : at + 32] for at in range(0, len(of_child), 32)}
