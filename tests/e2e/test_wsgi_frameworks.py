# SPDX-License-Identifier: Apache-2.0
"""Flask, Django by its WSGI handler, and Bottle, driven over a socket."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from e2e.observe import Server
from e2e.raw import wait_until
from e2e.support import E2E_DIR, make_client, unique
from e2e.wsgi import serving
from node import Node

APPS = {
    "flask": "wsgi_flask:app",
    "django": "wsgi_django:application",
    "bottle": "wsgi_bottle:app",
}


@pytest.fixture(scope="module")
def flask_server(node: Node) -> Iterator[Server]:
    node.eval(
        "hornbeam:register_function(wsgi_add, fun(A, B) -> A + B end)",
    )

    with serving(node, "#{workers => 2}", app=APPS["flask"]) as server:
        yield server


@pytest.fixture(scope="module")
def django_server(node: Node) -> Iterator[Server]:
    with serving(node, "#{workers => 2}", app=APPS["django"]) as server:
        yield server


@pytest.fixture(scope="module")
def bottle_server(node: Node) -> Iterator[Server]:
    with serving(node, "#{workers => 2}", app=APPS["bottle"]) as server:
        yield server


@pytest.fixture
def flask(flask_server: Server) -> Iterator[httpx.Client]:
    with make_client(flask_server.url) as client:
        yield client


@pytest.fixture
def django(django_server: Server) -> Iterator[httpx.Client]:
    with make_client(django_server.url) as client:
        yield client


@pytest.fixture
def bottle(bottle_server: Server) -> Iterator[httpx.Client]:
    with make_client(bottle_server.url) as client:
        yield client


@pytest.fixture(params=["flask", "django", "bottle"])
def client(request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    with make_client(request.getfixturevalue(f"{request.param}_server").url) as client:
        yield client


# All of them.


def test_shared_counter(client: httpx.Client) -> None:
    """Counted by both workers and all threads: no number twice."""
    path = f"/views/{unique('name')}"

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.get(path).json(), range(40)))

    assert sorted(answer["views"] for answer in answers) == list(range(1, 41))


# The larger one exceeds what is gathered, and what is kept in memory.
@pytest.mark.parametrize("size", [0, 1000, 3_000_000], ids=str)
def test_upload(client: httpx.Client, size: int) -> None:
    """A file of a form arrives as it was sent."""
    content = random.Random(size).randbytes(size)
    response = client.post("/upload", files={"file": ("fïle.bin", content)})
    assert response.json() == {
        "name": "fïle.bin",
        "size": size,
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def test_head(client: httpx.Client) -> None:
    """The length of the body and none of it."""
    head = client.head(f"/views/{unique('name')}")
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) > 0


def test_missing(client: httpx.Client) -> None:
    assert client.get("/nothing").status_code == 404


@pytest.mark.parametrize("name", ["flask", "django"])
def test_stream(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The first part is here before the second is made."""
    client: httpx.Client = request.getfixturevalue(name)
    gate = tmp_path / "gate"

    with client.stream("GET", "/stream", params={"until": str(gate)}) as response:
        lines = response.iter_lines()
        assert next(lines) == "first"
        gate.touch()
        assert next(lines).startswith("second")
        assert list(lines) == []


