"""``python3 tests --run python -m tests.mutation``: break the files that hold the promises, and see that a test fails.

    … -m tests.mutation                          a sample of mutants of every file, two at a time
    … -m tests.mutation --sample 0               all of them (hours)
    … -m tests.mutation --only access/quota.py   one file
    … -m tests.mutation --seed 7 --jobs 4 --list
    … -m tests.mutation --records FILE           keep what the tests reach, for the next run

Each mutant is one small change (``mutants``) in a copy of the checkout. Of the tests named for its file those that
reach its statement (``reach``) run, the quickest first, until one fails. Prints a line for each survivor and a table;
the exit code is 0 whatever survives: a survivor is a question (is a test missing, or does the change make no
difference?), not a failure. 2: the tests fail without any mutant.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple, Self

from tests import lines
from tests.environments import ROOT
from tests.mutation import reach
from tests.mutation.mutants import Mutant, mutants_of

_METERING = (
    "tests/models/test_reports.py",
    "tests/models/test_counts.py",
    "tests/models/test_events.py",
    "tests/models/test_sse.py",
    "tests/models/test_failures.py",
    "tests/models/test_streams_at_once.py",
)
_PRICING = (
    "tests/models/test_reports.py",
    "tests/models/test_pricing.py",
    "tests/models/test_summing.py",
    "tests/models/test_pricelist.py",
    "tests/models/test_litellm_prices.py",
    "tests/models/test_published.py",
)
_PATH = (
    "tests/gateway/test_order.py",
    "tests/gateway/test_path.py",
    "tests/gateway/test_answers.py",
    "tests/gateway/test_payments.py",
)
#: The files that hold the promises, and the tests that should notice a change in them, the quickest first.
TESTS: dict[str, tuple[str, ...]] = {
    "access/quota.py": ("tests/access/test_quota.py",),
    "access/quota_counter.py": ("tests/access/test_quota.py",),
    "access/windows.py": ("tests/access/test_quota.py",),
    "access/budgets.py": ("tests/access/test_budgets.py",),
    "access/budget_reach.py": ("tests/access/test_budgets.py",),
    "access/refusals.py": ("tests/access/test_quota.py", "tests/access/test_budgets.py"),
    "access/budget_counter.py": ("tests/access/test_budgets.py",),
    "access/spans.py": ("tests/access/test_budgets.py",),
    "access/end_users.py": ("tests/gateway/test_end_users.py",),
    "access/plans.py": ("tests/access/test_plans.py", "tests/gateway/test_path.py"),
    "access/directory.py": ("tests/access/test_directory.py", "tests/admin/test_admin.py"),
    "receipts/log.py": ("tests/receipts/test_log.py", "tests/gateway/test_order.py", "tests/gateway/test_log.py"),
    "receipts/journal.py": ("tests/receipts/test_journal.py", "tests/receipts/test_journal_power.py"),
    "receipts/segment.py": ("tests/receipts/test_journal.py",),
    "receipts/bounds.py": ("tests/receipts/test_bounds.py",),
    "receipts/tree.py": (
        "tests/receipts/test_tree.py",
        "tests/receipts/test_log.py",
        "tests/receipts/test_publisher.py",
    ),
    "cluster/holds.py": ("tests/cluster/test_books.py", "tests/cluster/test_against_model.py"),
    "cluster/operations.py": (
        "tests/cluster/test_books.py",
        "tests/cluster/test_lasting_work.py",
        "tests/cluster/test_against_model.py",
        "tests/cluster/test_drafts.py",
    ),
    "cluster/claimed_budgets.py": ("tests/cluster/test_books.py", "tests/cluster/test_against_model.py"),
    "cluster/counted_once.py": ("tests/cluster/test_lasting_work.py", "tests/cluster/test_books.py"),
    "cluster/lasting_work.py": ("tests/cluster/test_lasting_work.py",),
    "cluster/rows_anew.py": ("tests/cluster/test_rows.py", "tests/cluster/test_books.py"),
    "cluster/rows.py": (
        "tests/cluster/test_rows.py",
        "tests/cluster/test_lasting_work.py",
        "tests/cluster/test_books.py",
        "tests/cluster/test_against_model.py",
    ),
    "cluster/books.py": (
        "tests/cluster/test_lasting_work.py",
        "tests/cluster/test_books.py",
        "tests/cluster/test_drafts.py",
    ),
    "cluster/lanes.py": (
        "tests/cluster/test_lanes.py",
        "tests/cluster/test_batches.py",
        "tests/cluster/test_books.py",
        "tests/cluster/test_books_faults.py",
    ),
    "cluster/batches.py": (
        "tests/cluster/test_lanes.py",
        "tests/cluster/test_batches.py",
        "tests/cluster/test_books.py",
        "tests/cluster/test_books_faults.py",
    ),
    "cluster/linked_receipts.py": (
        "tests/cluster/test_kept_in_memory.py",
        "tests/cluster/test_batches.py",
        "tests/cluster/test_books.py",
        "tests/cluster/test_sequencer.py",
    ),
    "cluster/row_states.py": (
        "tests/cluster/test_kept_in_memory.py",
        "tests/cluster/test_batches.py",
        "tests/cluster/test_books.py",
        "tests/cluster/test_against_model.py",
    ),
    "cluster/drafts.py": ("tests/cluster/test_drafts.py", "tests/cluster/test_sequencer.py"),
    "payment/balance.py": ("tests/payment/test_balance.py", "tests/payment/test_cashier.py"),
    "payment/cashier.py": (
        "tests/payment/test_cashier_edges.py",
        "tests/payment/test_settling.py",
        "tests/payment/test_cashier.py",
        "tests/payment/test_money.py",
    ),
    "payment/ledger.py": (
        "tests/payment/test_ledger.py",
        "tests/payment/test_cashier.py",
        "tests/payment/test_money.py",
    ),
    "payment/order.py": ("tests/payment/test_cashier.py", "tests/gateway/test_keyless.py"),
    "payment/sale.py": (
        "tests/payment/test_sale.py",
        "tests/payment/test_settling.py",
        "tests/payment/test_cashier.py",
        "tests/payment/test_lifetime.py",
    ),
    "payment/reconciler.py": (
        "tests/payment/test_sale.py",
        "tests/payment/test_settling.py",
        "tests/payment/test_cashier.py",
    ),
    "admin/crediting.py": (
        "tests/admin/test_crediting.py",
        "tests/admin/test_payments.py",
        "tests/gateway/test_prepaid.py",
        "tests/cluster/test_several_credits.py",
    ),
    "admin/correcting.py": (
        "tests/admin/test_correction_sums.py",
        "tests/admin/test_correcting.py",
        "tests/gateway/test_prepaid.py",
        "tests/gateway/test_batch_limits.py",
    ),
    "cli/repeating.py": ("tests/cli/test_repeating.py", "tests/cli/test_payment.py"),
    "payment/shop_events.py": ("tests/gateway/test_credit_webhooks.py",),
    "statements/account.py": ("tests/statements/test_statements.py",),
    "statements/making.py": ("tests/statements/test_statements.py", "tests/statements/test_endpoint.py"),
    "statements/verify.py": ("tests/statements/test_statements.py", "tests/statements/test_forged.py"),
    "statements/opening.py": ("tests/statements/test_statements.py", "tests/statements/test_forged.py"),
    "statements/price_checks.py": ("tests/statements/test_statements.py", "tests/statements/test_forged.py"),
    "store/archives.py": ("tests/e2e/test_archive.py",),
    "store/archiving.py": ("tests/e2e/test_archive.py",),
    "notify/notifier.py": ("tests/notify/test_notifier.py", "tests/notify/test_delivery.py"),
    "notify/queue.py": ("tests/notify/test_notifier.py", "tests/notify/test_delivery.py"),
    "models/upstream/breaker.py": ("tests/models/test_upstream.py", "tests/gateway/test_reliability.py"),
    "models/upstream/targets.py": ("tests/models/test_upstream.py", "tests/gateway/test_reliability.py"),
    "models/upstream/client.py": (
        "tests/models/test_upstream.py",
        "tests/gateway/test_reliability.py",
        "tests/gateway/test_answers.py",
    ),
    "models/upstream/response.py": ("tests/models/test_response.py", "tests/gateway/test_answers.py"),
    "models/upstream/transport.py": ("tests/models/test_response.py", "tests/gateway/test_media.py"),
    "models/prices.py": _PRICING,
    "models/pricing.py": _PRICING,
    "models/metering/answer.py": _METERING,
    "models/metering/chunks.py": _METERING,
    "models/metering/counts.py": _METERING,
    "models/metering/ordinary.py": _METERING,
    "models/metering/usages.py": _METERING,
    "models/metering/events.py": _METERING,
    "models/metering/generated.py": _METERING,
    "models/metering/lenient.py": _METERING,
    "models/metering/sse.py": _METERING,
    "models/metering/whole.py": _METERING,
    "tasks.py": ("tests/test_tasks.py", "tests/cluster/test_ending.py"),
    "deadlines.py": ("tests/test_deadlines.py", "tests/gateway/test_inflight.py"),
    "gateway/path/accounting.py": (
        "tests/gateway/test_closing.py",
        "tests/gateway/test_order.py",
        "tests/gateway/test_path.py",
        "tests/gateway/test_payments.py",
    ),
    "gateway/path/pipeline.py": _PATH,
    "gateway/path/arrival.py": ("tests/gateway/test_body.py", "tests/gateway/test_aliases.py", *_PATH),
    "gateway/path/forwarding.py": _PATH,
    "gateway/path/delivery.py": ("tests/gateway/test_closing.py", "tests/gateway/test_whole_answers.py", *_PATH),
    "gateway/path/shares.py": ("tests/gateway/test_shedding.py", "tests/gateway/test_fairness.py"),
    "gateway/path/shedding.py": ("tests/gateway/test_shedding.py", "tests/gateway/test_fairness.py"),
    "gateway/path/work_holds.py": ("tests/gateway/test_work_holds.py", "tests/gateway/test_batch_limits.py"),
    "gateway/path/shared_keeping.py": ("tests/cluster/test_shared_keeping.py", "tests/cluster/test_several_books.py"),
    "gateway/path/batch_lines.py": (
        "tests/gateway/test_batch_lines.py",
        "tests/gateway/test_batches.py",
        "tests/gateway/test_batch_limits.py",
    ),
    "gateway/api/batch_files.py": ("tests/gateway/test_batches.py", "tests/gateway/test_batch_limits.py"),
    "server/keeping.py": ("tests/gateway/test_log.py", "tests/gateway/test_stops.py"),
    "server/overseer.py": ("tests/gateway/test_stops.py",),
    "server/stopping.py": ("tests/gateway/test_stops.py",),
    "gateway/path/relay.py": (
        "tests/gateway/test_order.py",
        "tests/gateway/test_fidelity.py",
        "tests/gateway/test_path.py",
        "tests/gateway/test_media.py",
        "tests/gateway/test_answers.py",
        "tests/gateway/test_payments.py",
    ),
    "http/parser.py": ("tests/http/test_parser.py", "tests/http/test_smuggling.py"),
    "http/exchange.py": ("tests/http/test_connection.py", "tests/http/test_smuggling.py"),
    "http/sending.py": ("tests/http/test_connection.py", "tests/gateway/test_whole_answers.py"),
    "http/http1.py": ("tests/http/test_reading.py", "tests/http/test_connection.py", "tests/http/test_smuggling.py"),
    "http/http2.py": (
        "tests/http/test_http2_events.py",
        "tests/http/test_http2.py",
        "tests/http/test_ending.py",
        "tests/http/test_http2_floods.py",
        "tests/http/test_waiting_streams.py",
    ),
    "http/frames.py": ("tests/http/test_http2_floods.py",),
    "http/accepting.py": ("tests/http/test_accepting.py",),
    "http/capacity.py": ("tests/http/test_capacity.py",),
    "http/refusals.py": ("tests/http/test_refusals.py", "tests/http/test_waiting.py"),
    "http/waiting_streams.py": ("tests/http/test_waiting_streams.py",),
    "http/starts.py": ("tests/http/test_accepting.py",),
}
_COPIED = ("trustgate", "tests", "examples", "completions", "README.md", "pyproject.toml", ".ci", "LICENSE")
#: How long a file of tests may take without a mutant, seconds; with one: so many times as long as those that are run
#: took, and a little more.
_TIMEOUT_S = 600.0
_TIMES_AS_LONG = 4
_MORE_S = 20.0
#: By pytest's exit code; None: they did not end in time.
_OUTCOMES = {0: "survived", None: "timeout"}
_SURVIVED = ("survived", "unreached")


class Result(NamedTuple):
    file: str
    mutant: Mutant
    #: ``killed`` by a failing test, ``timeout`` (killed too: the tests do not end), ``survived``, ``unreached``
    #: (survived too: no test comes to it).
    outcome: str
    seconds: float


def main(arguments: Sequence[str]) -> int:
    """Run what ``arguments`` choose. Returns the exit code."""
    options = _parse(arguments)
    chosen = _choose(options)
    if options.list:
        for file, mutant in chosen:
            print(_line(file, mutant))
        return 0
    with tempfile.TemporaryDirectory(prefix="trustgate-mutation-") as temporary, contextlib.ExitStack() as running:
        copies: SimpleQueue[_Copy] = SimpleQueue()
        for number in range(options.jobs):
            copies.put(running.enter_context(_Copy(Path(temporary, str(number)))))
        records = options.records or Path(temporary, "records")
        files = {file for file, _ in chosen}
        program = reach.program_of(ROOT / "trustgate")
        if not _record(copies, options.jobs, files, records, program):
            return 2
        tests = _Tests(reach.read(records, program), files, options.most_s)
        with ThreadPoolExecutor(options.jobs) as pool:
            results = list(pool.map(lambda one: _try(copies, tests, one[0], one[1]), chosen))
    _report(results)
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests.mutation", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=sorted(TESTS), help="this file; may be repeated")
    parser.add_argument("--sample", type=int, default=12, help="how many mutants of each file; 0: all (default: 12)")
    parser.add_argument("--seed", type=int, default=1, help="chooses the sample")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    parser.add_argument("--records", type=Path, help="a file for what the tests reach; those in it are not run for it")
    parser.add_argument("--most-s", type=float, default=60.0, help="how long a mutant's tests may take (default: 60)")
    parser.add_argument("--list", action="store_true", help="print the mutants, run nothing")
    return parser.parse_args(arguments)


def _choose(options: argparse.Namespace) -> list[tuple[str, Mutant]]:
    chosen = []
    for file in options.only or TESTS:
        found = mutants_of((ROOT / "trustgate" / file).read_text())
        if options.sample and options.sample < len(found):
            found = random.Random(f"{options.seed} {file}").sample(found, options.sample)
        chosen += [(file, mutant) for mutant in found]
    return chosen


class _Copy:
    """A copy of the checkout, and the process that runs tests in it (``tests.mutation.forked``)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name in _COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, folder / name)
        # The copy comes before the installed checkout.
        environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.mutation.forked"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, tests: Sequence[str], timeout_s: float, records: Path | None = None) -> tuple[str, str]:
        """Returns the outcome of the tests, as in ``Result``, and the end of their output.

        With ``records`` what they reach is written there.
        """
        folder = None if records is None else self._lines()
        order = {"tests": tests, "timeout_s": timeout_s, "lines": folder, "records": records}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order, default=str) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return _OUTCOMES.get(answer["code"], "killed"), answer["output"]

    def _lines(self) -> Path:
        folder = self.folder.with_name(f"{self.folder.name}-lines")
        if not folder.exists():
            lines.prepare(folder, self.folder / "trustgate")
            lines.hook()
        return folder


