# SPDX-License-Identifier: Apache-2.0
"""An application that does to its worker what applications do. Runs on asyncio."""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import ctypes
import gc
import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

from hornbeam_erlang import (
    HornbeamError,
    state_get,
    state_incr,
    state_set,
    under_hornbeam,
    worker_id,
)

# Imported code may call the node, and print.
IMPORTED = state_incr("imports")
print("printed at import")

# Flushes, as each call does, what has been posted before it.
atexit.register(state_incr, "exits")

Route = Callable[[Any, Any, Any], Awaitable[Any]]
context: contextvars.ContextVar[str] = contextvars.ContextVar("context", default="none")
events: list[str] = []


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        raise NotImplementedError

    route: Route = globals()["do" + scope["path"].replace("/", "_")]
    result = await route(scope, receive, send)

    if result is not None:
        await answer(send, result)


async def answer(send: Any, result: Any) -> None:
    body = json.dumps(result).encode()
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": body})


# Output and input.


async def do_print(scope: Any, receive: Any, send: Any) -> Any:
    libc = ctypes.CDLL(None)
    print("by print")
    print("to stderr", file=sys.stderr)
    os.write(1, b"by os.write\n")
    libc.printf(b"by printf\n")
    libc.fflush(None)
    return await asyncio.to_thread(lambda: [print("by a thread"), 1][1])


async def do_input(scope: Any, receive: Any, send: Any) -> Any:
    return [sys.stdin.read(), os.read(0, 10).decode()]


async def do_standard(scope: Any, receive: Any, send: Any) -> Any:
    return [os.readlink(f"/proc/self/fd/{descriptor}") for descriptor in (0, 1, 2)]


# Other processes.


async def do_fork(scope: Any, receive: Any, send: Any) -> Any:
    return fork()


def fork() -> Any:
    read, write = os.pipe()
    pid = os.fork()

    if pid == 0:
        try:
            state_get("x")
            text = "no error"
        except HornbeamError as exc:
            text = f"{type(exc).__name__} {under_hornbeam()} {open_descriptors()}"

        os.write(write, text.encode())
        os._exit(0)

    os.close(write)
    text = os.read(read, 1000).decode()
    os.close(read)
    _, status = os.waitpid(pid, 0)
    return [text, status, state_incr("after_fork")]


async def do_fork_that_comes_back(scope: Any, receive: Any, send: Any) -> Any:
    return fork_that_comes_back()


def fork_that_comes_back() -> Any:
    pid = os.fork()

    if pid == 0:
        raise SystemExit(5)

    _, status = os.waitpid(pid, 0)
    return [os.waitstatus_to_exitcode(status), state_incr("after_fork")]


def open_descriptors() -> list[int]:
    return [
        descriptor
        for descriptor in (3, 4)
        if os.path.exists(f"/proc/self/fd/{descriptor}")
        and "pipe" in os.readlink(f"/proc/self/fd/{descriptor}")
    ]


async def do_subprocess(scope: Any, receive: Any, send: Any) -> Any:
    return run_subprocess()


def run_subprocess() -> Any:
    script = "import os; print([os.path.exists(f'/proc/self/fd/{n}') for n in (3, 4)])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, close_fds=False
    )
    return done.stdout.decode().strip()


async def do_terminate(scope: Any, receive: Any, send: Any) -> Any:
    return terminate()


def terminate() -> Any:
    """Programs and forks of the application don't inherit that signals are ignored."""
    statuses = []

    for number in (signal.SIGTERM, signal.SIGINT):
        sleep = subprocess.Popen(["sleep", "1000"])
        sleep.send_signal(number)
        statuses.append(sleep.wait(10))

    read, write = os.pipe()

    def tell_and_sleep() -> None:
        os.write(write, b"x")
        block()

    child = multiprocessing.get_context("fork").Process(target=tell_and_sleep)
    child.start()
    os.read(read, 1)
    child.terminate()
    child.join(10)
    return [*statuses, child.exitcode]


async def do_multiprocessing(scope: Any, receive: Any, send: Any) -> Any:
    """Each start method works, also the ones that import the main module again."""
    results = []

    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            results.append(await asyncio.to_thread(pool.map, len, ["ab"]))

    return results


# Calls.


async def do_count(scope: Any, receive: Any, send: Any) -> Any:
    return state_incr("count")


async def do_ids(scope: Any, receive: Any, send: Any) -> Any:
    return [worker_id(), under_hornbeam(), IMPORTED]


async def do_threads_while_blocked(scope: Any, receive: Any, send: Any) -> Any:
    results: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: results.extend(state_incr("blocked") for _ in range(20))
        )
        for _ in range(10)
    ]

    for thread in threads:
        thread.start()

    # In the loop's own thread.
    for thread in threads:
        thread.join()

    return sorted(results)


