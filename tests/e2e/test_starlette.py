# SPDX-License-Identifier: Apache-2.0
"""Starlette applications, driven over a socket."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Iterator

import httpx
import pytest

from e2e.apps.starlette_app import STATIC_DIR
from e2e.raw import Connection
from e2e.support import (
    make_async_client,
    make_client,
    serving,
    unique,
    wait_for_gate,
)
from node import Node

ECHOES = 20

NOTICE_SECONDS = 2.0
"""How soon an application must have noticed that its client has gone."""


@pytest.fixture(scope="module")
def client(node: Node) -> Iterator[httpx.Client]:
    """A client of `starlette_app:app`."""
    with serving(node, "starlette_app:app") as url, make_client(url) as client:
        yield client


@pytest.fixture(scope="module")
def tagged(node: Node) -> Iterator[httpx.Client]:
    """A client of the same below a BaseHTTPMiddleware."""
    with serving(node, "starlette_app:tagged") as url, make_client(url) as client:
        yield client


# Routes.


def test_converters(client: httpx.Client) -> None:
    """Parameters of a path have types."""
    uuid = "0a1b2c3d-0000-4000-8000-000000000000"
    assert client.get(f"/convert/7/1.5/{uuid}/a/b").json() == {
        "i": "7",
        "f": "1.5",
        "u": f"UUID('{uuid}')",
        "p": "'a/b'",
    }
    assert client.get(f"/convert/x/1.5/{uuid}/a").status_code == 404


def test_endpoint_class(client: httpx.Client) -> None:
    """Its methods answer those of HTTP, HEAD included; others are refused."""
    assert client.get("/things/a").text == "get a"
    assert client.post("/things/b").text == "post b"
    head = client.head("/things/c")
    assert (head.content, head.headers["content-length"]) == (b"", "5")
    refused = client.patch("/things/d")
    assert refused.status_code == 405
    assert set(refused.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}


def test_plain_middleware(client: httpx.Client) -> None:
    """It adds a header, also to errors."""
    assert client.get("/describe").headers["x-plain"] == "1"
    assert client.get("/nothing").headers["x-plain"] == "1"


def test_base_http_middleware(tagged: httpx.Client) -> None:
    """It runs the application in a task of its own, streams go through."""
    assert tagged.get("/things/a").headers["x-tag"] == "GET"
    assert tagged.head("/things/a").headers["x-tag"] == "HEAD"
    content = random.Random(1).randbytes(1_000_000)
    assert tagged.post("/echo", content=content).content == content


def test_form(client: httpx.Client) -> None:
    """URL-encoded, with repeated and empty fields."""
    fields = {"a": ["1", "2 &"], "č": ["ž"], "empty": [""]}
    assert client.post("/form", data=fields).json() == fields


# Request bodies.


def test_upload_is_read_as_it_comes(client: httpx.Client) -> None:
    """The second part is sent only when the application has read the first."""
    name = unique("upload")
    url = str(client.base_url)

    with make_client(url) as other:

        def parts() -> Iterator[bytes]:
            for number in range(1, 4):
                yield b"part %d\n" % number
                wait_for_gate(other, f"{name}-{number}")

        response = client.put("/upload", params={"name": name}, content=parts())

    expected = hashlib.sha256(b"part 1\npart 2\npart 3\n").hexdigest()
    assert response.text == expected


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
def test_large_upload(client: httpx.Client, framing: str) -> None:
    """Many windows' worth in either framing."""
    content = random.Random(2).randbytes(3_000_000)
    parts = (content[at : at + 70_000] for at in range(0, len(content), 70_000))
    response = client.put(
        "/upload",
        params={"name": unique("upload")},
        content=content if framing == "content-length" else parts,
    )
    assert response.text == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("size", [0, 1, 65536, 3_000_000], ids=str)
def test_echo(client: httpx.Client, size: int) -> None:
    """Request and response stream at the same time."""
    content = random.Random(size).randbytes(size)
    assert client.post("/echo", content=content).content == content


def test_large_echoes_side_by_side(client: httpx.Client) -> None:
    """Each gets its own bytes back, though all share one worker's pipe."""
    contents = [random.Random(n).randbytes(1_000_000) for n in range(ECHOES)]
    echoed = asyncio.run(_echo_all(str(client.base_url), contents))
    assert [hashlib.sha256(each).digest() for each in echoed] == [
        hashlib.sha256(each).digest() for each in contents
    ]


async def _echo_all(url: str, contents: list[bytes]) -> list[bytes]:
    async with make_async_client(url, connections=len(contents)) as client:

        async def echo(content: bytes) -> bytes:
            return (await client.post("/echo", content=content)).content

        return await asyncio.gather(*map(echo, contents))


