"""Hosted facilitators: what they are shown, checked by one that checks signatures; and what they say besides."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from solders.keypair import Keypair
from solders.signature import Signature

from tests.support import p256
from tests.support.facilitator import SETTLES, VALID, Call, FacilitatorDouble
from tests.support.payments import evm_payload, evm_requirements, payment_of
from tests.support.upstream import Recorded, Reply
from trustgate.errors import FacilitatorUnavailable, InvalidRequest, SettingsError
from trustgate.payment.chains.nodes import Nodes
from trustgate.payment.facilitators.auth import CDP_HOST, FacilitatorAuth, cdp_token
from trustgate.payment.facilitators.registry import Facilitators
from trustgate.settings import PaymentSettings, Settings

REQUIREMENTS = evm_requirements()
KEY_ID = "organizations/1/apiKeys/2"
SEED = bytes(range(32))
KEYPAIR = Keypair.from_seed(SEED)
SCALAR = 0x1234567890ABCDEF1234567890ABCDEF1234567890ABCDEF1234567890ABCDEF
PUBLIC = p256.multiply(SCALAR)

ED25519 = base64.b64encode(SEED + bytes(KEYPAIR.pubkey())).decode()
PKCS8 = base64.b64encode(bytes.fromhex("302e020100300506032b657004220420") + SEED).decode()
SECRETS = {
    "ed25519": ED25519,
    "ed25519, pkcs8": PKCS8,
    "ed25519, pem": f"-----BEGIN PRIVATE KEY-----\n{PKCS8}\n-----END PRIVATE KEY-----",
    "es256": p256.pem_of(SCALAR),
    "es256 on one line": p256.pem_of(SCALAR).replace("\n", "\\n"),
}


def why_not(token: str, method: str, url: str, *, now_s: float | None = None) -> str:
    """Why Coinbase would refuse a token; "" where it takes it."""
    now_s = time.time() if now_s is None else now_s
    head, claims, signature = token.split(".")
    signed = f"{head}.{claims}".encode()
    header, said = _decoded(head), _decoded(claims)
    if (header["kid"], header["typ"], said["sub"], said["iss"]) != (KEY_ID, "JWT", KEY_ID, "cdp"):
        return "names"
    raw = base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
    if header["alg"] == "EdDSA":
        is_signed = Signature.from_bytes(raw).verify(KEYPAIR.pubkey(), signed)
    else:
        is_signed = header["alg"] == "ES256" and p256.verifies(PUBLIC, signed, raw)
    if not is_signed:
        return "signature"
    if not said["nbf"] <= now_s + 1 or not now_s < said["exp"] <= said["nbf"] + 120:
        return "time"
    host_and_path = url.partition("://")[2]
    return "" if said["uris"] == [f"{method} {host_and_path}"] and said["uri"] == said["uris"][0] else "uri"


def _decoded(part: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


@pytest.fixture
def double() -> Iterator[FacilitatorDouble]:
    with FacilitatorDouble() as facilitator:
        yield facilitator


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[Nodes]:
    made = Nodes(Settings(home=tmp_path))
    yield made
    await made.close()


def registry(nodes: Nodes, home: Path, *auth: str) -> Facilitators:
    return Facilitators(Settings(home=home, payment=PaymentSettings(facilitator_auth=auth)), nodes)


def payment(nonce: int = 1) -> Any:
    return payment_of(evm_payload(REQUIREMENTS, nonce=nonce), REQUIREMENTS)


async def unheard(_: str) -> None:
    raise AssertionError("the facilitator alone knows the transaction")


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
async def test_every_request_has_a_token_of_its_own(
    double: FacilitatorDouble, nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setenv("KEY_ID", KEY_ID)
    monkeypatch.setenv("KEY_SECRET", secret)
    refused: list[str] = []

    def guarded(answer: Any, path: str) -> Any:
        def reply(call: Call) -> Reply:
            token = dict(call.request.headers)["authorization"].removeprefix("Bearer ")
            refused.append(why_not(token, "POST", f"{double.url}{path}"))
            return Reply.json({"error": "unauthorized"}, status=401) if refused[-1] else answer(call)

        return reply

    facilitators = registry(nodes, tmp_path, f"{double.url}=cdp:KEY_ID:KEY_SECRET")
    facilitator = await facilitators.get(double.url)
    double.on_verify(guarded(VALID, "/verify"))
    double.on_settle(guarded(SETTLES, "/settle"))
    assert (await facilitator.verify(payment())).valid
    assert (await facilitator.settle(payment(), unheard)).outcome == "settled"
    assert refused == ["", ""]
    await facilitators.close()


@pytest.mark.parametrize("secret", [ED25519, p256.pem_of(SCALAR)], ids=["EdDSA", "ES256"])
def test_a_token_is_good_for_one_request_for_two_minutes(secret: str) -> None:
    url = f"https://{CDP_HOST}/platform/v2/x402/verify"
    token = cdp_token(KEY_ID, secret, "POST", url, now_s=1_000)
    assert why_not(token, "POST", url, now_s=1_119) == ""
    assert why_not(token, "POST", url, now_s=1_121) == "time"
    assert why_not(token, "GET", url, now_s=1_000) == "uri"
    assert why_not(token, "POST", url.replace("verify", "settle"), now_s=1_000) == "uri"
    other = cdp_token("organizations/1/apiKeys/2", secret, "POST", url + "x", now_s=1_000)
    swapped = ".".join([*other.split(".")[:2], token.split(".")[2]])
    assert why_not(swapped, "POST", url + "x", now_s=1_000) == "signature"
    assert cdp_token(KEY_ID, secret, "POST", url, now_s=1_000) != token, "each has a nonce"


@pytest.mark.parametrize(
    "secret",
    [
        "no key",
        "AAAA",
        p256.pem_of(SCALAR)[:60],
        "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----",
        # The same scalar on secp256k1.
        p256.pem_of(SCALAR).replace("oAoGCCqGSM49AwEH", "oAcGBSuBBAAKAAAA"),
    ],
)
def test_what_is_no_key_is_said_without_showing_it(secret: str) -> None:
    with pytest.raises(SettingsError) as refused:
        cdp_token(KEY_ID, secret, "POST", "https://f.example/verify", now_s=1)
    assert "key" in refused.value.message
    assert secret not in f"{refused.value.message} {refused.value.hint}"


async def test_headers_from_a_variable_and_from_a_file(
    double: FacilitatorDouble, nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("F_HEADERS", "authorization=Bearer%20s3cret,x-team=a")
    (tmp_path / "headers").write_text("x-api-key=fromfile\n")
    for how, name, value in (
        ("headers:F_HEADERS", "authorization", "Bearer s3cret"),
        ("headers-file:headers", "x-api-key", "fromfile"),
    ):
        facilitators = registry(nodes, tmp_path, f"{double.url}/={how}")
        facilitator = await facilitators.get(double.url)
        assert (await facilitator.verify(payment())).valid
        assert dict(double.verifies[-1].request.headers)[name] == value
        await facilitators.close()


async def test_coinbases_key_file(double: FacilitatorDouble, nodes: Nodes, tmp_path: Path) -> None:
    (tmp_path / "cdp.json").write_text(json.dumps({"id": KEY_ID, "privateKey": ED25519}))
    facilitators = registry(nodes, tmp_path, f"{double.url}=cdp-file:cdp.json")
    assert (await (await facilitators.get(double.url)).verify(payment())).valid
    token = dict(double.verifies[-1].request.headers)["authorization"].removeprefix("Bearer ")
    assert why_not(token, "POST", f"{double.url}/verify") == ""
    await facilitators.close()


async def test_no_other_facilitator_is_shown_a_key(
    double: FacilitatorDouble, nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDP_API_KEY_ID", KEY_ID)
    monkeypatch.setenv("CDP_API_KEY_SECRET", ED25519)
    facilitators = registry(nodes, tmp_path, "https://other.example=headers:F_HEADERS")
    assert (await (await facilitators.get(double.url)).verify(payment())).valid
    assert "authorization" not in dict(double.verifies[-1].request.headers)
    await facilitators.close()
    auth = FacilitatorAuth((), tmp_path)
    assert auth.find(f"https://{CDP_HOST}/platform/v2/x402") is not None
    assert auth.find(f"https://{CDP_HOST}.example/platform/v2/x402") is None


async def test_coinbases_facilitator_without_a_key_is_refused_when_it_is_set(nodes: Nodes, tmp_path: Path) -> None:
    facilitators = registry(nodes, tmp_path)
    with pytest.raises(InvalidRequest) as refused:
        facilitators.check_key(f"https://{CDP_HOST}/platform/v2/x402")
    assert "CDP_API_KEY_ID" in (refused.value.hint or "")
    facilitators.check_key("https://other.example")
    await facilitators.close()


@pytest.mark.parametrize("status", [401, 403])
async def test_a_facilitator_that_wants_a_key_is_said_to(
    double: FacilitatorDouble, nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    def supported(request: Recorded) -> Reply:
        return Reply.json({"error": "unauthorized"}, status=status)

    monkeypatch.setattr(double._server, "probe", supported)
    facilitators = registry(nodes, tmp_path)
    with pytest.raises(FacilitatorUnavailable, match="wants a key") as refused:
        await (await facilitators.get(double.url)).supported()
    assert "payment.facilitator_auth" in (refused.value.hint or "")
    await facilitators.close()


async def test_without_its_secret_nothing_is_sent_and_nothing_charged(
    double: FacilitatorDouble, nodes: Nodes, tmp_path: Path
) -> None:
    facilitators = registry(nodes, tmp_path, f"{double.url}=headers:NOT_SET_ANYWHERE")
    facilitator = await facilitators.get(double.url)
    with pytest.raises(FacilitatorUnavailable) as refused:
        await facilitator.verify(payment())
    assert "NOT_SET_ANYWHERE" not in refused.value.message, "that is for the operator, in the log"
    settled = await facilitator.settle(payment(), unheard)
    assert (settled.outcome, settled.reason) == ("failed", "facilitator_unavailable")
    assert not double.requests
    await facilitators.close()


@pytest.mark.parametrize("entry", ["https://f.example", "https://f.example=secret", "f.example=headers:X", "=cdp:A:B"])
def test_other_forms_are_refused_and_not_repeated(nodes: Nodes, tmp_path: Path, entry: str) -> None:
    with pytest.raises(SettingsError) as refused:
        registry(nodes, tmp_path, entry)
    assert "secret" not in refused.value.message


async def test_what_it_says_of_extensions_is_kept_and_bears_on_no_payment(
    double: FacilitatorDouble, nodes: Nodes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def saying(header: str) -> Any:
        return lambda call: Reply.json({"isValid": True, "payer": call.payer}, headers={"EXTENSION-RESPONSES": header})

    def encoded(value: Any) -> str:
        return base64.b64encode(json.dumps(value).encode()).decode()

    facilitators = registry(nodes, tmp_path)
    facilitator: Any = await facilitators.get(double.url)
    said = {"bazaar": {"status": "rejected", "rejectedReason": "no schema"}, "other": {"status": "success"}}
    for header in (encoded(said), "not base64!", encoded([1]), encoded({"bazaar": 1}), "A" * 20_000):
        double.on_verify(saying(header))
        with caplog.at_level(logging.WARNING):
            assert (await facilitator.verify(payment())).valid
    assert facilitator.extension_responses == {"bazaar": "rejected: no schema", "other": "success"}
    assert caplog.text.count("bazaar: rejected: no schema") == 1
    assert "other" not in caplog.text
    await facilitators.close()
    await asyncio.sleep(0)
