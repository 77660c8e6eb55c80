# SPDX-License-Identifier: Apache-2.0
"""What users notice while a worker blocks, is replaced, or dies."""

import asyncio
import os
import signal
import time
from collections.abc import Callable

from bench import clients
from bench.figures import Sample
from bench.job import Case, Costs, Job, Options, served
from bench.servers import HOST, Failed, Server, Setup
from bench.steady import Answers, ask

WORKERS = 2
CONNECTIONS = 32
PER_SECOND = 300
# One of so many requests computes for half a second, as bench/apps/mixed.py has it.
BLOCK_ONE_IN = 100
BLOCK_S = 0.5
# What another one costs, in the server and here.
QUICK_CPU_S = 0.0003
# With this rate all of them together take half of a core for each worker: 188 a second.
PER_SECOND_MIXED = int(WORKERS / 2 / (BLOCK_S / BLOCK_ONE_IN + QUICK_CPU_S))
DISTURB_TIMEOUT_S = 20.0


def _mixed(server: Server, options: Options) -> Sample:
    return clients.run(_ask_beside_blocking(server, options))


async def _ask_beside_blocking(server: Server, options: Options) -> Sample:
    answers = Answers()
    costs = Costs(server)
    end_s = time.perf_counter() + options.seconds
    blocking = asyncio.create_task(_block_until(server, end_s))
    await _ask_until(
        server, answers, lambda: time.perf_counter() >= end_s, PER_SECOND_MIXED
    )
    await blocking
    sample = costs.sample(answers.asked) | answers.sample()
    return sample | {"asked": answers.asked, "failed": answers.failed}


async def _block_until(server: Server, end_s: float) -> None:
    """Ask steadily for answers that block a worker, each on a connection of its own."""
    asked = []
    next_s = time.perf_counter()

    while next_s < end_s:
        asked.append(asyncio.create_task(_block(server)))
        next_s += BLOCK_ONE_IN / PER_SECOND_MIXED
        await asyncio.sleep(max(0.0, next_s - time.perf_counter()))

    await asyncio.gather(*asked)


async def _block(server: Server) -> None:
    reader, writer = await asyncio.open_connection(HOST, server.port)
    writer.write(clients.get(server, "/block"))

    if not await reader.readline():
        raise Failed(f"{server.name} did not answer a blocking request")

    writer.close()


def _reload(server: Server, options: Options) -> Sample:
    def disturb(pids: set[int]) -> set[int]:
        os.kill(server.pid, signal.SIGHUP)
        return pids

    return clients.run(_ask_while_disturbed(server, options, disturb))


def _kill(server: Server, options: Options) -> Sample:
    def disturb(pids: set[int]) -> set[int]:
        victim = min(pids)
        os.kill(victim, signal.SIGKILL)
        return {victim}

    return clients.run(_ask_while_disturbed(server, options, disturb))


async def _ask_while_disturbed(
    server: Server, options: Options, disturb: Callable[[set[int]], set[int]]
) -> Sample:
    """Ask before, while and after workers go, until as many are there again.

    Args:
        server: The server.
        options: How long at least.
        disturb: Is given the process ids of the workers, gives those that are to go.
    """
    answers = Answers()
    costs = Costs(server)
    began_s = time.perf_counter()
    over = asyncio.Event()
    load = asyncio.create_task(_ask_until(server, answers, over.is_set))

    try:
        await asyncio.sleep(options.seconds / 4)
        processes = len(server.pids())
        leaving = disturb(set(answers.workers))
        await _await_successors(server, answers, leaving, processes)
        rest_s = began_s + options.seconds - time.perf_counter()
        await asyncio.sleep(max(0.0, rest_s))
    finally:
        over.set()
        await load

    sample = costs.sample(answers.asked) | answers.sample()
    return sample | {"asked": answers.asked, "failed": answers.failed}


async def _await_successors(
    server: Server, answers: Answers, leaving: set[int], processes: int
) -> None:
    """Until none of them is there any more, and as many processes as before.

    Whose answers come says nothing: connections stay with the worker that took them.
    """
    deadline = time.perf_counter() + DISTURB_TIMEOUT_S

    while leaving & (now := set(server.pids())) or len(now) < processes:
        if time.perf_counter() > deadline:
            raise Failed(
                f"{server.name} has not replaced {len(leaving)} workers"
                f" within {DISTURB_TIMEOUT_S:g} s; meanwhile {answers.failed} of"
                f" {answers.asked} requests failed"
            )

        await asyncio.sleep(0.05)


async def _ask_until(
    server: Server,
    answers: Answers,
    is_over: Callable[[], bool],
    per_second: float = PER_SECOND,
) -> None:
    await ask(
        server,
        answers,
        per_second=per_second,
        connections=CONNECTIONS,
        goes_on=lambda: not is_over(),
    )


SETUP = Setup("mixed:app", workers=WORKERS)
JOBS = (
    Job(
        "mixed",
        f"{PER_SECOND_MIXED} requests per second on {CONNECTIONS} connections, 2"
        f" workers, and one for {BLOCK_ONE_IN} of them that computes for half a second"
        " without awaiting: half of what two cores can do",
        "request",
        (Case(served(SETUP, _mixed)),),
        ("uvicorn", "granian", "hypercorn", "gunicorn"),
    ),
    Job(
        "reload",
        f"SIGHUP replaces 2 workers while {PER_SECOND} requests per second come",
        "request",
        (Case(served(Setup("mixed:app", WORKERS, reloads=True), _reload)),),
        ("uvicorn", "granian", "hypercorn", "gunicorn"),
    ),
    Job(
        "kill",
        f"SIGKILL ends one of 2 workers while {PER_SECOND} requests per second come",
        "request",
        (Case(served(SETUP, _kill)),),
        ("uvicorn", "granian", "hypercorn", "gunicorn"),
    ),
)