class _Tests:
    """Which tests reach which mutant."""

    def __init__(self, reaches: list[reach.Reach], files: set[str], most_s: float) -> None:
        self._reaches = reaches
        self._points = reach.points_of_lines(ROOT / "trustgate", files)
        self._most_s = most_s

    def of(self, file: str, mutant: Mutant) -> tuple[list[reach.Reach], int]:
        """Returns the tests to be run, the quickest first, and how many of those named for the file reach the mutant.

        Those that are left out would take too long: a mutant that survives some of them may not survive all.
        """
        named = [one for one in self._reaches if one.file in TESTS[file]]
        points = self._points[file].get(mutant.line, frozenset())
        return reach.choose(named, points, self._most_s), sum(bool(one.points & points) for one in named)


def _record(copies: SimpleQueue[_Copy], jobs: int, files: set[str], records: Path, program: str) -> bool:
    """Record what the tests of these files reach, where it is not known. False: one of them fails."""
    known = {one.file for one in reach.read(records, program)}
    wanted = sorted({test for file in files for test in TESTS[file]} - known)

    def record(test: str) -> bool:
        copy = copies.get()
        own = copy.folder.with_name(f"{copy.folder.name}-records")
        own.unlink(missing_ok=True)
        outcome, output = copy.run([test], _TIMEOUT_S, own)
        if outcome == "survived":
            reach.keep(records, own, program)
        else:
            print(f"the tests fail without any mutant:\n{output}", file=sys.stderr)
        copies.put(copy)
        return outcome == "survived"

    with ThreadPoolExecutor(jobs) as pool:
        return all(list(pool.map(record, wanted)))


