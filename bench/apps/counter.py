# SPDX-License-Identifier: Apache-2.0
"""A counter that all workers share: Hornbeam's state there, Redis elsewhere.

/hit adds one and answers the sum.
"""

import os
from typing import Any

from hello import Receive, Send, live
from hornbeam_erlang import aio, under_hornbeam

KEY = "hits"
REDIS_VARIABLE = "BENCH_REDIS"

_redis: Any = None


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await live(receive, send)
        return

    body = b"ready"

    if scope["path"] == "/hit":
        body = b"%d" % await _count()

    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _count() -> int:
    global _redis

    if under_hornbeam():
        return await aio.state_incr(KEY)

    if _redis is None:
        # Not installed where types are checked.
        from redis.asyncio import Redis  # type: ignore[import-not-found,unused-ignore]

        _redis = Redis(unix_socket_path=os.environ[REDIS_VARIABLE])

    total: int = await _redis.incr(KEY)
    return total
