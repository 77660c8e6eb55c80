# SPDX-License-Identifier: Apache-2.0
"""A Quart application, driven over a socket."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator

import httpx
import pytest

from e2e.support import make_client, open_gate, serving, unique, wait_for_gate
from node import Node

NOTICE_SECONDS = 2.0
"""How soon an application must have noticed that its client has gone."""


@pytest.fixture(scope="module")
def client(node: Node) -> Iterator[httpx.Client]:
    """A client of `quart_app`."""
    with serving(node, "quart_app:app") as url, make_client(url) as client:
        yield client


def test_route(client: httpx.Client) -> None:
    """Parameters of path and query, and what the application knows of the request."""
    assert client.get("/items/7/a/b%20c?tag=1&tag=%C4%8D").json() == {
        "item_id": 7,
        "rest": "a/b c",
        "tags": ["1", "č"],
        "url": f"{client.base_url}/items/7/a/b%20c?tag=1&tag=č",
        "here": f"{client.base_url}/items/7/a/b%20c",
        "client": "127.0.0.1",
    }
    assert client.get("/items/none/x").status_code == 404


def test_json(client: httpx.Client) -> None:
    """Round trip; what is no JSON is refused."""
    value = {"a": [1, 2.5, None, "čaj ☕"]}
    assert client.post("/json", json=value).json() == value
    broken = client.post(
        "/json", content=b"{", headers={"content-type": "application/json"}
    )
    assert broken.status_code == 400


def test_form(client: httpx.Client) -> None:
    """Fields and a file."""
    content = random.Random(3).randbytes(300_000)
    response = client.post("/form", data={"a": "č"}, files={"f": ("n", content)})
    assert response.json() == {
        "fields": {"a": ["č"]},
        "files": {"f": ["n", hashlib.sha256(content).hexdigest()]},
    }


def test_upload(client: httpx.Client) -> None:
    """A body that is read as it comes, larger than a window."""
    content = random.Random(4).randbytes(3_000_000)
    response = client.put("/upload", content=content)
    assert response.text == hashlib.sha256(content).hexdigest()


def test_after_request(client: httpx.Client) -> None:
    """Also of errors."""
    assert client.get("/started").headers["x-mark"] == "after_request"
    missing = client.get("/missing")
    assert (missing.status_code, missing.json()) == (404, {"missing": "/missing"})
    assert missing.headers["x-mark"] == "after_request"
    assert client.get("/abort").status_code == 403


def test_sync_view(client: httpx.Client) -> None:
    """It runs in a thread."""
    assert client.get("/sync").text == "from a thread"


def test_head(client: httpx.Client) -> None:
    """The length of the body and none of it."""
    head = client.head("/sync")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == "13"


def test_session(client: httpx.Client) -> None:
    """A signed cookie that comes back."""
    assert [client.get("/visits").json()["visits"] for _ in range(3)] == [1, 2, 3]
    client.cookies.clear()


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


def test_unhandled_exception(client: httpx.Client, node: Node) -> None:
    """500, and the traceback is in the node's output."""
    mark = unique("mark")
    assert client.get(f"/broken/{mark}").status_code == 500
    node.wait_for_output(
        rf"(?s)Traceback .{{1,20000}}?RuntimeError: quart broken on purpose: {mark}"
    )
    assert client.get("/started").status_code == 200


def test_before_and_after_serving(node: Node) -> None:
    """Once each, before the first request and when the server stops."""
    printed = len(node.logged())

    with serving(node, "quart_app:app", "#{lifespan => on}") as url:
        assert httpx.get(f"{url}/started").json() == ["before_serving"]
        assert "quart: after_serving" not in node.output[printed:]

    node.wait_for_output(r"quart: after_serving", since=printed)
    assert node.output.count("quart: before_serving", printed) == 1
    assert node.output.count("quart: after_serving", printed) == 1