@pytest.mark.parametrize("name", ["flask", "django"])
def test_file(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """By the wrapper that both take from the environ: the node sends it."""
    client: httpx.Client = request.getfixturevalue(name)
    path = tmp_path / "large.bin"
    path.write_bytes(random.Random(7).randbytes(2_000_000))
    response = client.get("/file", params={"path": str(path)})
    assert response.content == path.read_bytes()
    assert response.headers["content-length"] == "2000000"


@pytest.mark.parametrize("name", ["flask", "django"])
def test_session(name: str, request: pytest.FixtureRequest) -> None:
    """A signed cookie that comes back, to whichever worker."""
    client: httpx.Client = request.getfixturevalue(name)
    assert [client.get("/visits").json()["visits"] for _ in range(4)] == [1, 2, 3, 4]


# Flask.


def test_flask_calls_erlang(flask: httpx.Client) -> None:
    assert flask.get("/sum?a=2&b=40").json() == {"sum": 42}


def test_flask_template(flask: httpx.Client) -> None:
    """Text beyond ASCII, and escaped where it must be."""
    response = flask.get("/page", params={"name": "č <b>"})
    assert response.text == "<p>č &lt;b&gt;</p>"


def test_flask_json(flask: httpx.Client) -> None:
    """With a length, and in chunks, which wsgi.input_terminated allows."""
    document = {"list": [1, "č"]}
    assert flask.post("/json", json=document).json() == document
    chunked = flask.post(
        "/json",
        content=iter([b'{"list": ', b"[]}"]),
        headers={"content-type": "application/json"},
    )
    assert chunked.json() == {"list": []}


def test_flask_range(flask: httpx.Client, tmp_path: Path) -> None:
    """A part of a file, and 304 for who has it."""
    path = tmp_path / "file.bin"
    path.write_bytes(random.Random(8).randbytes(500_000))
    params = {"path": str(path)}
    part = flask.get("/file", params=params, headers={"range": "bytes=1000-299999"})
    assert (part.status_code, part.content) == (206, path.read_bytes()[1000:300_000])
    etag = flask.get("/file", params=params).headers["etag"]
    unchanged = flask.get("/file", params=params, headers={"if-none-match": etag})
    assert (unchanged.status_code, unchanged.content) == (304, b"")


def test_flask_url(flask: httpx.Client) -> None:
    url = f"{flask.base_url}/url?q=%C4%8D"
    assert flask.get(url).json() == {
        "url": f"{flask.base_url}/url?q=č",
        "client": "127.0.0.1",
        "root": "",
    }


def test_flask_errors(flask: httpx.Client, node: Node) -> None:
    """Flask answers them itself, and writes to wsgi.errors: with the request's id."""
    mark = unique("mark")
    response = flask.get("/fails", params={"mark": mark})
    assert response.status_code == 500
    assert mark not in response.text
    node.wait_for_output(rf"request \d+: RuntimeError: flask failed on purpose: {mark}")
    assert flask.get("/forbidden").status_code == 403


# Django.


def test_django_request(django: httpx.Client) -> None:
    agent = {"user-agent": "test/1"}
    assert django.get("/about?tag=1&tag=%C4%8D", headers=agent).json() == {
        "url": f"{django.base_url}/about?tag=1&tag=%C4%8D",
        "tags": ["1", "č"],
        "agent": "test/1",
        "client": "127.0.0.1",
    }


def test_django_csrf(django: httpx.Client) -> None:
    """A form without its token is refused, one with it is taken; also in chunks."""
    assert django.post("/guarded", data={"a": "1"}).status_code == 403
    token = django.get("/token").text
    response = django.post("/guarded", data={"a": "č"}, headers={"x-csrftoken": token})
    assert response.json() == {"posted": {"a": "č"}}
    headers = {
        "x-csrftoken": token,
        "content-type": "application/x-www-form-urlencoded",
    }
    response = django.post("/guarded", content=iter([b"a=", b"1"]), headers=headers)
    assert response.json() == {"posted": {"a": "1"}}


def test_django_redirect(django: httpx.Client) -> None:
    response = django.get("/slash")
    assert (response.status_code, response.headers["location"]) == (301, "/slash/")


def test_django_static_files(django: httpx.Client) -> None:
    """By whitenoise; 304 for who has it."""
    response = django.get("/style.css")
    assert response.content == (E2E_DIR / "static" / "style.css").read_bytes()
    assert response.headers["content-type"].startswith("text/css")
    since = {"if-modified-since": response.headers["last-modified"]}
    unchanged = django.get("/style.css", headers=since)
    assert (unchanged.status_code, unchanged.content) == (304, b"")


def test_django_client_leaves(
    django: httpx.Client, django_server: Server, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"

    with django.stream("GET", "/stream", params={"until": str(gate)}) as response:
        next(response.iter_raw())

    gate.touch()
    wait_until(lambda: django_server.in_flight() == 0, "the thread is free")


def test_django_errors(django: httpx.Client, node: Node) -> None:
    """Django answers them itself."""
    mark = unique("mark")
    response = django.get(f"/broken/{mark}")
    assert response.status_code == 500
    assert mark not in response.text
    assert django.get("/about", headers={"host": "evil.example"}).status_code == 400


# Bottle.


def test_bottle_form(bottle: httpx.Client) -> None:
    response = bottle.post("/form", data={"a": "č", "b": "2"})
    assert response.json() == {"a": "č", "b": "2"}


def test_bottle_chunked_body(bottle: httpx.Client) -> None:
    """Bottle takes one without a length for none: what is gathered has one."""
    content = random.Random(9).randbytes(30_000)
    response = bottle.post("/body", content=iter([content[:7], content[7:]]))
    assert response.text == hashlib.sha256(content).hexdigest()


def test_bottle_stream(bottle: httpx.Client) -> None:
    assert bottle.get("/stream").text == "part 0\npart 1\npart 2\n"


def test_bottle_file(bottle: httpx.Client, tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(random.Random(7).randbytes(500_000))
    response = bottle.get("/file/large.bin", params={"root": str(tmp_path)})
    assert response.content == path.read_bytes()


def test_bottle_status(bottle: httpx.Client) -> None:
    response = bottle.get("/teapot")
    assert (response.status_code, response.text) == (418, "short and stout")
    assert response.headers["x-pot"] == "1"


def test_bottle_errors(bottle: httpx.Client, node: Node) -> None:
    assert bottle.get("/fails").status_code == 500
    node.wait_for_output(r"request \d+: RuntimeError: bottle failed on purpose")
