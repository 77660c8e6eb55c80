# SPDX-License-Identifier: Apache-2.0
"""Where the CPU time of a request goes: one of a load's samples by `perf`, in parts.

    python -m bench.path --app hello:app --seconds 5 --top 20

The VM is told to write down its code's addresses (`+JPperf true`), so that Erlang
functions have names. Those of the VM itself have some only where it was not stripped.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from bench import load
from bench.figures import Sample
from bench.job import CONNECTIONS, WARM_UP_S, Costs, of_done
from bench.load import Request
from bench.servers import Failed, Server, Setup, running

FREQUENCY = 2500
_SAMPLE = re.compile(r"^\s+([0-9a-f]+) (.*) \((.*)\)$")

# What the kernel does, by the functions on its stack; the first that has one of them.
KERNEL = (
    ("kernel: sockets", ("tcp_", "inet_", "sock_", "__sys_recv", "__sys_send")),
    ("kernel: pipes", ("pipe_", "anon_pipe_")),
    (
        "kernel: waiting and waking",
        ("epoll", "ep_", "futex", "timerfd", "eventfd", "schedule", "__schedule"),
    ),
)
WORKERS = ("worker", "writer", "protocol", "routes", "load", "selection", "intake")
_OF_WORKERS = tuple(f"hornbeam_{name}" for name in WORKERS)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.path", description=__doc__)
    parser.add_argument("--app", default="hello:app", help="of bench/apps")
    parser.add_argument("--path", default="/")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--top", type=int, default=0, help="functions to show")
    arguments = parser.parse_args()

    if shutil.which("perf") is None:
        print("perf is not installed", file=sys.stderr)
        return 1

    setup = Setup(arguments.app, vm_flags=("+JPperf", "true"))
    request = Request(path=arguments.path)

    with tempfile.TemporaryDirectory() as folder:
        with running("hornbeam", setup, Path(folder, "log")) as server:
            figures, samples = profile(server, request, arguments.seconds, folder)

    show(figures, samples, arguments.top)
    return 0


Functions = Counter[tuple[str, str, str]]
"""Samples by process, part and function."""


def profile(
    server: Server, request: Request, seconds: float, folder: str
) -> tuple[Sample, Functions]:
    load.wrk(server, request, WARM_UP_S, CONNECTIONS)
    data = str(Path(folder, "data"))
    pids = ",".join(map(str, server.pids()))
    record = [
        "perf",
        "record",
        "-q",
        "-g",
        "-F",
        str(FREQUENCY),
        "-p",
        pids,
        "-o",
        data,
    ]
    costs = Costs(server)

    with subprocess.Popen([*record, "--", "sleep", str(seconds)]) as process:
        done = load.wrk(server, request, seconds, CONNECTIONS)
        process.wait()

    figures = costs.sample(done.requests) | of_done(done)
    script = ["perf", "script", "-i", data, "-F", "comm,ip,sym,dso"]
    output = subprocess.run(script, capture_output=True, text=True, check=True).stdout

    if not output:
        raise Failed("perf has no samples: is it allowed to look?")

    return figures, Counter(map(classify, read_stacks(output.splitlines())))


Stack = tuple[str, list[tuple[str, str]]]
"""A thread, and its functions from the innermost on, each with the file it is in."""


def read_stacks(lines: Iterable[str]) -> Iterator[Stack]:
    thread, frames = "", list[tuple[str, str]]()

    for line in lines:
        if match := _SAMPLE.match(line):
            frames.append((match[2].partition("+")[0], match[3]))
        elif line.strip():
            thread = line.strip()
        elif frames:
            yield thread, frames
            frames = []

    if frames:
        yield thread, frames


def classify(stack: Stack) -> tuple[str, str, str]:
    thread, frames = stack
    function, file = frames[0]
    process = "Python" if thread.startswith("python") else "node"

    if "kernel" in file:
        return process, _kernel_part([name for name, _ in frames]), function

    if process == "node":
        return process, _node_part(function, file), function

    return process, _python_part(file), function


def _kernel_part(functions: list[str]) -> str:
    for part, prefixes in KERNEL:
        if any(function.startswith(prefixes) for function in functions):
            return part

    return "kernel: other"


def _node_part(function: str, file: str) -> str:
    if not file.endswith(".map") and "JIT" not in file:
        return "the VM: ports, messages, scheduling, BIFs"

    module = function.lstrip("$").partition(":")[0]

    if module.startswith(("cowboy", "cow_", "ranch")):
        return "Erlang: Cowboy"

    if module.startswith(_OF_WORKERS):
        return "Erlang: Hornbeam, workers and protocol"

    if module.startswith("hornbeam"):
        return "Erlang: Hornbeam, connection and stream"

    return "Erlang: OTP, and the JIT's shared code"


def _python_part(file: str) -> str:
    name = Path(file).name

    if "hornbeam" in file and name.endswith(".so"):
        return "Hornbeam's C: codec, scope, headers"

    if "uvloop" in file:
        return "uvloop"

    return "the interpreter: Hornbeam's and the application's Python"


def show(figures: Sample, functions: Functions, top: int) -> None:
    """Parts of the CPU time as the kernel counts it, shared out by samples."""
    samples = functions.total()
    each_us = figures["cpu_us"] / samples
    parts: Counter[tuple[str, str]] = Counter()

    for (process, part, _), count in functions.items():
        parts[process, part] += count

    print(
        f"{figures['rate']:,.0f} requests per second, {figures['cpu_us']:.1f} µs each"
    )
    print("| process | part | µs |\n|---|---|---|")

    for (process, part), count in sorted(parts.items(), key=lambda item: -item[1]):
        print(f"| {process} | {part} | {count * each_us:.1f} |")

    for (process, part, name), count in functions.most_common(top):
        print(f"{count * each_us:6.2f} {process:6} {part.partition(':')[0]:8} {name}")


if __name__ == "__main__":
    sys.exit(main())
