"""The listener over real sockets: HTTP/2, TLS, and clients that are slow, damaged or hostile."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import httpx
import pytest

from tests.conftest import GatewayFactory
from tests.gateway.conftest import HELLO, SignUp, Tenant
from tests.gateway.test_path import error_of, only_receipt
from tests.support.gateway import Gateway
from tests.support.processes import wait_until
from tests.support.programs import require
from tests.support.upstream import CLOSE, DONE, Gate, Reply, Upstream, delta
from trustgate.http.tls import Certificate

BODY = json.dumps({"model": "gpt-4o", "messages": HELLO})


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    subprocess.run(
        [
            *(
                require("openssl"),
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
            ),
            *("-keyout", str(key), "-out", str(certificate), "-subj", f"/CN={name}"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


def test_a_certificate_knows_when_it_ends(certificate: tuple[Path, Path]) -> None:
    said = subprocess.run(
        [require("openssl"), "x509", "-noout", "-enddate", "-in", str(certificate[0])],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    ends = datetime.strptime(said.strip(), "notAfter=%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC)
    assert Certificate(*certificate).expires_us == int(ends.timestamp()) * 1_000_000


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"), "first")


@pytest.fixture(scope="module")
def secure_gateway(make_module_gateway: Any, shared_upstream: Upstream, certificate: tuple[Path, Path]) -> Gateway:
    gateway: Gateway = make_module_gateway(
        upstream=shared_upstream.api_url,
        environment={
            "TRUSTGATE_SERVE_TLS_CERTIFICATE": str(certificate[0]),
            "TRUSTGATE_SERVE_TLS_KEY": str(certificate[1]),
        },
    ).start()
    return gateway


def secret_of(gateway: Gateway, name: str) -> str:
    return gateway.add_tenant(name)


def curl(*arguments: str) -> str:
    return subprocess.run(
        [require("curl"), "-sS", "--max-time", "20", *arguments], check=True, capture_output=True, text=True
    ).stdout


def connect(gateway: Gateway) -> socket.socket:
    host, port = gateway.base_url.partition("://")[2].split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def read_all(connection: socket.socket) -> bytes:
    received = b""
    while more := connection.recv(65536):
        received += more
    return received


# HTTP/2 and TLS


@pytest.mark.parametrize("version", ["--http1.1", "--http2", "--http2-prior-knowledge"])
@pytest.mark.parametrize("stream", [True, False])
def test_curl_in_every_version(
    shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp, version: str, stream: bool
) -> None:
    tenant = sign_up(shared_gateway)
    said = curl(
        *(version, "-w", "\n%{http_version} %{http_code}", "-H", f"authorization: Bearer {tenant.secret}"),
        *("-H", "content-type: application/json", "-d", json.dumps({**json.loads(BODY), "stream": stream})),
        f"{shared_gateway.api_url}/chat/completions",
    )
    # Without TLS curl's --http2 asks for h2c, which is ignored.
    expected = "2" if version == "--http2-prior-knowledge" else "1.1"
    assert said.endswith(f"{expected} 200")
    assert ("data: [DONE]" in said) is stream


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_curl_over_tls(
    secure_gateway: Gateway, scripted: Upstream, certificate: tuple[Path, Path], sign_up: SignUp, version: str
) -> None:
    assert secure_gateway.base_url.startswith("https://")
    secret = secret_of(secure_gateway, f"tls{version}")
    said = curl(
        *(version, "--cacert", str(certificate[0]), "-w", "\n%{http_version} %{http_code}"),
        *("-H", f"authorization: Bearer {secret}", "-H", "content-type: application/json", "-d", BODY),
        f"{secure_gateway.api_url}/chat/completions",
    )
    assert said.endswith("2 200" if version == "--http2" else "1.1 200")


def test_a_certificate_that_changes_is_taken_anew(
    make_gateway: GatewayFactory, upstream: Upstream, tmp_path: Path
) -> None:
    certificate, key = make_certificate(tmp_path, "first")
    environment = {"TRUSTGATE_SERVE_TLS_CERTIFICATE": str(certificate), "TRUSTGATE_SERVE_TLS_KEY": str(key)}
    gateway = make_gateway(upstream=upstream.api_url, environment=environment).start()
    first = peer_certificate(gateway)
    fresh = make_certificate(tmp_path, "second")
    fresh[1].replace(key)
    fresh[0].replace(certificate)
    wait_until(lambda: peer_certificate(gateway) != first, "the new certificate")


def peer_certificate(gateway: Gateway) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with context.wrap_socket(connect(gateway)) as connection:
        return connection.getpeercert(binary_form=True) or b""


@pytest.mark.parametrize("given", ["certificate", "garbage", "other key"])
def test_a_certificate_that_cannot_be_used_stops_the_start(
    make_gateway: GatewayFactory, tmp_path: Path, given: str
) -> None:
    certificate, key = make_certificate(tmp_path, "one")
    flags = {"TRUSTGATE_SERVE_TLS_CERTIFICATE": str(certificate), "TRUSTGATE_SERVE_TLS_KEY": str(key)}
    if given == "certificate":
        del flags["TRUSTGATE_SERVE_TLS_KEY"]
    elif given == "garbage":
        certificate.write_text("hello")
    else:
        make_certificate(tmp_path, "two")[1].replace(key)
    gateway = make_gateway(environment=flags)
    result = gateway.cli("serve", "--port", "0", check=False)
    assert result.returncode == 2
    assert "tls_key" in result.stderr or "cannot be used" in result.stderr


class H2Client:
    """A bare HTTP/2 connection whose every frame is the test's."""

    def __init__(self, gateway: Gateway, secret: str) -> None:
        self.socket = connect(gateway)
        self.wire = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.wire.initiate_connection()
        self.flush()
        self._secret = secret
        self.bodies: dict[int, bytes] = {}
        self.heads: dict[int, dict[bytes, bytes]] = {}
        self.ended: set[int] = set()
        self.reset: dict[int, int] = {}

    def flush(self) -> None:
        self.socket.sendall(self.wire.data_to_send())

    def request(self, path: str, body: bytes = b"", *, key: str | None = None, end: bool = True) -> int:
        stream: int = self.wire.get_next_available_stream_id()
        headers = [(":method", "POST"), (":path", path), (":scheme", "http"), (":authority", "x")]
        headers += [("authorization", f"Bearer {key or self._secret}"), ("content-type", "application/json")]
        self.wire.send_headers(stream, headers)
        self.wire.send_data(stream, body, end_stream=end)
        self.flush()
        return stream

    def read_until(self, *streams: int) -> None:
        """Read until all these streams have ended or were reset."""
        while not set(streams) <= self.ended | self.reset.keys():
            data = self.socket.recv(65536)
            assert data, "the gateway closed the connection"
            for event in self.wire.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    self.heads[event.stream_id] = {bytes(name): bytes(value) for name, value in event.headers}
                elif isinstance(event, h2.events.DataReceived):
                    self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
                    self.wire.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    self.ended.add(event.stream_id)
                elif isinstance(event, h2.events.StreamReset):
                    self.reset[event.stream_id] = event.error_code
            self.flush()


