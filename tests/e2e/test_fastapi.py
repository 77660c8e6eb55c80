# SPDX-License-Identifier: Apache-2.0
"""FastAPI applications, driven over a socket."""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from e2e.apps.fastapi_flow import BARRIER_SIZE
from e2e.support import (
    ask_many,
    env_option,
    make_client,
    open_gate,
    serving,
    unique,
    wait_for_gate,
)
from node import Node

LARGE_BYTES = 5 * 1024 * 1024

MANY_REQUESTS = 2000
MANY_AT_A_TIME = 50
MANY_SECONDS = 60.0
"""Bound for all of them; the handlers' sleep alone takes two seconds."""


@pytest.fixture(scope="module")
def client(node: Node) -> Iterator[httpx.Client]:
    """A client of `fastapi_app`."""
    with serving(node, "fastapi_app:app") as url, make_client(url) as client:
        yield client


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that is larger than any buffer on its way."""
    path = tmp_path_factory.mktemp("fastapi") / "sample.bin"
    path.write_bytes(random.Random(7).randbytes(LARGE_BYTES))
    return path


@pytest.fixture(scope="module")
def flow(node: Node, sample: Path) -> Iterator[httpx.Client]:
    """A client of `fastapi_flow`."""
    options = f"#{{env => {env_option({'E2E_FILE': str(sample)})}}}"

    with serving(node, "fastapi_flow:app", options) as url, make_client(url) as client:
        yield client


# Parameters.


def test_path_parameters(client: httpx.Client) -> None:
    """They are decoded and converted; a path parameter may hold slashes."""
    response = client.get("/path/42/a/b%20c/%C4%8Daj")
    assert response.json() == {"number": 42, "rest": "a/b c/čaj"}
    assert client.get("/path/none/x").status_code == 422


def test_query_parameters(client: httpx.Client) -> None:
    """Repeated, missing, defaulted, escaped and wrong ones."""
    response = client.get("/query?q=a%26b+c%C3%A9&tag=x&tag=y&limit=3")
    assert response.json() == {"q": "a&b cé", "limit": 3, "tag": ["x", "y"]}
    assert client.get("/query?q=").json() == {"q": "", "limit": 10, "tag": []}

    wrong = client.get("/query?limit=0")
    assert wrong.status_code == 422
    assert [error["loc"] for error in wrong.json()["detail"]] == [
        ["query", "q"],
        ["query", "limit"],
    ]


def test_header_parameters(client: httpx.Client) -> None:
    """Names are matched in any case."""
    response = client.get("/header", headers={"X-TOKEN": "t", "X-Many": "one"})
    assert response.json() == {"x_token": "t", "x_many": ["one"]}
    assert client.get("/header").status_code == 422


def test_cookie_parameters(client: httpx.Client) -> None:
    """One cookie header with several cookies."""
    response = client.get("/cookie", headers={"cookie": "session=s1; theme=dark"})
    assert response.json() == {"session": "s1", "theme": "dark"}
    response = client.get("/cookie", headers={"cookie": "session=s1"})
    assert response.json() == {"session": "s1", "theme": "light"}
    assert client.get("/cookie").status_code == 422


# Bodies.


def test_json_body(client: httpx.Client) -> None:
    """Round trip through a model, text beyond ASCII included."""
    item = {"name": "čaj ☕", "price": 2.5, "tags": ["hot", "😀"]}
    assert client.post("/items", json=item).json() == item


@pytest.mark.parametrize(
    ("body", "places"),
    [
        (b'{"name": "", "price": -1}', [["body", "name"], ["body", "price"]]),
        (b'{"price": 1}', [["body", "name"]]),
        (b"[]", [["body"]]),
        (b"", [["body"]]),
        (b'{"name": ', [["body", 9]]),
    ],
)
def test_invalid_body(
    client: httpx.Client, body: bytes, places: list[list[object]]
) -> None:
    """Each fault is named with its place."""
    response = client.post(
        "/items", content=body, headers={"content-type": "application/json"}
    )
    assert response.status_code == 422
    assert [error["loc"] for error in response.json()["detail"]] == places


@pytest.mark.parametrize("size", [0, 1, 700, LARGE_BYTES], ids=str)
def test_upload(flow: httpx.Client, size: int) -> None:
    """A file of a form arrives as it was sent."""
    content = random.Random(size).randbytes(size)
    response = flow.post(
        "/upload",
        data={"comment": "a čaj"},
        files={"file": ("fïle.bin", content, "application/x-test")},
    )
    assert response.json() == {
        "comment": "a čaj",
        "filename": "fïle.bin",
        "content_type": "application/x-test",
        "size": size,
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def test_several_uploads(flow: httpx.Client) -> None:
    """In the order of the form."""
    contents = [b"one", b"two" * 100_000, b""]
    response = flow.post(
        "/uploads",
        files=[("files", (f"{n}", content)) for n, content in enumerate(contents)],
    )
    assert [(each["filename"], each["sha256"]) for each in response.json()] == [
        (f"{n}", hashlib.sha256(content).hexdigest())
        for n, content in enumerate(contents)
    ]


# Responses.


def test_response_model(client: httpx.Client) -> None:
    """Fields that are not in the model are not shown."""
    assert client.get("/user").json() == {"name": "Ada"}


def test_several_cookies(client: httpx.Client) -> None:
    """One header each, in order."""
    cookies = client.get("/set-cookies").headers.get_list("set-cookie")
    assert cookies == [
        "first=1; HttpOnly; Path=/; SameSite=lax",
        "second=2; Max-Age=60; Path=/; SameSite=lax",
        'third="a\\054 b"; Path=/; SameSite=lax',
    ]
    client.cookies.clear()


def test_redirect(client: httpx.Client) -> None:
    """By the application, and by the router for a missing slash."""
    response = client.get("/redirect")
    assert (response.status_code, response.headers["location"]) == (303, "/user")

    response = client.get("/slash")
    assert response.status_code == 307
    assert response.headers["location"] == f"{client.base_url}/slash/"


def test_head(client: httpx.Client) -> None:
    """The headers of GET and no body, and the connection goes on."""
    head = client.head("/text")
    get = client.get("/text")
    assert (head.status_code, head.content) == (200, b"")
    assert get.text == "some text"
    assert head.headers["content-length"] == get.headers["content-length"] == "9"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/not-modified", 304), ("DELETE", "/items/1", 204)],
)
def test_no_content(client: httpx.Client, method: str, path: str, status: int) -> None:
    """Neither body nor framing of one, and the connection goes on."""
    for _ in range(2):
        response = client.request(method, path)
        assert (response.status_code, response.content) == (status, b"")
        assert "transfer-encoding" not in response.headers
        assert response.headers.get("content-length", "0") == "0"


def test_what_the_application_knows_of_the_request(client: httpx.Client) -> None:
    """The URL is the one that was asked for, the client is this one."""
    who = client.get("/who?a=%20b").json()
    assert who == {
        "url": f"{client.base_url}/who?a=%20b",
        "client": "127.0.0.1",
        "user": f"{client.base_url}/user",
        "raw_path": "/who",
        "path": "/who",
    }


def test_host_header_makes_urls(client: httpx.Client) -> None:
    """As behind a proxy that passes it on."""
    who = client.get("/who", headers={"host": "shop.example"}).json()
    assert who["url"] == "http://shop.example/who"


def test_router(client: httpx.Client) -> None:
    """A prefix and a method of its own."""
    item = {"name": "n", "price": 1}
    response = client.put("/api/v1/things/3", json=item)
    assert response.json() == {"thing_id": 3, "name": "n"}

    response = client.get("/api/v1/things/3")
    assert (response.status_code, response.headers["allow"]) == (405, "PUT")
    assert client.get("/nothing").status_code == 404


def test_open_api(client: httpx.Client) -> None:
    """The generated pages are there."""
    assert "/api/v1/things/{thing_id}" in client.get("/openapi.json").json()["paths"]
    assert "swagger-ui" in client.get("/docs").text


def test_gzip(client: httpx.Client) -> None:
    """Compressed for who takes it."""
    response = client.get("/large")
    assert response.headers["content-encoding"] == "gzip"
    assert int(response.headers["content-length"]) < 1000
    assert response.text == "large " * 1000

    response = client.get("/large", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in response.headers
    assert response.text == "large " * 1000


def test_cors(client: httpx.Client) -> None:
    """Preflight, allowed, and from elsewhere."""
    preflight = {
        "origin": "https://shop.example",
        "access-control-request-method": "PUT",
        "access-control-request-headers": "x-token",
    }
    response = client.options("/user", headers=preflight)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "https://shop.example"
    assert "PUT" in response.headers["access-control-allow-methods"]

    response = client.get("/user", headers={"origin": "https://shop.example"})
    assert response.headers["access-control-allow-credentials"] == "true"
    response = client.get("/user", headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in response.headers
    preflight["origin"] = "https://evil.example"
    assert client.options("/user", headers=preflight).status_code == 400


# Errors.


def test_exception_handlers(client: httpx.Client) -> None:
    """HTTPException, and one of the application's own."""
    response = client.get("/teapot")
    assert response.status_code == 418
    assert response.json() == {"detail": "short and stout"}
    assert response.headers["x-kind"] == "teapot"

    response = client.get("/colour")
    assert (response.status_code, response.json()) == (422, {"colour": "mauve"})


