# SPDX-License-Identifier: Apache-2.0
"""Counts of one load, each per request; none depends on how quick the machine is.

Each is taken on a node whose only server runs `tests/apps/counted.py` in one worker.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from counts.loads import BATCH, LOADS, Client, Load, ask_in_batches, connected
from node import Node, literal

Counts = dict[str, float]
IsEnough = Callable[[Counts], bool]

MODULE = Path(__file__).parent / "hornbeam_counts.erl"
STRACE = shutil.which("strace")
WARM_UP = 40
ATTEMPTS = 3
BATCHES = 12
ATTACH_TIMEOUT_S = 20.0

# What sockets and ports of the node are read and written with. Its threads wake each
# other with `read` and `write`, and sleep and set timers, as often as chance has it.
TRANSFERS = ("recvfrom", "recvmsg", "writev", "sendto", "sendmsg", "sendfile")


class Uncountable(Exception):
    """A part cannot be counted here; the text says why."""


class Measured:
    """A node with a server, to count on."""

    def __init__(self, node: Node) -> None:
        self.node = node
        node.eval(
            f"File = binary_to_list({literal(str(MODULE))}),"
            " Options = [binary, warnings_as_errors, warn_missing_spec],"
            " {ok, Name, Binary} = compile:file(File, Options),"
            " {module, _} = code:load_binary(Name, [], Binary)"
        )
        self.url = node.start_server("counted:app", "#{lifespan => off}")
        facts = node.eval_text(
            "#{workers := [#{os_pid := OsPid, codec := Codec, loop := Loop}]} ="
            ' hornbeam:info(default), io_lib:format("~b ~s ~s", [OsPid, Codec, Loop])'
        )
        pid, self.codec, self.loop = facts.split()
        self.worker_pid = int(pid)

    def count(self, load_name: str, part: str) -> Counts:
        """Count one part, of those in `PARTS`.

        Raises:
            Uncountable: Something that is needed is not there.
        """
        self.node.eval("hornbeam_counts:await_no_connections()")
        return PARTS[part](self, LOADS[load_name])

    def count_least(self, load_name: str, part: str, is_enough: IsEnough) -> Counts:
        """Count up to three times, and give the least: chance can only add.

        Args:
            load_name: The load.
            part: As for `count`.
            is_enough: Whether to leave it at these.
        """
        least = self.count(load_name, part)

        for _ in range(ATTEMPTS - 1):
            if is_enough(least):
                break

            again = self.count(load_name, part)
            least = {name: min(count, least[name]) for name, count in again.items()}

        return least


def count_work(measured: Measured, load: Load) -> Counts:
    """Reductions of the processes of the path, and words of garbage."""
    with _warm(measured, load) as client:
        measured.node.eval("hornbeam_counts:start(work)")
        client.ask(load.times)
        return _stop(measured.node, load.times)


def count_calls(measured: Measured, load: Load) -> Counts:
    """Calls of functions of the node, and messages."""
    with _warm(measured, load) as client:
        measured.node.eval("hornbeam_counts:start(calls)")
        client.ask(load.times)
        return _stop(measured.node, load.times)


def count_in_worker(measured: Measured, load: Load) -> Counts:
    """Calls and bytecode instructions of Python, and blocks that are left behind."""
    _need_compiled(measured)
    found = {}

    with (
        _warm(measured, load) as client,
        connected(measured.url, LOADS["hello"]) as aside,
    ):
        for what in ("calls", "instructions", "blocks"):
            aside.ask_for(f"/count/{what}".encode())
            client.ask(load.times)
            answer = json.loads(aside.ask_for(b"/count/stop").rstrip(b"."))
            found[f"python_{what}"] = answer[what] / load.times

    return found


def count_batched(measured: Measured, load: Load) -> Counts:
    """Packets both ways, and calls of Python, where sixteen requests come at once."""
    _need_compiled(measured)

    with ExitStack() as stack:
        clients = [stack.enter_context(_warm(measured, load)) for _ in range(BATCH)]
        requests = BATCH * BATCHES
        measured.node.eval("hornbeam_counts:start(calls)")
        ask_in_batches(measured.node, clients, BATCHES)
        counted = _stop(measured.node, requests)
        aside = stack.enter_context(connected(measured.url, LOADS["hello"]))
        aside.ask_for(b"/count/calls")
        ask_in_batches(measured.node, clients, BATCHES)
        answer = json.loads(aside.ask_for(b"/count/stop").rstrip(b"."))

    return {
        "batched_packets_out": counted["packets_out"],
        "batched_packets_in": counted["packets_in"],
        "batched_python_calls": answer["calls"] / requests,
    }


def count_system_calls(measured: Measured, load: Load) -> Counts:
    """System calls: of the worker's event loop all, of the node its transfers."""
    with _warm(measured, load) as client:
        with traced(measured.node.os_pid, "-f") as of_node:
            client.ask(load.times)

        with traced(measured.worker_pid) as of_worker:
            client.ask(load.times)

    transfers = sum(of_node.get(name, 0) for name in TRANSFERS)
    return {
        "node_transfers": transfers / load.times,
        "worker_system_calls": sum(of_worker.values()) / load.times,
    }


