"""Large bodies: taken apart as they arrive, never holding the others up, put together again byte for byte."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import GatewayFactory
from tests.gateway.conftest import HELLO, SignUp, Tenant
from tests.gateway.test_fairness import Slow, slow
from tests.support.gateway import Gateway
from tests.support.hostile import CHAT, HOSTILE, MIB
from tests.support.processes import PATIENCE_S, wait_until
from tests.support.upstream import Reply, Upstream
from trustgate.errors import InvalidRequest, RequestTooLarge
from trustgate.gateway.api import large_body
from trustgate.gateway.api.endpoints import ENDPOINTS, Endpoint
from trustgate.gateway.api.large_body import LargeBody, LargeBodyReader
from trustgate.gateway.path import large_answer
from trustgate.models.stand_in import shown

BY_PATH: dict[str, Endpoint] = {endpoint.path: endpoint for endpoint in ENDPOINTS if endpoint.method == "POST"}


def taken_apart(body: bytes, chunk_bytes: int) -> LargeBody:
    reader = LargeBodyReader()
    for at in range(0, len(body), chunk_bytes):
        reader.feed(body[at : at + chunk_bytes])
    return reader.finish()


#: Units that texts are made of, as JSON writes them: their cuts must not be cut into.
units = st.sampled_from(
    ["a", " ", "1", ",", "[", "{", "é", "漢", "😀", "\\n", '\\"', "\\\\", "\\u00e9", "\\ud83d\\ude00"]
)


#: A text: its units, and how often they are repeated. Long ones are made in the test, not by hypothesis.
Text = tuple[list[str], int]
texts = st.tuples(st.lists(units, min_size=1, max_size=12), st.sampled_from([1, 100, 900, 5000]))


def written(contents: list[Text], url: Text, user: Text, blank: str) -> bytes:
    said = ['"' + "".join(pattern) * times + '"' for pattern, times in (url, user, *contents)]
    messages = ",".join(f'{{"role":{blank}"user",{blank}"content":{content}}}' for content in said[2:])
    image = f'{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":{said[0]}}}}}]}}'
    return f'{{{blank}"model"{blank}:"m","messages":[{messages},{image}],"user":{said[1]}}}'.encode()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(texts, min_size=1, max_size=3),
    texts,
    texts,
    st.sampled_from(["", " ", "\n\t"]),
    st.sampled_from([17, 1000, 4096, 65536, 10**7]),
)
def test_what_is_taken_apart_is_judged_alike_and_put_together_again(
    contents: list[Text], url: Text, user: Text, blank: str, chunk_bytes: int
) -> None:
    body = written(contents, url, user, blank)
    large = taken_apart(body, chunk_bytes)
    assert b"".join(large.restored(large.skeleton)) == body
    endpoint = BY_PATH["/v1/chat/completions"]
    whole, judged = endpoint.peek(body), endpoint.peek(large.skeleton)
    # Texts are weighed in pieces: four blanks that are cut in two may count twice.
    assert abs(whole.prompt_tokens - judged.prompt_tokens) <= 2 + len(body) // 1000
    assert (whole.model, whole.features, whole.uses, whole.invalid) == (
        judged.model,
        judged.features,
        judged.uses,
        judged.invalid,
    )


def test_the_characters_of_a_long_text_are_counted() -> None:
    body = json.dumps({"model": "m", "input": "é" * 5000 + "😀" * 5000, "voice": "v"}).encode()
    endpoint = BY_PATH["/v1/audio/speech"]
    assert endpoint.peek(taken_apart(body, 999).skeleton).characters == endpoint.peek(body).characters == 10_000


@pytest.mark.parametrize("broken", [b"\\x", b"\\u12g", b"\n", b"\xff", b"\xc3", b"\\ud83d", b"\\udc00 "])
@pytest.mark.parametrize("at", [100, 70_000, 140_000])
def test_a_long_string_that_is_none_is_refused(broken: bytes, at: int) -> None:
    text = b"a" * at + broken + b"a" * (140_000 - at)
    with pytest.raises(InvalidRequest) as caught:
        BY_PATH["/v1/embeddings"].peek(taken_apart(b'{"model":"m","input":"%b"}' % text, 65536).skeleton)
    assert caught.value.code == "invalid_json"


@pytest.mark.parametrize("unit", [b"1,", b"[],", b'"a",', b'{"a":1},', b'"%b",' % (b"a" * 1000)])
def test_the_skeleton_is_bounded(unit: bytes) -> None:
    with pytest.raises(RequestTooLarge):
        taken_apart(b'{"model":"m","input":[' + unit * (8 * MIB // len(unit)), 65536)


def test_members_are_bounded_by_what_they_cost_and_tokens_are_not() -> None:
    members = b",".join(b'"k%06d":1' % number for number in range(330_000))
    with pytest.raises(RequestTooLarge, match="150000 members"):
        taken_apart(b'{"model":"m","input":"x","metadata":{%b}}' % members, 65536)
    tokens = b",".join(b"%d" % number for number in range(300_000))
    taken_apart(b'{"model":"m","input":[%b]}' % tokens, 65536)


def test_no_client_sees_a_stand_in() -> None:
    large = taken_apart(json.dumps({"model": "m" * 5000}).encode(), 65536)
    name = json.loads(large.skeleton)["model"]
    assert len(name) > 512
    assert shown(f"No model {name!r}.") == f"No model '{'m' * 512}…'."


# over sockets


@pytest.fixture(scope="module")
def gateway(make_module_gateway: GatewayFactory, shared_upstream: Upstream) -> Gateway:
    return make_module_gateway(upstream=shared_upstream.api_url).start()


@pytest.fixture
def tenant(gateway: Gateway, scripted: Upstream, sign_up: SignUp) -> Tenant:
    return sign_up(gateway, "--plan", "internal")


def post(tenant: Tenant, body: bytes, path: str = "/v1/chat/completions") -> httpx.Response:
    return tenant.http.post(path, content=body, headers={"content-type": "application/json"})


def test_a_large_body_goes_on_byte_for_byte_and_again_after_a_failure(tenant: Tenant, scripted: Upstream) -> None:
    image = "data:image/png;base64," + "QUJD" * (2 * MIB)
    message = {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": "é\n" * 9000}],
    }
    body = json.dumps({"model": "gpt-4o", "messages": [message], "max_tokens": 5}, indent=1).encode()
    scripted.script(Reply.error(500))
    response = post(tenant, body)
    assert response.status_code == 200
    first, again = scripted.requests
    assert first.body == again.body == body
    [receipt] = tenant.receipts()
    assert receipt["prompt_tokens"] < 100_000, "an image is not counted as text"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param(b'{"model":"' + b"m" * 200_000 + b'","messages":[]}', "invalid_value", id="a long name"),
        pytest.param(b'{"model":"gpt-4o","messages":[' + b"{}," * 300_000 + b"{}]}", "request_too_large", id="values"),
        pytest.param(
            b'{"model":"gpt-4o","messages":[{"role":"user","content":"' + b"a" * 200_000, "invalid_json", id="cut"
        ),
        pytest.param(
            b'{"model":"gpt-4o","messages":[{"role":"user","content":"a"}],'
            + b",".join(b'"x%d":0' % n for n in range(9000))
            + b"}",
            "unsupported_parameter",
            id="parameters",
        ),
    ],
)
def test_a_wrong_large_body_is_refused(tenant: Tenant, scripted: Upstream, body: bytes, code: str) -> None:
    response = post(tenant, body)
    assert response.json()["error"]["code"] == code
    assert len(response.content) < 2000
    assert not scripted.requests


#: Asks for /health again and again on one connection until its input ends, and prints what CPU the server's process
#: used meanwhile, for each answer: how long an answer took is also the machine's affair.
_TICKER = """
import http.client, select, sys, time
client = http.client.HTTPConnection(sys.argv[1], timeout=60)
clock = (~int(sys.argv[2]) << 3) | 2  # the CPU time of another process (Linux: CPUCLOCK_SCHED)
print("ready", flush=True)
is_over = False
while not is_over:  # once at least: a small body may be read before the first answer
    began = time.clock_gettime(clock)
    client.request("GET", "/health")
    assert client.getresponse().read()
    print(time.clock_gettime(clock) - began)
    is_over = bool(select.select([sys.stdin], [], [], 0)[0])