@pytest.fixture
def h2_client(tenant: Tenant) -> Iterator[H2Client]:
    client = H2Client(tenant.gateway, tenant.secret)
    yield client
    client.socket.close()


def test_many_requests_share_a_connection(h2_client: H2Client, scripted: Upstream) -> None:
    streams = [h2_client.request("/v1/chat/completions", BODY.encode()) for _ in range(50)]
    h2_client.read_until(*streams)
    assert {h2_client.heads[stream][b":status"] for stream in streams} == {b"200"}


def test_a_held_stream_holds_up_no_other(h2_client: H2Client, scripted: Upstream) -> None:
    gate = Gate()
    scripted.script(Reply.sse([delta("a"), gate, delta(None, finish_reason="stop"), DONE]))
    held = h2_client.request("/v1/chat/completions", json.dumps({**json.loads(BODY), "stream": True}).encode())
    gate.wait_reached()
    other = h2_client.request("/v1/chat/completions", BODY.encode())
    h2_client.read_until(other)
    assert held not in h2_client.ended
    gate.open()
    h2_client.read_until(held)
    assert h2_client.bodies[held].endswith(DONE)


def test_a_body_for_a_request_that_was_refused_ends_no_other(h2_client: H2Client, scripted: Upstream) -> None:
    gate = Gate()
    scripted.script(Reply.chat().held(gate))
    good = h2_client.request("/v1/chat/completions", BODY.encode())
    gate.wait_reached()
    refused = h2_client.request("/v1/chat/completions", b"{", key="tgk_nobody", end=False)
    h2_client.read_until(refused)
    assert h2_client.heads[refused][b":status"] == b"401"
    h2_client.wire.send_data(refused, b"x" * 1000)
    h2_client.flush()
    gate.open()
    h2_client.read_until(good)
    assert h2_client.heads[good][b":status"] == b"200"


