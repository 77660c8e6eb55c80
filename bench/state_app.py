# SPDX-License-Identifier: Apache-2.0
"""Asked by bench/state.py: does what the path says so many times, and how long it took.

/WHAT/COUNT, where WHAT is a function below. The answer is JSON: wall and CPU seconds of
this process.
"""

import asyncio
import json
import os
import time

import hornbeam_erlang as erlang
from hornbeam_erlang import aio

KEYS = [f"bench:{n}" for n in range(100)]


async def incr(count):
    for _ in range(count):
        erlang.state_incr("bench")


async def incr_aio(count):
    for _ in range(count):
        await aio.state_incr("bench")


async def incr_aio_100_tasks(count):
    async def work():
        for _ in range(count // 100):
            await aio.state_incr("bench")

    await asyncio.gather(*(work() for _ in range(100)))


async def incr_thread(count):
    await asyncio.to_thread(lambda: [erlang.state_incr("bench") for _ in range(count)])


async def get_multi_100(count):
    erlang.state_set_multi(dict.fromkeys(KEYS, "a value of some length"))

    for _ in range(count // 100):
        erlang.state_get_multi(KEYS)


async def publish(count, subscribers):
    async with asyncio.TaskGroup() as group:
        ready = asyncio.Barrier(subscribers + 1)

        async def listen():
            async with erlang.subscribe("bench") as messages:
                await ready.wait()

                for _ in range(count):
                    await messages.get()

        for _ in range(subscribers):
            group.create_task(listen())

        await ready.wait()
        begin = time.perf_counter(), time.process_time()

        for n in range(count):
            await aio.publish("bench", n)

    return begin


WORK = {
    "incr": incr,
    "incr_aio": incr_aio,
    "incr_aio_100_tasks": incr_aio_100_tasks,
    "incr_thread": incr_thread,
    "get_multi_100": get_multi_100,
    "publish_1": lambda count: publish(count, 1),
    "publish_100": lambda count: publish(count, 100),
    "publish_1000": lambda count: publish(count, 1000),
}


async def app(scope, receive, send):
    assert scope["type"] == "http"
    _, what, count = scope["path"].split("/")
    begin = time.perf_counter(), time.process_time()
    begin = await WORK[what](int(count)) or begin
    answer = {
        "wall_s": time.perf_counter() - begin[0],
        "cpu_s": time.process_time() - begin[1],
        "pid": os.getpid(),
    }
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})
