# SPDX-License-Identifier: Apache-2.0
"""What the end-to-end tests look at from outside: processes, memory, tables."""

from __future__ import annotations

import os
import re
import select
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from node import Node

TESTS_DIR = Path(__file__).resolve().parent.parent

_server_numbers = count(1)

# What Erlang has freed goes back to the system at once: no carriers are kept for the
# next time (erts_alloc(3)), which would be up to twelve mebibytes, by chance.
FREEING = {"ERL_AFLAGS": "+MMmcs 0 +MBacul 0"}


@contextmanager
def serving(
    node: Node, module: str, options: str = "#{}", *, attribute: str = "application"
) -> Iterator[Server]:
    """Serve an application of `raw_apps` for a block."""
    name = f"raw_{next(_server_numbers)}"
    url = node.start_server(
        f"e2e.raw_apps.{module}:{attribute}", options, name=name, app_dir=TESTS_DIR
    )

    try:
        yield Server(node, name, url)
    finally:
        # A test may have stopped it, or killed the node.
        if node.is_alive():
            node.eval(f"hornbeam:stop({name})")


class Server:
    """A running server, as its node sees it."""

    def __init__(self, node: Node, name: str, url: str) -> None:
        self.node = node
        self.name = name
        self.url = url

    def worker_pids(self) -> list[int]:
        """Process ids of the workers that run."""
        return _integers(
            self.node.eval(
                "[Pid || #{os_pid := Pid} <-"
                f" maps:get(workers, hornbeam:info({self.name})), is_integer(Pid)]"
            )
        )

    def worker_facts(self, key: str) -> list[str]:
        """One fact of each worker, in the order of their ids."""
        text = self.node.eval_text(
            f'lists:join("|", [io_lib:format("~0tp", [maps:get({key}, W, none)])'
            f" || W <- maps:get(workers, hornbeam:info({self.name}))])"
        )
        return text.split("|")

    def in_flight(self) -> int:
        """Requests that applications work on, in all workers."""
        return sum(_integers(",".join(self.worker_facts("in_flight"))))

    def queue(self) -> int:
        """Requests that wait for a worker."""
        return int(self.node.eval(f"maps:get(queue, hornbeam:info({self.name}))"))

    def connections(self) -> int:
        """Open connections."""
        return int(self.node.eval(f"maps:get(connections, hornbeam:info({self.name}))"))


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def descendants(pid: int) -> dict[int, str]:
    """All processes below a process that have not ended, with their command lines."""
    children: dict[int, list[int]] = {}

    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (parent := _living_parent(entry)) is not None:
            children.setdefault(parent, []).append(int(entry.name))

    found: dict[int, str] = {}
    pending = [pid]

    while pending:
        for child in children.get(pending.pop(), ()):
            found[child] = command_line(child)
            pending.append(child)

    return found


def python_processes(node: Node) -> list[int]:
    """The workers of a node as the operating system sees them, and their children."""
    return [
        pid
        for pid, command in descendants(node.os_pid).items()
        if "python" in command.split("\0")[0]
    ]


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


class Watch:
    """Processes whose end is awaited; their ids can't be taken by others meanwhile."""

    def __init__(self, pids: list[int]) -> None:
        self._descriptors: dict[int, int] = {}

        for pid in pids:
            # One that is gone has ended.
            with suppress(ProcessLookupError):
                self._descriptors[pid] = os.pidfd_open(pid)

    def survivors(self, seconds: float) -> list[int]:
        """Wait until all have ended, or for so long; those that run on."""
        left = dict(self._descriptors)
        poll = select.poll()

        for descriptor in left.values():
            poll.register(descriptor, select.POLLIN)

        while left and (ended := poll.poll(seconds * 1000)):
            for descriptor, _ in ended:
                poll.unregister(descriptor)
                left = {pid: fd for pid, fd in left.items() if fd != descriptor}

        return list(left)

    def close(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)


def survivors(pids: list[int], seconds: float = 10.0) -> list[int]:
    """Wait until processes have ended; those that have not within that time."""
    watch = Watch(pids)

    try:
        return watch.survivors(seconds)
    finally:
        watch.close()


def _living_parent(entry: Path) -> int | None:
    try:
        stat = (entry / "stat").read_text()
    except OSError:
        return None

    # The name, in parentheses, may hold anything.
    state, parent = stat.rpartition(")")[2].split()[:2]
    return None if state in "ZX" else int(parent)


def _integers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"-?\d+", text)]
