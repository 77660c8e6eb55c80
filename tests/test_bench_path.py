# SPDX-License-Identifier: Apache-2.0
"""Parts of a request's CPU time, by what perf tells of stacks."""

from __future__ import annotations

import io
from collections import Counter
from contextlib import redirect_stdout

import pytest

from bench.path import classify, read_stacks, show

SCRIPT = """\
1_scheduler
\tffffffff81e407cd skb_release_data+0x10 ([kernel.kallsyms])
\tffffffff8201ca27 tcp_ack ([kernel.kallsyms])
\t           fde9d __GI___writev (/usr/lib/libc.so.6)

python3.11
\t    7f3ac0a0 _PyEval_EvalFrameDefault (/usr/lib/libpython3.11.so.1.0)

"""
KERNEL = "[kernel.kallsyms]"
NODE_MAP = "/x/perf-1.map"


def test_stacks_are_read() -> None:
    interpreter = ("_PyEval_EvalFrameDefault", "/usr/lib/libpython3.11.so.1.0")
    socket = [("skb_release_data", KERNEL), ("tcp_ack", KERNEL)]
    stacks = list(read_stacks(SCRIPT.splitlines()))
    assert stacks == [
        ("1_scheduler", [*socket, ("__GI___writev", "/usr/lib/libc.so.6")]),
        ("python3.11", [interpreter]),
    ]
    # The last one may have no empty line behind it.
    assert list(read_stacks(SCRIPT.rstrip().splitlines())) == stacks


@pytest.mark.parametrize(
    ("thread", "frames", "part"),
    [
        ("1_scheduler", [("x", KERNEL), ("tcp_ack", KERNEL)], "kernel: sockets"),
        ("1_scheduler", [("x", KERNEL), ("anon_pipe_write", KERNEL)], "kernel: pipes"),
        ("1_scheduler", [("__schedule", KERNEL)], "kernel: waiting and waking"),
        ("1_scheduler", [("x", KERNEL)], "kernel: other"),
        ("1_scheduler", [("$cow_http:parse/1", NODE_MAP)], "Erlang: Cowboy"),
        (
            "2_scheduler",
            [("$hornbeam_scope:check/2", NODE_MAP)],
            "Erlang: Hornbeam, connection and stream",
        ),
        (
            "2_scheduler",
            [("$hornbeam_worker:init/1", NODE_MAP)],
            "Erlang: Hornbeam, workers and protocol",
        ),
        (
            "2_scheduler",
            [("$global::call_light_bif_shared", NODE_MAP)],
            "Erlang: OTP, and the JIT's shared code",
        ),
        (
            "2_scheduler",
            [("erts_schedule", "/usr/lib/beam.smp")],
            "the VM: ports, messages, scheduling, BIFs",
        ),
        (
            "python3.11",
            [("encode", "/x/hornbeam/_etf_c.cpython-311.so")],
            "Hornbeam's C: codec, scope, headers",
        ),
        ("python3.11", [("run", "/x/uvloop/loop.cpython-311.so")], "uvloop"),
        (
            "python3.11",
            [("PyDict_New", "/x/libpython3.11.so")],
            "the interpreter: Hornbeam's and the application's Python",
        ),
    ],
)
def test_samples_are_of_parts(
    thread: str, frames: list[tuple[str, str]], part: str
) -> None:
    process = "Python" if thread.startswith("python") else "node"
    assert classify((thread, frames)) == (process, part, frames[0][0])


def test_time_is_shared_out_by_samples() -> None:
    samples = Counter(
        {("node", "the VM: x", "f"): 2, ("node", "the VM: x", "g"): 1}
        | {("Python", "uvloop", "h"): 1}
    )

    with redirect_stdout(io.StringIO()) as output:
        show({"rate": 1000.0, "cpu_us": 40.0}, samples, top=1)

    assert (
        "| node | the VM: x | 30.0 |\n| Python | uvloop | 10.0 |" in output.getvalue()
    )
    assert output.getvalue().endswith(" 20.00 node   the VM   f\n")