async def do_mixed(scope: Any, receive: Any, send: Any) -> Any:
    """Tasks and threads, each with keys of its own."""

    def work(name: str) -> bool:
        good = True

        for step in range(10):
            state_set(name, step)
            good = good and state_get(name) == step

        return good

    async def task(name: str) -> bool:
        good = True

        for step in range(10):
            state_set(name, step)
            await asyncio.sleep(0)
            good = good and state_get(name) == step

        return good

    results = await asyncio.gather(
        *(asyncio.to_thread(work, f"thread{number}") for number in range(50)),
        *(task(f"task{number}") for number in range(20)),
    )
    return all(results)


async def do_hang_in_call(scope: Any, receive: Any, send: Any) -> Any:
    print("calling")
    return state_get("never answered")


async def do_hang_in_thread(scope: Any, receive: Any, send: Any) -> Any:
    """The loop is blocked, and a thread waits for a reply."""
    thread = threading.Thread(target=state_get, args=("never answered",))
    thread.start()
    print("calling")
    thread.join()
    return None


async def do_sleep(scope: Any, receive: Any, send: Any) -> Any:
    print("blocking")
    block()
    return None


def block() -> None:
    time.sleep(1000)


async def do_pool(scope: Any, receive: Any, send: Any) -> Any:
    """How many threads the pool has at most."""
    barrier = threading.Barrier(3)
    names: set[str] = set()

    def work() -> None:
        barrier.wait(10)
        names.add(threading.current_thread().name)

    await asyncio.gather(*(asyncio.to_thread(work) for _ in range(9)))
    return sorted(names)


# The ASGI conversation.


async def do_echo(scope: Any, receive: Any, send: Any) -> Any:
    await send({"type": "http.response.start", "status": 200})
    more = True

    while more:
        message = await receive()
        more = message["more_body"]
        await send(
            {
                "type": "http.response.body",
                "body": message["body"],
                "more_body": more,
            }
        )

    return None


async def do_download(scope: Any, receive: Any, send: Any) -> Any:
    """As many bytes as the query says."""
    left = int(scope["query_string"])
    part = bytes(range(256)) * 100
    await send({"type": "http.response.start", "status": 200})

    while left > 0:
        body = part[:left]
        left -= len(body)
        await send({"type": "http.response.body", "body": body, "more_body": True})

    await send({"type": "http.response.body"})
    return None


async def do_upload(scope: Any, receive: Any, send: Any) -> Any:
    digest = hashlib.sha256()
    size, more = 0, True

    while more:
        message = await receive()
        digest.update(message["body"])
        size += len(message["body"])
        more = message["more_body"]

    return [size, digest.hexdigest()]


async def do_receive_nothing(scope: Any, receive: Any, send: Any) -> Any:
    await asyncio.get_running_loop().create_future()


async def do_stubborn(scope: Any, receive: Any, send: Any) -> Any:
    print("stubborn")

    try:
        await asyncio.get_running_loop().create_future()
    finally:
        await asyncio.sleep(1000)


async def do_raise(scope: Any, receive: Any, send: Any) -> Any:
    raise ValueError("boom")


async def do_raise_late(scope: Any, receive: Any, send: Any) -> Any:
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"x", "more_body": True})
    sys.exit(3)


async def do_events(scope: Any, receive: Any, send: Any) -> Any:
    return events


async def do_wait(scope: Any, receive: Any, send: Any) -> Any:
    """Wait for the client to leave, or for the end of the task."""
    print("waiting")

    try:
        while (await receive())["type"] != "http.disconnect":
            pass

        events.append("disconnected")

        try:
            await answer(send, 1)
        except OSError as exc:
            events.append(type(exc).__name__)
            raise
    except asyncio.CancelledError:
        events.append("cancelled")
        raise

    return None


async def do_head_then_wait(scope: Any, receive: Any, send: Any) -> Any:
    await send({"type": "http.response.start", "status": 200})
    print("head sent")
    await receive()
    await receive()


async def do_slow(scope: Any, receive: Any, send: Any) -> Any:
    """Answer once the body is there."""
    print("slow")
    await receive()
    return "done"


async def do_context(scope: Any, receive: Any, send: Any) -> Any:
    """What a request sees of the context that others have set."""
    before = context.get()
    context.set(scope["query_string"].decode())
    # Other requests may be read from the pipe meanwhile.
    state_incr("contexts")
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(state_incr, "contexts")
    await asyncio.sleep(0)
    return before


async def do_objects(scope: Any, receive: Any, send: Any) -> Any:
    gc.collect()
    return [len(gc.get_objects()), len(asyncio.all_tasks())]


async def do_main_module(scope: Any, receive: Any, send: Any) -> Any:
    return [sys.path[0], os.getcwd(), os.path.dirname(sys.argv[0]) in sys.path]
