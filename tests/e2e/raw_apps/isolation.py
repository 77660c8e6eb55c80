# SPDX-License-Identifier: Apache-2.0
"""An application that prints, forks, starts programs, and calls the node all over."""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import unquote

from e2e.raw_apps.toolbox import Receive, Routes, Scope, Send, respond, rest_of_path
from hornbeam_erlang import state_get, state_incr, state_set

application = Routes()

LIBC = ctypes.CDLL(None)

# What a subprocess prints of the descriptors that it has.
SHOW_DESCRIPTORS = """
import os
print({fd: os.readlink(f"/proc/self/fd/{fd}")
       for fd in map(int, os.listdir("/proc/self/fd"))
       if os.path.exists(f"/proc/self/fd/{fd}")})
"""


@application.add
async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, "hello")


@application.add
async def prints(scope: Scope, receive: Receive, send: Send) -> None:
    """/prints/HOW?TEXT"""
    text = unquote(scope["query_string"].decode())
    _print(rest_of_path(scope), text)
    await respond(send, "printed")


def _print(how: str, text: str) -> None:
    if how == "print":
        print(text)  # noqa: T201
    elif how == "stderr":
        print(text, file=sys.stderr)  # noqa: T201
    elif how == "os-write":
        os.write(1, f"{text}\n".encode())
    elif how == "os-write-2":
        os.write(2, f"{text}\n".encode())
    elif how == "c":
        LIBC.puts(text.encode())
        LIBC.fflush(None)
    elif how == "logging":
        logging.warning("%s", text)
    elif how == "subprocess":
        subprocess.run(["echo", text], check=True)
    elif how == "system":
        os.system(f"echo {text}")
    elif how == "flood":
        print("\n".join(["x" * 1000] * 2000), text, sep="\n")  # noqa: T201


@application.add
async def closes_output(scope: Scope, receive: Receive, send: Send) -> None:
    """Goes on without standard output and error."""
    for stream in (sys.stdout, sys.stderr):
        stream.close()

    await respond(send, "closed")


@application.add
async def reads_input(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, repr(sys.stdin.read()))


@application.add
async def descriptors(scope: Scope, receive: Receive, send: Send) -> None:
    """What this process has, and what one gets from it that inherits all there is."""
    own = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in (3, 4)}
    child = subprocess.run(  # noqa: ASYNC221
        [sys.executable, "-c", SHOW_DESCRIPTORS],
        close_fds=False,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    await respond(send, f"({own!r}, {child.stdout.strip()})")


@application.add
async def forks(scope: Scope, receive: Receive, send: Send) -> None:
    """/forks/HOW: what the child does; answers its exit status."""
    how = rest_of_path(scope)
    pid = os.fork()

    if pid == 0:
        await _be_a_child(how, send)
        return

    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    await respond(send, str(os.waitstatus_to_exitcode(status)))


async def _be_a_child(how: str, send: Send) -> None:
    if how == "exits":
        os._exit(5)
    elif how == "executes":
        os.execlp("sh", "sh", "-c", "exit 6")
    elif how == "calls":
        try:
            state_incr("forked")
        except Exception as exc:
            os._exit(7 if type(exc).__name__ == "BridgeClosed" else 8)

        os._exit(9)
    elif how == "raises":
        raise SystemExit(0)
    elif how == "answers":
        await respond(send, "from the child")


@application.add
async def pool(scope: Scope, receive: Receive, send: Send) -> None:
    """/pool/METHOD: a pool of processes, started in that way."""
    method = rest_of_path(scope)
    numbers = await asyncio.to_thread(_square_all, method)
    await respond(send, repr(numbers))


def _square_all(method: str) -> list[int]:
    with multiprocessing.get_context(method).Pool(2) as workers:
        return workers.map(_square, range(5))


def _square(number: int) -> int:
    return number * number


@application.add
async def counts(scope: Scope, receive: Receive, send: Send) -> None:
    """/counts/KEY: counts from threads and from the event loop, at the same time."""
    key = rest_of_path(scope)
    threads = [asyncio.to_thread(_count, key, 200) for _ in range(8)]
    running = asyncio.gather(*threads)

    for _ in range(200):
        state_incr(key)
        await asyncio.sleep(0)

    await running
    await respond(send, str(state_get(key)))


def _count(key: str, times: int) -> None:
    for _ in range(times):
        state_incr(key)


@application.add
async def counts_while_blocked(scope: Scope, receive: Receive, send: Send) -> None:
    """How far a thread gets while the event loop does not run."""
    key = rest_of_path(scope)
    state_set(key, 0)
    thread = threading.Thread(target=_count, args=[key, 100])
    thread.start()
    time.sleep(0.5)  # noqa: ASYNC251
    is_done = not thread.is_alive()
    thread.join()
    await respond(send, repr((is_done, state_get(key))))


@application.add
async def counts_fast(scope: Scope, receive: Receive, send: Send) -> None:
    """One call by the event loop; many such requests run side by side."""
    await respond(send, str(state_incr(rest_of_path(scope))))


@application.add
async def leaves_thread(scope: Scope, receive: Receive, send: Send) -> None:
    """A thread that does not end, and is no daemon."""
    threading.Thread(target=time.sleep, args=[3600]).start()
    await respond(send, "left")


@application.add
async def at_exit(scope: Scope, receive: Receive, send: Send) -> None:
    """/at-exit?FILE: is there once the process has ended in order."""
    path = Path(unquote(scope["query_string"].decode()))
    atexit.register(path.touch)
    await respond(send, "registered")


print("imported: čaj")  # noqa: T201