"""


@contextlib.contextmanager
def ticking(gateway: Gateway) -> Iterator[list[float]]:
    """What CPU time the gateway used for each answer to ``/health`` meanwhile and for all else until it was there,
    seconds, in order of size: known at the end of the block."""
    took: list[float] = []
    command = [sys.executable, "-c", _TICKER, gateway.base_url.rpartition("/")[2], str(gateway.process.pid)]
    # A process of its own: what this one does must not be measured.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        yield took
        said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    took += sorted(map(float, said.split()))


@pytest.mark.parametrize("shape", HOSTILE)
def test_others_are_answered_while_a_hostile_body_is_read(
    tenant: Tenant, scripted: Upstream, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    body, path = HOSTILE[shape].body(), HOSTILE[shape].path
    brief = Reply.body(b'{"object":"list","data":[],"usage":{"prompt_tokens":1,"total_tokens":1}}')
    monkeypatch.setattr(scripted, "default", brief)
    with ticking(tenant.gateway) as took:
        for _ in range(2):
            with contextlib.suppress(httpx.WriteError, httpx.ReadError):  # refused before it was sent
                post(tenant, body, path)
    # Decoded on the loop, each of these held everything up for 0.3 to 20 seconds of CPU.
    assert took[-1] < 0.2, f"most {took[-1]:.3f} s of {len(took)}"


# the file of a batch


def line(tenant: Tenant, body: dict[str, Any]) -> bytes:
    return json.dumps(
        {"custom_id": tenant.name, "method": "POST", "url": CHAT, "body": {"model": "gpt-4o", "max_tokens": 9, **body}}
    ).encode()


def form_start() -> bytes:
    purpose = b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    return purpose + b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'


def upload(tenant: Tenant, content: bytes) -> httpx.Response:
    return tenant.http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", content)})


def test_the_lines_of_a_batch_may_be_large(tenant: Tenant, scripted: Upstream) -> None:
    scripted.script(Reply.json({"id": f"file-{tenant.name}", "object": "file"}))
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "QUJD" * MIB}}
    content = (
        line(tenant, {"messages": HELLO}) + b"\n" + line(tenant, {"messages": [{"role": "user", "content": [image]}]})
    )
    assert upload(tenant, content + b"\n" + line(tenant, {"messages": HELLO})).status_code == 200
    assert content in scripted.requests[-1].body
    for wrong, told in (
        (b"[" * 5 * MIB, "Line 2 of the batch's file is refused"),
        (b'{"custom_id":"' + b"x" * 9 * MIB, "Line 2 of the batch's file is too long"),
        (b'{"custom_id":"' + b"\\x" * 90_000, "Line 2 of the batch's file is refused"),
    ):
        refused = upload(tenant, line(tenant, {"messages": HELLO}) + b"\n" + wrong)
        assert refused.status_code in (400, 413)
        assert told in refused.json()["error"]["message"]


def test_a_batch_line_in_tiny_chunks_holds_nobody_up_and_ends_with_its_client(
    gateway: Gateway, scripted: Upstream, sign_up: SignUp
) -> None:
    gateway.cli("plan", "add", "one", "--parallel-requests", "1", "--features", "files")
    tenant = sign_up(gateway, "--plan", "one")
    start = form_start() + line(tenant, {"messages": HELLO})[:-1] + b'"x":"'
    with ticking(gateway) as took, chunks(tenant, "/v1/files", "multipart/form-data; boundary=b") as connection:
        for part in (start, b"a" * 7 * MIB):
            connection.sendall(b"%x\r\n%b\r\n" % (len(part), part))
        for _ in range(40):
            connection.sendall(b"1\r\na\r\n" * 1000)
        assert tenant.chat().status_code == 429, "the upload has the tenant's only slot"
    assert took[-1] < 0.2, f"most {took[-1]:.3f} s of {len(took)}"
    wait_until(lambda: tenant.chat().status_code == 200, "the upload to end with its client")


# memory


@pytest.fixture(scope="module")
def small(make_module_gateway: GatewayFactory, shared_upstream: Upstream) -> Gateway:
    return make_module_gateway(
        upstream=shared_upstream.api_url,
        environment={
            "TRUSTGATE_SERVE_MAX_BODY_BYTES": "400000",
            "TRUSTGATE_SERVE_MAX_BUFFERED_BYTES": "1000000",
        },
    ).start()


def test_bodies_that_are_told_are_bounded_in_sum(small: Gateway, scripted: Upstream, sign_up: SignUp) -> None:
    tenant, other = sign_up(small, "--plan", "internal"), sign_up(small, "--plan", "internal")
    with slow(tenant, 3, 390_000) as requests:
        assert [request.status for request in requests] == [100, 100, 503]
        assert "retry-after: 1\r\n" in requests[2].answer
        assert other.chat().status_code == 200
        with slow(other, 1, 200_000) as more:
            assert [request.status for request in more] == [100]
    wait_until(lambda: freed(tenant), "the memory of those that hung up")


def freed(tenant: Tenant) -> bool:
    request = Slow(tenant, 390_000)
    with request.socket:
        return request.status == 100


def test_bodies_in_chunks_are_bounded_in_sum(small: Gateway, scripted: Upstream, sign_up: SignUp) -> None:
    tenant = sign_up(small, "--plan", "internal")
    with contextlib.ExitStack() as stack:
        chunked = [stack.enter_context(chunks(tenant)) for _ in range(3)]
        part = b" " * 65_000
        for connection in chunked:
            connection.sendall((b"%x\r\n%b\r\n" % (len(part), part)) * 6)
        refused = [connection for connection in chunked if answered(connection)]
        assert len(refused) == 1
        assert refused[0].recv(65536).startswith(b"HTTP/1.1 503 ")


@contextlib.contextmanager
def chunks(
    tenant: Tenant, path: str = "/v1/chat/completions", kind: str = "application/json"
) -> Iterator[socket.socket]:
    """A request whose body comes in chunks, up to its body."""
    host, _, port = tenant.gateway.base_url.rpartition("/")[2].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tenant.secret}\r\n"
        connection.sendall(f"{head}content-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        yield connection


def answered(connection: socket.socket) -> bool:
    connection.settimeout(2)
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except TimeoutError:
        return False


@pytest.mark.parametrize(
    ("pattern", "text", "end"),
    [
        pytest.param(large_body._SHORT, b'{"a": "' + b"x" * 2000, 6, id="a long string"),
        pytest.param(large_body._SHORT, b'{"a": "b", "c', 11, id="a string without its end"),
        pytest.param(large_body._INSIDE, b"ab\\\\c\\", 5, id="a last backslash"),
        pytest.param(large_body._WHOLE, b"ab\\ud800\\ud", 2, id="half a surrogate pair"),
        pytest.param(large_answer._NUMBERS, b"1.5, " * 20 + b"7]", 100, id="numbers"),
    ],
)
def test_a_repetition_ends_where_its_last_whole_part_does_in_the_systems_python_too(
    pattern: re.Pattern[bytes], text: bytes, end: int
) -> None:
    """Debian 12's is 3.11.2, whose possessive repetitions end where a part that fails had come to."""
    assert _end_of_match(pattern, text) == end
    if found := shutil.which("python3", path="/usr/bin"):
        program = f"import re; print(re.compile({pattern.pattern!r}, {pattern.flags}).match({text!r}).end())"
        version = subprocess.run(
            [found, "-c", "import sys; print(sys.version_info >= (3, 11))"], capture_output=True, check=True
        )
        if version.stdout == b"True\n":
            ran = subprocess.run([found, "-I", "-c", program], capture_output=True, check=True)
            assert int(ran.stdout) == end


def _end_of_match(pattern: re.Pattern[bytes], text: bytes) -> int:
    found = pattern.match(text)
    assert found is not None
    return found.end()
