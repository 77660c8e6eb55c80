# SPDX-License-Identifier: Apache-2.0
"""The smallest useful ASGI application, for measuring what the server costs."""

BODY = b"Hello, world!"
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain"), (b"content-length", b"13")],
}
END = {"type": "http.response.body", "body": BODY}


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})

            if message["type"] == "lifespan.shutdown":
                return

    await send(START)
    await send(END)