# Disconnects.


def test_client_leaves_within_its_upload(client: httpx.Client, node: Node) -> None:
    """The application learns of it; that is no error to be logged."""
    name = unique("upload")
    printed = len(node.logged())

    with Connection(str(client.base_url)) as connection:
        head = (
            f"PUT /upload?name={name} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
        )
        connection.send(head.encode() + b"part")
        wait_for_gate(client, f"{name}-1")

    wait_for_gate(client, f"{name}-left")
    assert client.get("/things/a").text == "get a"
    assert "ClientDisconnect" not in node.logged()[printed:]


@pytest.mark.parametrize(
    ("fixture", "path", "gate"),
    [
        # Starlette's is_disconnected() never gives True below a BaseHTTPMiddleware.
        ("client", "/poll-disconnect", "disconnected"),
        ("client", "/endless", "closed"),
        ("tagged", "/endless", "closed"),
    ],
)
def test_client_leaves(
    request: pytest.FixtureRequest, fixture: str, path: str, gate: str
) -> None:
    """Seen by is_disconnected(), and ends a generator that sends."""
    client: httpx.Client = request.getfixturevalue(fixture)
    name = unique("stream")

    with client.stream("GET", path, params={"name": name}) as response:
        next(response.iter_raw())

    left = time.monotonic()
    wait_for_gate(client, f"{name}-{gate}")
    assert time.monotonic() - left < NOTICE_SECONDS


# Sessions.


def test_sessions(client: httpx.Client) -> None:
    """A signed cookie comes back, and one that was tampered with does not count."""
    client.cookies.clear()
    assert [client.get("/visits").json() for _ in range(3)] == [
        {"visits": 1},
        {"visits": 2},
        {"visits": 3},
    ]
    cookie = client.cookies["session"]
    client.cookies.clear()
    # Not the last letter: some of its bits do not count.
    other = "B" if cookie[-9] == "A" else "A"
    forged = {"cookie": f"session={cookie[:-9]}{other}{cookie[-8:]}"}
    assert client.get("/visits", headers=forged).json() == {"visits": 1}
    client.cookies.clear()


# Files.


def test_static_file(client: httpx.Client) -> None:
    """Its type, its length, and 304 for who has it."""
    response = client.get("/static/style.css")
    assert response.content == (STATIC_DIR / "style.css").read_bytes()
    assert response.headers["content-type"] == "text/css; charset=utf-8"

    for validator in (
        {"if-none-match": response.headers["etag"]},
        {"if-modified-since": response.headers["last-modified"]},
    ):
        unchanged = client.get("/static/style.css", headers=validator)
        assert (unchanged.status_code, unchanged.content) == (304, b"")
        assert unchanged.headers["etag"] == response.headers["etag"]


def test_head_of_a_static_file(client: httpx.Client) -> None:
    """Its headers and no body."""
    head = client.head("/static/plain.txt")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == "15"


@pytest.mark.parametrize(
    "path", ["/static/none.txt", "/static/../support.py", "/static/%2e%2e/support.py"]
)
def test_no_such_static_file(client: httpx.Client, path: str) -> None:
    """Also not one outside of the folder."""
    assert client.get(path).status_code == 404


# Mounts and prefixes.


def test_mounts(client: httpx.Client) -> None:
    """Mounted applications see the prefix as root_path, and URLs are whole."""
    base = client.base_url
    assert client.get("/inner/describe").json() == {
        "path": "/inner/describe",
        "root_path": "/inner",
        "url": f"{base}/inner/describe",
    }
    assert client.get("/sub/describe/a%20b").json() == {
        "path": "/sub/describe/a b",
        "root_path": "/sub",
        # Starlette makes it of the decoded path.
        "url": f"{base}/sub/describe/a b",
    }
    assert client.get("/describe").json()["inner"] == f"{base}/inner/describe"


def test_root_path(node: Node) -> None:
    """Behind a proxy that strips a prefix, URLs have it."""
    with (
        serving(node, "starlette_app:app", '#{root_path => "/api"}') as url,
        make_client(url) as client,
    ):
        assert client.get("/describe").json() == {
            "path": "/api/describe",
            "root_path": "/api",
            "url": f"{url}/api/describe",
            "inner": f"{url}/api/inner/describe",
            "things": "/things/1",
        }
        assert client.get("/inner/describe").json()["root_path"] == "/api/inner"
        assert client.get("/static/plain.txt").text == "A static file.\n"
