# SPDX-License-Identifier: Apache-2.0
"""A Django application by its ASGI handler, driven over a socket."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from e2e.support import (
    E2E_DIR,
    make_client,
    open_gate,
    serving,
    unique,
    wait_for_gate,
)
from node import Node, StartError

NOTICE_SECONDS = 2.0
"""How soon an application must have noticed that its client has gone."""


@pytest.fixture(scope="module")
def client(node: Node) -> Iterator[httpx.Client]:
    """A client of `django_app`."""
    with serving(node, "django_app:application") as url, make_client(url) as client:
        yield client


def test_async_view(client: httpx.Client) -> None:
    """Runs on the event loop, and knows of the request what there is to know."""
    agent = {"user-agent": "test/1"}
    assert client.get("/async/7?tag=1&tag=%C4%8D", headers=agent).json() == {
        "number": 7,
        "tags": ["1", "č"],
        "url": f"{client.base_url}/async/7?tag=1&tag=%C4%8D",
        "agent": "test/1",
        "client": "127.0.0.1",
        "is_main": True,
    }


def test_sync_view(client: httpx.Client) -> None:
    """Runs in a thread, many at a time."""
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(client.get, ["/sync"] * 40))

    assert [each.json() for each in responses] == [{"is_main": False}] * 40
    assert client.post("/sync").status_code == 403


def test_head(client: httpx.Client) -> None:
    """The length of the body and none of it."""
    head = client.head("/visits")
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) > 0


def test_missing_slash(client: httpx.Client) -> None:
    """Redirected by a middleware."""
    response = client.get("/slash")
    assert (response.status_code, response.headers["location"]) == (301, "/slash/")


def test_host_that_is_not_allowed(client: httpx.Client) -> None:
    """Django's own check of the host header."""
    response = client.get("/slash", headers={"host": "evil.example"})
    assert response.status_code == 400


def test_session(client: httpx.Client) -> None:
    """A signed cookie that comes back."""
    client.cookies.clear()
    assert [client.get("/visits").json()["visits"] for _ in range(3)] == [1, 2, 3]
    assert client.get("/visits").headers["vary"] == "Cookie"
    client.cookies.clear()


def test_csrf(client: httpx.Client) -> None:
    """A form without its token is refused, one with it is taken."""
    client.cookies.clear()
    assert client.post("/guarded", data={"a": "1"}).status_code == 403

    token = client.get("/token").text
    response = client.post("/guarded", data={"a": "č"}, headers={"x-csrftoken": token})
    assert response.json() == {"posted": {"a": "č"}}
    client.cookies.clear()


# The larger one exceeds what Django keeps in memory.
@pytest.mark.parametrize("size", [0, 1000, 5_000_000], ids=str)
def test_upload(client: httpx.Client, size: int) -> None:
    """A file of a form arrives as it was sent."""
    content = random.Random(size).randbytes(size)
    response = client.post("/upload", files={"file": ("fïle.bin", content)})
    assert response.json() == {
        "name": "fïle.bin",
        "size": size,
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def test_body(client: httpx.Client) -> None:
    """A chunked body below Django's limit, and one above it."""
    content = random.Random(5).randbytes(2_000_000)
    response = client.put("/body", content=iter([content[:7], content[7:]]))
    assert response.text == hashlib.sha256(content).hexdigest()
    assert client.put("/body", content=bytes(3_000_000)).status_code == 400


def test_stream(client: httpx.Client) -> None:
    """Each part is here before the next is made."""
    name = unique("stream")

    with client.stream("GET", f"/stream/{name}") as response:
        parts = response.iter_text()

        for number in range(3):
            assert next(parts) == f"part {number}\n"
            open_gate(client, f"{name}-{number}")

        assert list(parts) == []


def test_client_leaves(client: httpx.Client) -> None:
    """The generator is closed, though it sends nothing."""
    name = unique("stream")

    with client.stream("GET", f"/stream/{name}") as response:
        next(response.iter_raw())

    left = time.monotonic()
    wait_for_gate(client, f"{name}-closed")
    assert time.monotonic() - left < NOTICE_SECONDS


def test_errors(client: httpx.Client, node: Node) -> None:
    """Django answers them itself, and writes to the standard error."""
    mark = unique("mark")
    response = client.get(f"/broken/{mark}")
    assert response.status_code == 500
    assert mark not in response.text
    assert client.get("/forbidden").status_code == 403
    assert client.get("/nothing").status_code == 404


def test_static_files(client: httpx.Client) -> None:
    """From the handler around the application; 304 for who has it."""
    response = client.get("/static/style.css")
    assert response.content == (E2E_DIR / "static" / "style.css").read_bytes()
    assert response.headers["content-type"] == "text/css"

    unchanged = client.get(
        "/static/style.css",
        headers={"if-modified-since": response.headers["last-modified"]},
    )
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert client.get("/static/none.css").status_code == 404


def test_lifespan(node: Node) -> None:
    """Django has none: `auto` starts without, `on` says so."""
    with serving(node, "django_app:application", "#{lifespan => off}") as url:
        assert httpx.get(f"{url}/sync").status_code == 200

    with (
        pytest.raises(StartError, match="only handle ASGI/HTTP") as failure,
        serving(node, "django_app:application", "#{lifespan => on}"),
    ):
        pass

    assert failure.value.reason.startswith("{lifespan_unsupported,")