def test_unhandled_exception(client: httpx.Client, node: Node) -> None:
    """500 without detail; the traceback is in the log, with the id of the request."""
    mark = unique("mark")
    response = client.get(f"/broken/{mark}")
    assert (response.status_code, response.text) == (500, "Internal Server Error")

    report = node.wait_for_output(
        rf"request \d+: GET /broken/{mark}: (?s:.{{1,30000}}?)"
        rf"RuntimeError: broken on purpose: {mark}"
    )
    assert "Traceback (most recent call last):" in report[0]
    assert "fastapi_app.py" in report[0]
    assert client.get("/text").text == "some text"


# Threads.


def test_def_endpoint_runs_in_a_thread(flow: httpx.Client) -> None:
    """Not on the event loop."""
    assert flow.get("/thread").json() == {"is_main": False}


def test_def_endpoints_run_side_by_side(flow: httpx.Client) -> None:
    """None of them returns before all are inside."""
    with ThreadPoolExecutor(BARRIER_SIZE) as pool:
        responses = pool.map(flow.get, ["/barrier"] * BARRIER_SIZE)
        places = [response.json()["place"] for response in responses]

    assert sorted(places) == list(range(BARRIER_SIZE))


# Background tasks and dependencies.


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_background_task(flow: httpx.Client, kind: str) -> None:
    """The response is complete while the task has not ended; then it ends."""
    name = unique("task")
    assert flow.get(f"/background/{kind}/{name}").json() == {"answered": name}
    open_gate(flow, f"{name}-go")
    wait_for_gate(flow, f"{name}-done")


