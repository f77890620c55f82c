"""examples/verify/verify.mjs: Node alone, and the same verdicts as ``trustgate receipt verify``."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from tests.environments import ROOT
from tests.support.bundles import MEMO_PROGRAM_V1, REQUEST, RESPONSE, SampleLog, damaged, hostile
from tests.support.entries import make_receipt
from tests.support.programs import require
from trustgate.receipts.verify import verify_bundle
from trustgate.types import RECEIPT_PAYMENT_MEMBERS, Finish, Receipt

SCRIPT = ROOT / "examples" / "verify" / "verify.mjs"
LOG = SampleLog()
GOOD = LOG.bundle()
PAID = SampleLog(v=2)
PRICED = SampleLog(v=10)

#: Checks many bundles in one process: [{data, options}] from stdin, all bytes base64; gives [[[name, state], …], …].
_HARNESS = """
import { verifyBundle } from %s;
let text = "";
for await (const chunk of process.stdin) text += chunk;
const bytes = (encoded) => (encoded === null ? null : new Uint8Array(Buffer.from(encoded, "base64")));
const verdicts = [];
for (const { data, key, feePayer, request, response } of JSON.parse(text)) {
  const given = { key, feePayer, request: bytes(request), response: bytes(response) };
  const { checks } = await verifyBundle(bytes(data), given);
  verdicts.push(checks.map(({ name, state }) => [name, state]));
}
process.stdout.write(JSON.stringify(verdicts));
"""


def node(*arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [require("node"), *map(str, arguments)], input=stdin, capture_output=True, text=True, timeout=60, check=False
    )


def by_node(bundles: Iterable[bytes], **given: Any) -> list[list[list[str]]]:
    """Names and states of the checks that Node makes of each bundle."""

    def encoded(value: bytes | None) -> str | None:
        return None if value is None else base64.b64encode(value).decode()

    contents = {label: encoded(given.get(label)) for label in ("request", "response")}
    texts = {"key": given.get("key"), "feePayer": given.get("fee_payer")}
    cases = [{"data": encoded(data), **contents, **texts} for data in bundles]
    ran = node(
        "--input-type=module", "--eval", _HARNESS % json.dumps(SCRIPT.absolute().as_uri()), stdin=json.dumps(cases)
    )
    assert ran.returncode == 0, ran.stderr
    verdicts: list[list[list[str]]] = json.loads(ran.stdout)
    return verdicts


def by_python(data: bytes, **given: Any) -> list[list[str]]:
    key = LOG.verifier if given.get("key") == LOG.vkey else None
    assert (key is None) == (given.get("key") is None)
    return [[check.name, check.state] for check in verify_bundle(data, **{**given, "key": key}).checks]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, content in (("bundle.json", GOOD), ("request", REQUEST), ("response", RESPONSE)):
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize(
    "bundle",
    [
        GOOD,
        LOG.bundle(anchor=None),
        LOG.bundle(anchor=LOG.anchor(version="legacy")),
        LOG.bundle(anchor=LOG.anchor(program=MEMO_PROGRAM_V1)),
        PAID.bundle(),
        *(SampleLog(size, index).bundle() for size, index in ((1, 0), (2, 0), (3, 2), (257, 256), (1000, 512))),
    ],
)
def test_good_bundles_hold(bundle: bytes) -> None:
    given = {"key": LOG.vkey, "request": REQUEST, "response": RESPONSE}

    assert by_node([bundle], **given) == [by_python(bundle, **given)]
    assert "failed" not in [state for _, state in by_python(bundle, **given)]


def test_receipts_of_every_kind_hold() -> None:
    """An ending or a source of usage that is added has to be added to the scripts."""
    kinds: list[dict[str, Any]] = [{"finish": finish} for finish in get_args(Finish) if finish != "credited"]
    kinds += [{**kind, "v": 2} for kind in [*kinds, {"finish": "credited", "endpoint": "credits"}]]
    kinds += [{"v": 2, **dict.fromkeys(RECEIPT_PAYMENT_MEMBERS[2:], ""), "charged_nano_usd": 2**53 - 1}]
    kinds += [{"v": version} for version in range(3, 11)]
    kinds += [{"usage_source": source} for source in get_args(get_type_hints(Receipt)["usage_source"])]
    bundles = [SampleLog(3, 1, **kind, stream=True).bundle() for kind in kinds]

    assert [{state for _, state in checks} for checks in by_node(bundles, request=REQUEST, response=RESPONSE)] == [
        {"passed"} for _ in kinds
    ]


@pytest.mark.parametrize("log", [LOG, PAID, PRICED], ids=["version 1", "version 2", "version 10"])
def test_every_damaged_bundle_is_refused_by_the_same_check(log: SampleLog) -> None:
    given = {"request": REQUEST, "response": RESPONSE}
    damages = list(damaged(log.bundle()))

    for damage, found in zip(damages, by_node((data for _, data in damages), **given), strict=True):
        assert found[-1][1] == "failed", f"{damage.name} was not noticed"
        assert found == by_python(damage.data, **given), damage.name


def test_what_is_signed_and_still_wrong_is_refused_by_the_same_check() -> None:
    bundles = list(hostile(LOG))

    for bundle, found in zip(bundles, by_node(bundle.data for bundle in bundles), strict=True):
        assert found[-1] == [bundle.check, "failed"], bundle.name
        assert found == by_python(bundle.data), bundle.name


def test_what_does_not_belong_together_is_refused_by_the_same_check() -> None:
    given = {"key": LOG.vkey, "fee_payer": LOG.fee_payer, "request": REQUEST, "response": RESPONSE}
    other = SampleLog(origin="other.example/log")
    bundles = {
        "another log's": (other.bundle(), "checkpoint"),
        "another log's key": (LOG.bundle(vkey=other.vkey), "checkpoint"),
        "another receipt": (LOG.bundle(receipt=make_receipt(7)), "inclusion"),
        "nothing disclosed": (LOG.bundle(disclose=()), "request"),
        "no anchor": (LOG.bundle(anchor=None), "anchor transaction"),
    }

    found = by_node((data for data, _ in bundles.values()), **given)
    assert [checks[-1] for checks in found] == [[check, "failed"] for _, check in bundles.values()]
    assert found == [by_python(data, **given) for data, _ in bundles.values()]
    strangers = by_node([GOOD], fee_payer=other.vkey)[0]
    assert strangers[-1] == ["anchor fee payer", "failed"]


def test_bytes_at_random_get_the_verdict_that_they_get_here() -> None:
    state, broken = hashlib.sha256(b"seed").digest(), []
    for number in range(1000):
        state = hashlib.sha256(state).digest()
        at = int.from_bytes(state[:4]) % len(GOOD)
        piece = state[4 : 5 + number % 3] if number % 2 else bytes([32 + state[4] % 95])
        broken.append(GOOD[:at] + piece + GOOD[at + 1 :])

    for data, found in zip(broken, by_node(broken), strict=True):
        assert found == by_python(data), data


def test_a_key_that_signs_anything_signs_nothing() -> None:
    """Points of small order make signatures that fit every text; WebCrypto itself lets them pass in Node 20."""
    neutral = bytes([1]) + bytes(31)
    material = b"\x01" + neutral
    key_hash = hashlib.sha256(b"log.example/tests\n" + material).digest()[:4]
    vkey = f"log.example/tests+{key_hash.hex()}+{base64.b64encode(material).decode()}"
    text = LOG.note.decode().rpartition("\n\n")[0]
    signature = base64.b64encode(key_hash + neutral + bytes(32)).decode()
    note = f"{text}\n\n— log.example/tests {signature}\n"
    proof = LOG.proof.replace(LOG.note, note.encode())
    bundle = LOG.bundle(proof=proof, vkey=vkey, anchor=None)

    assert by_node([bundle]) == [by_python(bundle)]
    assert by_python(bundle)[-1] == ["checkpoint", "failed"]


def test_the_command_prints_each_check(files: Path) -> None:
    ran = node(
        *(SCRIPT, files / "bundle.json", "--key", LOG.vkey, "--payer", LOG.fee_payer),
        *("--request", files / "request", "--response", files / "response"),
    )

    assert (ran.returncode, ran.stderr) == (0, "")
    *lines, last = ran.stdout.splitlines()
    expected = verify_bundle(GOOD, key=LOG.verifier, fee_payer=LOG.fee_payer, request=REQUEST, response=RESPONSE)
    assert [line.partition(": ")[0] for line in lines] == [
        *(f"passed       {check.name}" for check in expected.checks),
        "not checked  chain",
    ]
    assert last == "The bundle holds."


@pytest.mark.parametrize("log", [LOG, PAID, PRICED], ids=["version 1", "version 2", "version 10"])
def test_it_says_the_same_sentences_as_the_command_line(files: Path, log: SampleLog) -> None:
    """Of what holds; why something does not may be worded otherwise."""
    (files / "bundle.json").write_bytes(log.bundle())

    details = re.findall(r"^passed +[a-z ]+: (.*)$", node(SCRIPT, files / "bundle.json").stdout, re.MULTILINE)

    assert details == [check.detail for check in verify_bundle(log.bundle()).checks if check.state == "passed"]


def test_the_command_refuses(files: Path) -> None:
    (files / "bundle.json").write_bytes(GOOD.replace(b'"cost_nano_usd": 12345', b'"cost_nano_usd": 12344'))

    ran = node(SCRIPT, files / "bundle.json")

    assert (ran.returncode, ran.stderr) == (1, "")
    assert ran.stdout.splitlines()[-1] == "REFUSED: inclusion"
    assert ran.stdout.splitlines()[-2].startswith("failed       inclusion: The proof leads to the root ")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "usage: node verify.mjs BUNDLE"),
        (["bundle.json", "request"], "Name one bundle"),
        (["bundle.json", "--rpc", "devnet"], "--rpc"),
        (["nowhere.json"], "nowhere.json cannot be read"),
        (["bundle.json", "--request", "nowhere"], "nowhere cannot be read"),
    ],
)
def test_wrong_use(files: Path, arguments: list[str], why: str) -> None:
    ran = node(SCRIPT, *(argument if argument[:2] == "--" else files / argument for argument in arguments))

    assert (ran.returncode, ran.stdout) == (2, "")
    assert why in ran.stderr and "at " not in ran.stderr.split("\n", 1)[-1]


def test_a_node_that_is_too_old_is_told_so(files: Path) -> None:
    old = "Object.defineProperty(globalThis, 'crypto', { value: undefined });"
    (files / "old.cjs").write_text(old)

    ran = node("--require", files / "old.cjs", SCRIPT, files / "bundle.json")

    assert ran.returncode == 2 and "needs Node 20 or newer, not v" in ran.stderr


def test_it_runs_from_anywhere_under_any_name(files: Path) -> None:
    (files / "a name with blanks.mjs").symlink_to(SCRIPT)

    assert node(files / "a name with blanks.mjs", files / "bundle.json").stdout.endswith("The bundle holds.\n")


def test_it_needs_nothing_that_does_not_come_with_node() -> None:
    assert set(re.findall(r'^import .* from "(.*)";$', SCRIPT.read_text(), re.MULTILINE)) <= {
        *("node:fs", "node:fs/promises", "node:process", "node:url", "node:util")
    }
