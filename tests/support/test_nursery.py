"""Tests that are killed leave no process behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from tests.environments import ROOT
from tests.support.processes import PATIENCE_S, clean_environment

#: Tests with a server out of the nursery and another program; prints the three processes.
_TESTS = """
import sys, threading
from pathlib import Path
from tests.support import nursery
from tests.support.processes import Process, clean_environment
folder = Path(sys.argv[1])
serve = ["--home", str(folder / "home"), "serve", "--port", "0", "--upstream", "builtin:echo"]
server = Process("the server", serve, folder, clean_environment(), folder / "server", forked=True)
other = Process("the other", ["sleep", "1000"], folder, clean_environment(), folder / "other")
server.wait_until(lambda: "ready at" in server.stdout)
[mother] = [int(each) for each in Path("/proc/self/task/%d/children" % threading.get_native_id()).read_text().split()
            if int(each) != other.pid]
print(mother, server.pid, other.pid, flush=True)
threading.Event().wait()
"""


def test_what_killed_tests_have_started_ends(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _TESTS, str(tmp_path)],
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as tests:
        assert tests.stdout is not None
        watched = [os.pidfd_open(int(pid)) for pid in tests.stdout.readline().split()]
        assert len(watched) == 3
        os.killpg(tests.pid, signal.SIGKILL)
        left = list(watched)
        while left:
            ended = select.select(left, [], [], PATIENCE_S)[0]
            assert ended, f"{len(left)} of 3 processes still run"
            left = [each for each in left if each not in ended]
        for each in watched:
            os.close(each)


def test_a_server_ends_with_the_mother(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _TESTS, str(tmp_path)], cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE
    ) as tests:
        assert tests.stdout is not None
        mother, server, other = map(int, tests.stdout.readline().split())
        watched = os.pidfd_open(server)
        os.kill(mother, signal.SIGKILL)
        assert select.select([watched], [], [], PATIENCE_S)[0], "it still runs"
        os.close(watched)
        for pid in (tests.pid, other):
            os.kill(pid, signal.SIGKILL)