PARTS: dict[str, Callable[[Measured, Load], Counts]] = {
    "work": count_work,
    "calls": count_calls,
    "worker": count_in_worker,
    "batched": count_batched,
    "system": count_system_calls,
}


@contextmanager
def _warm(measured: Measured, load: Load) -> Iterator[Client]:
    with connected(measured.url, load) as client:
        client.ask(WARM_UP)
        yield client


def _need_compiled(measured: Measured) -> None:
    """The bounds are those of the C codec and of uvloop."""
    if (measured.codec, measured.loop) != ("c", "uvloop"):
        raise Uncountable(f"the worker has {measured.codec} and {measured.loop}")


def _stop(node: Node, requests: int) -> Counts:
    text = node.eval_text(
        "[[atom_to_list(Name), $ , integer_to_list(Count), $\\n]"
        " || {Name, Count} <- maps:to_list(hornbeam_counts:stop())]"
    )
    return {
        name: int(count) / requests
        for name, count in (line.split() for line in text.splitlines())
    }


@contextmanager
def traced(pid: int, *options: str) -> Iterator[dict[str, int]]:
    """Count the system calls of a thread, or with `-f` of all, until the block ends.

    Raises:
        Uncountable: There is no strace, or it may not look.
    """
    if STRACE is None:
        raise Uncountable("strace is not installed")

    found: dict[str, int] = {}

    with tempfile.TemporaryDirectory() as folder:
        summary = Path(folder, "summary")
        command = [STRACE, *options, "-c", "-o", str(summary), "-p", str(pid)]

        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            said = process.stderr.readline()

            if "attached" not in said:
                process.kill()
                raise Uncountable(f"strace: {said.strip()}")

            try:
                yield found
            finally:
                process.send_signal(signal.SIGINT)
                process.communicate(timeout=ATTACH_TIMEOUT_S)

        found.update(read_summary(summary.read_text()))


def read_summary(text: str) -> dict[str, int]:
    """The calls of each name in what `strace -c` writes."""
    row = re.compile(r"^ *[\d.]+ +[\d.]+ +\d+ +(\d+) +(?:\d+ +)?(\w+)$", re.MULTILINE)
    return {name: int(calls) for calls, name in row.findall(text) if name != "total"}


@contextmanager
def measured_node() -> Iterator[Measured]:
    """A node of its own whose worker nothing else looks at, as coverage does."""
    aside = {
        name: os.environ.pop(name)
        for name in ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START")
        if name in os.environ
    }

    try:
        with Node() as node:
            yield Measured(node)
    finally:
        os.environ.update(aside)