def test_an_answer_without_frames_that_is_cut_is_reset(h2_client: H2Client, scripted: Upstream) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: audio/wav\r\ntransfer-encoding: chunked\r\n\r\n"
    scripted.script(Reply.raw(head, b"4\r\nRIFF\r\n", CLOSE))
    stream = h2_client.request("/v1/audio/speech", b'{"model":"tts-1","input":"Hello","voice":"alloy"}')
    h2_client.read_until(stream)
    assert stream in h2_client.reset


def test_a_path_outside_ascii_ends_its_stream_alone(h2_client: H2Client, scripted: Upstream) -> None:
    strange = h2_client.request("/v1/\xff")
    good = h2_client.request("/v1/chat/completions", BODY.encode())
    h2_client.read_until(strange, good)
    assert strange in h2_client.reset
    assert h2_client.heads[good][b":status"] == b"200"


# slow, damaged, hostile


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"hello\r\n\r\n", 400, "invalid_http"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n", 400, "invalid_http"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "invalid_http"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 200_000 + b"\r\n\r\n", 431, "header_too_large"),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n", 400, "invalid_http"),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n", 501, "unsupported_transfer_encoding"),
    ],
)
def test_what_is_no_http_is_told_so(shared_gateway: Gateway, sent: bytes, status: int, code: str) -> None:
    with connect(shared_gateway) as connection:
        connection.sendall(sent)
        answer = read_all(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert json.loads(body)["error"]["code"] == code


def test_a_head_that_comes_slowly_is_not_waited_for(quick_gateway: Gateway) -> None:
    with connect(quick_gateway) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n")
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.1):
                try:
                    connection.sendall(b"x: y\r\n")
                except OSError:
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        answer = b""
        try:
            while b"}}" not in answer and (more := connection.recv(65536)):
                answer += more
        finally:
            stop.set()
            dripping.join()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in answer


def test_a_client_that_does_not_read_is_cut_and_accounted(
    quick_gateway: Gateway, scripted: Upstream, sign_up: SignUp
) -> None:
    tenant = sign_up(quick_gateway)
    gate = Gate()
    scripted.script(Reply.sse([*[delta("word " * 20_000)] * 300, gate]))
    with connect(quick_gateway) as connection:
        body = json.dumps({**json.loads(BODY), "stream": True}).encode()
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b"
            % (tenant.secret.encode(), len(body), body)
        )
        scripted.wait_for_requests(1).wait_aborted()
        receipt = only_receipt(tenant)
    gate.open()
    assert (receipt["finish"], receipt["usage_source"]) == ("cut", "estimate")
    assert receipt["completion_tokens"] > 0


def test_a_stranger_that_does_not_read_is_cut(quick_gateway: Gateway) -> None:
    """It asks for more than the system's buffers hold, and reads nothing of it: its connection is reset."""
    with connect(quick_gateway) as connection:
        connection.setblocking(False)
        asked = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n" * 20

        def is_cut() -> bool:
            try:
                connection.send(asked)
            except BlockingIOError:
                return False
            except OSError:
                return True
            return False

        wait_until(is_cut, "the end of the connection", 30)