def test_background_task_fails(flow: httpx.Client, node: Node) -> None:
    """The response is untouched, the error is logged."""
    name = unique("task")
    response = flow.get(f"/background/broken/{name}")
    assert (response.status_code, response.json()) == (200, {"answered": name})
    node.wait_for_output(f"RuntimeError: background task broken on purpose: {name}")


def test_async_dependency(flow: httpx.Client) -> None:
    """It is closed after the endpoint, and sees how that ended."""
    name = unique("connection")
    response = flow.get("/dependency/async", params={"name": name})
    assert response.json() == {"is_open": True}
    wait_for_gate(flow, f"{name}-committed")

    name = unique("connection")
    response = flow.get("/dependency/async", params={"name": name, "fail": True})
    assert (response.status_code, response.json()) == (409, {"detail": "as asked"})
    wait_for_gate(flow, f"{name}-rolled-back")


def test_sync_dependency(flow: httpx.Client) -> None:
    """A generator that runs in threads."""
    name = unique("connection")
    response = flow.get("/dependency/sync", params={"name": name})
    assert response.json() == {"is_open": True}
    wait_for_gate(flow, f"{name}-closed")


# Streams.


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_stream_arrives_as_it_is_produced(flow: httpx.Client, kind: str) -> None:
    """The generator goes on only when its last part has been read here."""
    name = unique("stream")

    with flow.stream("GET", f"/stream/{kind}/{name}") as response:
        parts = response.iter_text()

        for number in range(3):
            assert next(parts) == f"part {number}\n"
            open_gate(flow, f"{name}-{number}")

        assert list(parts) == []

    assert response.headers["transfer-encoding"] == "chunked"


