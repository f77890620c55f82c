"""Pinning: the measured server, the load and the upstream each on processor cores of their own.

Unpinned, all of them share the cores, and what the load takes is missing to the server: figures then are of the machine
and not of the server. Pinned, the server has one core whatever the others do. The load and the upstream share the other
core where there are but two. Linux only (``sched_setaffinity``).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import NamedTuple


class Cores(NamedTuple):
    """Which cores are whose."""

    server: frozenset[int]
    load: frozenset[int]
    upstream: frozenset[int]


def shared_out(cores: frozenset[int]) -> Cores | None:
    """Returns one core for the server, one for the load and the rest for the upstream; None: there are too few."""
    if len(cores) < 2:
        return None
    server, load, *rest = sorted(cores)
    return Cores(frozenset((server,)), frozenset((load,)), frozenset(rest or (load,)))


def add_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pin", action="store_true", help="server, load and upstream each on cores of their own (two cores at least)"
    )


def wanted(options: argparse.Namespace) -> Cores | None:
    """Returns the cores of ``--pin``, this process and so all that it starts from now on on the load's.

    Raises:
        SystemExit: they cannot be pinned here; the message says why.
    """
    if not options.pin:
        return None
    if not hasattr(os, "sched_setaffinity"):
        raise SystemExit("--pin needs Linux: no other system lets a process choose its cores")
    cores = shared_out(frozenset(os.sched_getaffinity(0)))
    if cores is None:
        raise SystemExit("--pin needs two processor cores at least")
    pin(os.getpid(), cores.load)
    return cores


def pin(pid: int, cores: frozenset[int]) -> None:
    """Let a process, with all of its threads, run on these cores alone; those that it makes later inherit that."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)
