# SPDX-License-Identifier: Apache-2.0
"""The same as bench/state_app.py by redis-py; run by bench/state.py in its own venv.

Usage: state_redis.py URL WHAT COUNT
"""

import asyncio
import json
import sys
import time

import redis
import redis.asyncio

KEYS = [f"bench:{n}" for n in range(100)]


def incr(url, count):
    client = redis.Redis.from_url(url)
    client.incr("bench")
    begin = time.perf_counter(), time.process_time()

    for _ in range(count):
        client.incr("bench")

    return begin


async def _incr_asyncio(url, count, tasks):
    client = redis.asyncio.Redis.from_url(url)
    await client.incr("bench")
    begin = time.perf_counter(), time.process_time()

    async def work():
        for _ in range(count // tasks):
            await client.incr("bench")

    await asyncio.gather(*(work() for _ in range(tasks)))
    await client.aclose()
    return begin


def incr_aio(url, count):
    return asyncio.run(_incr_asyncio(url, count, 1))


def incr_aio_100_tasks(url, count):
    return asyncio.run(_incr_asyncio(url, count, 100))


def get_multi_100(url, count):
    client = redis.Redis.from_url(url)
    client.mset(dict.fromkeys(KEYS, "a value of some length"))
    begin = time.perf_counter(), time.process_time()

    for _ in range(count // 100):
        client.mget(KEYS)

    return begin


def get_single(url, count):
    client = redis.Redis.from_url(url)
    client.mset(dict.fromkeys(KEYS, "a value of some length"))
    begin = time.perf_counter(), time.process_time()

    for n in range(count):
        client.get(KEYS[n % 100])

    return begin


async def _publish(url, count, subscribers):
    """Each subscriber has a connection, as in an application's requests."""
    client = redis.asyncio.Redis.from_url(url, max_connections=2000)
    channels = []

    for _ in range(subscribers):
        channel = client.pubsub(ignore_subscribe_messages=True)
        await channel.subscribe("bench")
        channels.append(channel)

    async def listen(channel):
        left = count

        async for _ in channel.listen():
            left -= 1

            if left == 0:
                return

    listening = [asyncio.create_task(listen(channel)) for channel in channels]
    await asyncio.sleep(0.5)
    begin = time.perf_counter(), time.process_time()

    for n in range(count):
        await client.publish("bench", n)

    await asyncio.gather(*listening)
    return begin


WORK = {
    "incr": incr,
    "incr_aio": incr_aio,
    "incr_aio_100_tasks": incr_aio_100_tasks,
    "get_multi_100": get_multi_100,
    "get_single": get_single,
    "publish_1": lambda url, count: asyncio.run(_publish(url, count, 1)),
    "publish_100": lambda url, count: asyncio.run(_publish(url, count, 100)),
    "publish_1000": lambda url, count: asyncio.run(_publish(url, count, 1000)),
}


def main():
    url, what, count = sys.argv[1:]
    begin = WORK[what](url, int(count))
    wall_s, cpu_s = time.perf_counter() - begin[0], time.process_time() - begin[1]
    print(json.dumps({"wall_s": wall_s, "cpu_s": cpu_s}))


main()