def test_stream_breaks(flow: httpx.Client, node: Node) -> None:
    """The connection is cut: a half response never looks like a whole one."""
    name = unique("stream")

    with (
        pytest.raises(httpx.RemoteProtocolError),
        flow.stream("GET", f"/stream/broken/{name}") as response,
    ):
        assert response.status_code == 200
        response.read()

    node.wait_for_output(f"RuntimeError: stream broken on purpose: {name}")
    assert flow.get("/thread").status_code == 200


def test_large_stream(flow: httpx.Client) -> None:
    """Many windows' worth, all of it, in order."""
    digest = hashlib.sha256()

    with flow.stream("GET", "/stream/large") as response:
        for chunk in response.iter_bytes():
            digest.update(chunk)

    expected = b"".join(bytes([number + 32]) * 65536 for number in range(64))
    assert digest.digest() == hashlib.sha256(expected).digest()


# Files.


def test_file(flow: httpx.Client, sample: Path) -> None:
    """All of it, with what is needed to ask for parts later."""
    response = flow.get("/file")
    assert response.content == sample.read_bytes()
    assert response.headers["content-length"] == str(LARGE_BYTES)
    assert response.headers["accept-ranges"] == "bytes"
    assert "s%C3%A4mple.bin" in response.headers["content-disposition"]
    assert response.headers["last-modified"].endswith(" GMT")


def test_head_of_a_file(flow: httpx.Client) -> None:
    """Its length and no body."""
    response = flow.head("/file")
    # FastAPI adds no HEAD to a GET route.
    assert (response.status_code, response.content) == (405, b"")


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=10-19", 10, 19),
        (f"bytes={LARGE_BYTES - 100}-", LARGE_BYTES - 100, LARGE_BYTES - 1),
        ("bytes=-7", LARGE_BYTES - 7, LARGE_BYTES - 1),
        ("bytes=100-3000000", 100, 3000000),
    ],
)
def test_range(
    flow: httpx.Client, sample: Path, asked: str, start: int, end: int
) -> None:
    """206 with that part."""
    response = flow.get("/file", headers={"range": asked})
    assert response.status_code == 206
    assert response.headers["content-range"] == f"bytes {start}-{end}/{LARGE_BYTES}"
    assert response.content == sample.read_bytes()[start : end + 1]


def test_several_ranges(flow: httpx.Client, sample: Path) -> None:
    """In one response of several parts."""
    response = flow.get("/file", headers={"range": "bytes=0-9,200-209"})
    assert response.status_code == 206
    boundary = re.fullmatch(
        r"multipart/byteranges; boundary=(\w+)", response.headers["content-type"]
    )
    assert boundary
    parts = response.content.split(b"--" + boundary[1].encode())
    content = sample.read_bytes()
    assert content[:10] in parts[1]
    assert content[200:210] in parts[2]


def test_range_that_is_not_there(flow: httpx.Client) -> None:
    """416 with the length."""
    response = flow.get("/file", headers={"range": f"bytes={LARGE_BYTES}-"})
    assert response.status_code == 416
    assert response.headers["content-range"] == f"bytes */{LARGE_BYTES}"


def test_range_if_unchanged(flow: httpx.Client) -> None:
    """The part for who has the same version, else all."""
    etag = flow.get("/file").headers["etag"]
    same = {"range": "bytes=0-9", "if-range": etag}
    assert flow.get("/file", headers=same).status_code == 206
    other = {"range": "bytes=0-9", "if-range": '"other"'}
    assert flow.get("/file", headers=other).status_code == 200


# Many.


def test_many_requests(client: httpx.Client) -> None:
    """All are answered, and handlers that sleep do so side by side."""
    url = str(client.base_url)
    started = time.monotonic()
    answers = ask_many(
        url, "GET", "/sleep", times=MANY_REQUESTS, connections=MANY_AT_A_TIME
    )
    assert [answer.status for answer in answers] == [200] * MANY_REQUESTS
    # One after the other would take 100 seconds.
    assert time.monotonic() - started < MANY_SECONDS