def _try(copies: SimpleQueue[_Copy], tests: _Tests, file: str, mutant: Mutant) -> Result:
    chosen, reaching = tests.of(file, mutant)
    started = time.monotonic()
    outcome = "unreached"
    if chosen:
        copy = copies.get()
        path = copy.folder / "trustgate" / file
        source = path.read_text()
        timeout_s = _TIMES_AS_LONG * sum(one.seconds for one in chosen) + _MORE_S
        try:
            path.write_text(mutant.apply(source))
            outcome, _ = copy.run([one.test for one in chosen], timeout_s)
        finally:
            path.write_text(source)
            copies.put(copy)
    result = Result(file, mutant, outcome, time.monotonic() - started)
    if outcome in _SURVIVED:
        print(f"{outcome.upper():9}  {_line(file, mutant)}  ({len(chosen)} of {reaching} tests)", flush=True)
    return result


def _line(file: str, mutant: Mutant) -> str:
    old, new = (" ".join(text.split()) for text in (mutant.old, mutant.text))
    return f"{file}:{mutant.line}  {mutant.kind}: {old[:90]}  →  {new[:90]}"


def _report(results: Sequence[Result]) -> None:
    print(f"\n{'file':32} {'mutants':>8} {'killed':>7} {'survived':>9} {'seconds':>8}")
    for file in dict.fromkeys(result.file for result in results):
        _row(file, [result for result in results if result.file == file])
    _row("all", results)


def _row(name: str, results: Sequence[Result]) -> None:
    survived = sum(result.outcome in _SURVIVED for result in results)
    seconds = sum(result.seconds for result in results)
    print(f"{name:32} {len(results):8} {len(results) - survived:7} {survived:9} {seconds:8.0f}")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