def test_a_refusal_before_the_body_tells_that_the_connection_closes(shared_gateway: Gateway) -> None:
    with connect(shared_gateway) as connection:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer no\r\ncontent-length: 9\r\n\r\n"
        connection.sendall(head)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"\r\nconnection: close\r\n" in answer.lower()


def test_a_request_id_need_not_be_trusted(quick_gateway: Gateway, scripted: Upstream, sign_up: SignUp) -> None:
    tenant = sign_up(quick_gateway)
    got = tenant.http.post("/v1/chat/completions", content=BODY, headers={"x-request-id": "mine"})
    assert got.headers["x-request-id"].startswith("req_")


def test_a_request_has_a_deadline(quick_gateway: Gateway, scripted: Upstream, sign_up: SignUp) -> None:
    tenant = sign_up(quick_gateway)
    scripted.script(Reply.hang())
    late = tenant.chat()
    assert (late.status_code, error_of(late)["code"]) == (504, "request_deadline")


def test_more_than_fits_is_refused_at_once(quick_gateway: Gateway, scripted: Upstream, sign_up: SignUp) -> None:
    tenant = sign_up(quick_gateway)
    gate = Gate()
    scripted.script(*[Reply.chat().held(gate)] * 2)
    held = [threading.Thread(target=tenant.chat) for _ in range(2)]
    for thread in held:
        thread.start()
    scripted.wait_for_requests(2)
    refused = tenant.chat()
    gate.open()
    for thread in held:
        thread.join()
    assert (refused.status_code, error_of(refused)["code"]) == (503, "overloaded")
    assert refused.headers["retry-after"] == "1"


def test_a_body_that_nobody_reads_holds_up_nothing(shared_gateway: Gateway) -> None:
    """Refused at its head, while megabytes of its body still come: the connection ends, and its task with it."""
    with connect(shared_gateway) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer tgk_nobody\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        answer = b""
        began = time.monotonic()
        try:
            for _ in range(200):
                connection.sendall(chunk)
            answer = read_all(connection)
        except OSError:
            pass
    assert time.monotonic() - began < 4, "the gateway neither read on nor hung up"
    assert answer == b"" or answer.startswith(b"HTTP/1.1 401 ")
    assert httpx.get(f"{shared_gateway.base_url}/health", trust_env=False).status_code == 200


def test_pages_of_other_origins_are_let_in_only_when_told(shared_gateway: Gateway, quick_gateway: Gateway) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}

    def preflight(gateway: Gateway, origin: str) -> httpx.Response:
        headers = {"origin": origin, **asked}
        return httpx.options(f"{gateway.api_url}/chat/completions", headers=headers, trust_env=False)

    assert "access-control-allow-origin" not in preflight(shared_gateway, "https://app.example.com").headers
    allowed = preflight(quick_gateway, "https://app.example.com")
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, "https://app.example.com")
    assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
    assert "access-control-allow-credentials" not in allowed.headers
    assert "access-control-allow-origin" not in preflight(quick_gateway, "https://evil.example.com").headers
    refused = httpx.post(
        f"{quick_gateway.api_url}/chat/completions", headers={"origin": "https://app.example.com"}, trust_env=False
    )
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://app.example.com")


@pytest.mark.parametrize("host", ["evil.example.com/v1/chat/completions?", "a b", "x" * 3000, "[::1"])
def test_the_host_header_decides_nothing(tenant: Tenant, scripted: Upstream, host: str) -> None:
    with connect(tenant.gateway) as connection:
        connection.sendall(
            b"GET /v1/models HTTP/1.1\r\nhost: %b\r\nauthorization: Bearer %b\r\nconnection: close\r\n\r\n"
            % (host.encode(), tenant.secret.encode())
        )
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"evil" not in answer
