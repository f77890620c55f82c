"""The table of refusals against the code: what is raised on the way of a request, by status and code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.docs import ERRORS
from tests.environments import ROOT
from trustgate import errors
from trustgate.errors import OperatorError, TrustGateError

#: Where a request can be refused. The rest of these rooms serves commands.
_ON_THE_WAY = (
    *("gateway/**/*.py", "access/directory.py", "access/plans.py", "access/quota.py"),
    *("models/metering/*.py", "models/upstream/*.py", "payment/facilitators/embedded.py"),
    *(f"payment/{name}.py" for name in ("cashier", "order", "sale")),
    *(
        "statements/account.py",
        "statements/making.py",
        "statements/months.py",
        "payment/shop_events.py",
        "admin/own_keys.py",
    ),
)
#: What the directory and `trustgate reload` say to commands alone.
_TO_COMMANDS = {
    *((404, f"{noun}_not_found") for noun in ("budget", "plan", "tenant")),
    (409, "conflict"),
    (409, "made_keys_unbound"),
}
_CLASSES = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, TrustGateError) and not issubclass(kind, OperatorError)
}
#: Raised by work that goes on after its request has ended, for that work alone: gateway/path/background.py.
_IN_BACKGROUND = {(503, "service_unavailable")}
#: Codes that are worked out as the program runs, where a reader of the source sees no word: said by whom.
_WORKED_OUT = {
    (402, "payment_required"),  # payment/x402_wire.py
    (429, "rate_limit_exceeded"),  # access/quota.py
    (429, "insufficient_quota"),
    (503, "storage_full"),  # raised in the log, for the gateway
    (503, "store_unreachable"),  # raised in the room cluster, for the gateway
    (503, "archive_unavailable"),  # raised in the store, for the gateway's views
}


def _raised() -> Iterator[tuple[int, str]]:
    """(status, code) of each refusal that the source makes with a code of its own or its class's."""
    for path in (path for pattern in _ON_THE_WAY for path in Path(ROOT, "trustgate").glob(pattern)):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            kind = _CLASSES.get(node.func.id)
            if kind is None:
                continue
            code = next((keyword.value for keyword in node.keywords if keyword.arg == "code"), None)
            if code is None and kind.code is not None:
                yield kind.status, kind.code
            elif isinstance(code, ast.Constant):
                yield kind.status, str(code.value)


def _told() -> Iterator[tuple[int, str]]:
    table = ERRORS.read_text()
    for status, codes in re.findall(r"^\| (\d{3}) \| (.*?) \|", table, re.MULTILINE):
        # What stands in parentheses are examples of what others say.
        yield from ((int(status), code) for code in re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", codes)))


def test_the_table_of_errors_is_that_of_the_code() -> None:
    raised, told = set(_raised()) - _TO_COMMANDS - _IN_BACKGROUND, list(_told())
    assert len(raised) > 20, "the source was not understood"
    assert sorted(set(told)) == sorted(told), "a code is told twice"
    assert raised | _WORKED_OUT == set(told)
