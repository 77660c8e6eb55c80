# SPDX-License-Identifier: Apache-2.0
"""Files that the node sends: `http.response.pathsend` on bare sockets."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from e2e import http2
from e2e.certificates import Authority
from e2e.observe import FREEING, Server, resident_bytes, serving
from e2e.raw import Connection, Cut, chunked, request, settled, wait_until
from e2e.raw_apps import files
from node import Node

MEBIBYTE = 1 << 20
GIBIBYTE = 1 << 30
LARGE_BYTES = 5 * MEBIBYTE + 17

SIZES = [0, 1, 65535, 65536, 65537, 1 << 18, LARGE_BYTES]
"""About the part that the node sends at once, which is 64 KiB."""


@pytest.fixture(scope="module")
def server(node: Node) -> Iterator[Server]:
    with serving(node, "files") as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Connection]:
    with Connection(server.url) as connection:
        yield connection


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_file(tmp_path_factory.mktemp("files") / "large", LARGE_BYTES)


def make_file(path: Path, size: int) -> Path:
    path.write_bytes(os.urandom(size))
    return path


def make_sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)

    return path


def target(path: object, name: str = "", **asked: object) -> str:
    """The target of a request for a file; the gate `name` tells what came of it."""
    name = name or uuid.uuid4().hex
    return f"/file/{name}?{quote(json.dumps({'path': str(path), **asked}))}"


def outcome(server: Server, name: str) -> str:
    with Connection(server.url) as connection:
        return connection.get(f"/wait/{name}").text.strip("'\"")


# Whole files.


@pytest.mark.parametrize("size", SIZES)
def test_sizes(client: Connection, tmp_path: Path, size: int) -> None:
    """The bytes of the file, with a length, and the connection goes on."""
    path = make_file(tmp_path / "f", size)

    for _ in range(2):
        response = client.get(target(path))
        assert response.status == 200
        assert response.one("content-length") == str(size).encode()
        assert response.one("transfer-encoding") is None
        assert response.body == path.read_bytes()
        assert response.keeps_alive


@pytest.mark.parametrize("size", [5, LARGE_BYTES])
def test_given_length(client: Connection, tmp_path: Path, size: int) -> None:
    path = make_file(tmp_path / "f", size)
    headers = [("content-length", str(size)), ("x-a", "b")]
    response = client.get(target(path, headers=headers))
    assert response.body == path.read_bytes()
    assert response.one("content-length") == str(size).encode()
    assert response.one("x-a") == b"b"


def test_head(client: Connection, large: Path) -> None:
    """No body, the length of what GET would give, and the connection goes on."""
    for path, size in ((large, LARGE_BYTES), (files.__file__, None)):
        response = client.exchange("HEAD", target(path))
        size = size or Path(path).stat().st_size
        assert response.one("content-length") == str(size).encode()
        assert response.body == b""

    assert client.get(target(large)).body == large.read_bytes()


@pytest.mark.parametrize("status", [204, 304])
def test_bodiless_status(client: Connection, large: Path, status: int) -> None:
    assert client.get(target(large, status=status)).body == b""
    assert client.get(target(files.__file__, status=status)).body == b""
    assert client.get(target(large)).body == large.read_bytes()


def test_old_client(server: Server, large: Path) -> None:
    """HTTP/1.0: a length too."""
    with Connection(server.url) as connection:
        connection.send(request(target=target(large), version="1.0"))
        response = connection.read_response()

    assert response.one("content-length") == str(LARGE_BYTES).encode()
    assert response.body == large.read_bytes()


@pytest.mark.parametrize("size", [5, LARGE_BYTES])
def test_behind_other_parts(client: Connection, tmp_path: Path, size: int) -> None:
    """What the application has sent before comes before it."""
    path = make_file(tmp_path / "f", size)
    parts = ["first ", "second "]
    response = client.get(target(path, parts=parts))
    assert response.body == b"first second " + path.read_bytes()
    assert response.one("transfer-encoding") == b"chunked"

    headers = [("content-length", str(13 + size))]
    response = client.get(target(path, parts=parts, headers=headers))
    assert response.body == b"first second " + path.read_bytes()
    assert client.exchange("HEAD", target(path, parts=parts)).body == b""
    assert client.get("/cwd").status == 200


def test_pipelined(client: Connection, large: Path, tmp_path: Path) -> None:
    """Files and other responses in the order of their requests."""
    small = make_file(tmp_path / "small", 100)
    targets = [target(large), "/cwd", target(small), target(large), "/cwd"]
    client.send(b"".join(request(target=each) for each in targets))
    bodies = [client.read_response().body for _ in targets]
    assert bodies[0] == bodies[3] == large.read_bytes()
    assert bodies[2] == small.read_bytes()
    assert bodies[1] == bodies[4] == os.getcwd().encode()


@pytest.mark.parametrize("read", [True, False])
def test_answer_to_an_upload(server: Server, large: Path, *, read: bool) -> None:
    """With a length and chunked, read by the application or not."""
    body = b"x" * 100_000

    with Connection(server.url) as connection:
        response = connection.post(target(large, read=read), body)
        assert response.body == large.read_bytes()

    with Connection(server.url) as connection:
        head = [("Transfer-Encoding", "chunked")]
        connection.send(request("POST", target(large, read=read), head))
        connection.send(chunked(body))
        response = connection.read_response("POST")
        assert response.body == large.read_bytes()
        assert response.one("content-length") == str(LARGE_BYTES).encode()


@pytest.mark.parametrize("size", [5, 30 * MEBIBYTE])
def test_unlinked_after_send(client: Connection, tmp_path: Path, size: int) -> None:
    """send() has returned: the node has the file, whatever becomes of its name."""
    path = make_file(tmp_path / "f", size)
    expected = path.read_bytes()
    client.send(request(target=target(path, unlink=True)))
    incoming = client.start_response()
    wait_until(lambda: not path.exists(), "the file is gone")
    assert incoming.finish().body == expected


def test_http2(server: Server, large: Path, tmp_path: Path) -> None:
    """The same by HTTP/2, several at a time."""
    small = make_file(tmp_path / "small", 100)

    with httpx.Client(
        base_url=server.url, http1=False, http2=True, trust_env=False
    ) as client:
        for path in (large, small, large):
            response = client.get(target(path))
            assert response.http_version == "HTTP/2"
            assert response.content == path.read_bytes()
            assert response.headers["content-length"] == str(path.stat().st_size)

        assert client.get(target(large, parts=["a"])).content[:1] == b"a"
        assert client.head(target(large)).headers["content-length"]
        missing = client.get(target("/nonexistent"))
        assert missing.status_code == 500


def test_http2_windows(server: Server, large: Path, tmp_path: Path) -> None:
    """A file waits for the windows of its stream; others pass it meanwhile."""
    small = make_file(tmp_path / "small", 100)

    with http2.Client(server.url, gives_window=False) as client:
        slow = client.request(target(large))
        client.pump(lambda: len(client.streams[slow].body) >= 60_000, "a window full")
        client.give_window(MEBIBYTE)
        assert client.get(target(small)).body == small.read_bytes()
        assert not client.streams[slow].is_over
        client.give_window(LARGE_BYTES)
        client.give_window(LARGE_BYTES, slow)
        assert client.finish(slow).body == large.read_bytes()


def test_tls(node: Node, large: Path, tmp_path: Path) -> None:
    """Where bytes are encrypted there is no sendfile, but the rest is the same."""
    authority = Authority(tmp_path / "tls")
    context = authority.context()

    with serving(node, "files", authority.issue("server").options()) as server:
        with Connection(server.url, tls=context, server_name="localhost") as client:
            assert client.get(target(large)).body == large.read_bytes()
            assert client.get(target(files.__file__)).status == 200
            path = make_sparse(tmp_path / "f", 64 * MEBIBYTE)
            client.send(request(target=target(path)))
            incoming = client.start_response()
            incoming.read_until(1)
            os.truncate(path, MEBIBYTE)

            with pytest.raises(Cut):
                incoming.finish()

        with httpx.Client(base_url=server.url, http2=True, verify=context) as two:
            response = two.get(target(large))
            assert response.http_version == "HTTP/2"
            assert response.content == large.read_bytes()


def test_unix_socket(node: Node, tmp_path: Path, large: Path) -> None:
    options = f'#{{bind => "unix:{tmp_path}/s"}}'

    with serving(node, "files", options), Connection(f"unix:{tmp_path}/s") as client:
        assert client.get(target(large)).body == large.read_bytes()


# What a path may be.


def test_symbolic_link(client: Connection, large: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(large)
    assert client.get(target(link)).body == large.read_bytes()


def test_name_of_any_letters(client: Connection, tmp_path: Path) -> None:
    path = make_file(tmp_path / "größe 日本 %41\n", 3)
    assert client.get(target(path)).body == path.read_bytes()


def test_relative_path(node: Node, client: Connection, tmp_path: Path) -> None:
    """Below the folder that the worker runs in, which need not be the node's."""
    make_file(tmp_path / "f", 10)

    with (
        serving(node, "files", f'#{{chdir => <<"{tmp_path}">>}}') as elsewhere,
        Connection(elsewhere.url) as connection,
    ):
        assert connection.get(target("f")).body == (tmp_path / "f").read_bytes()


# What can't be sent: the application gets an error, the client one or something else.


def check_refused(server: Server, path: object, error: str, **asked: object) -> None:
    name = uuid.uuid4().hex

    with Connection(server.url) as connection:
        assert connection.get(target(path, name, **asked)).status == 500
        assert connection.get("/cwd").status == 200

    assert error in outcome(server, name)


def test_missing_file(server: Server) -> None:
    check_refused(server, "/nonexistent/f", "FileNotFoundError: [Errno 2] No such file")


def test_folder(server: Server, tmp_path: Path) -> None:
    check_refused(server, tmp_path, "IsADirectoryError: [Errno 21]")


def test_below_a_file(server: Server, large: Path) -> None:
    check_refused(server, large / "x", "NotADirectoryError: [Errno 20]")


def test_loop_of_links(server: Server, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    check_refused(server, tmp_path / "loop", "OSError: [Errno 40]")


def test_pipe_and_device(server: Server, tmp_path: Path) -> None:
    """Nothing waits for a writer of a named pipe."""
    os.mkfifo(tmp_path / "pipe")
    error = "OSError: [Errno 22] is neither a file nor a folder"
    check_refused(server, tmp_path / "pipe", error)
    check_refused(server, "/dev/zero", error)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_unreadable_file(server: Server, tmp_path: Path) -> None:
    path = make_file(tmp_path / "f", 10)
    path.chmod(0)
    check_refused(server, path, "PermissionError: [Errno 13]")


@pytest.mark.parametrize("size", [10, LARGE_BYTES])
@pytest.mark.parametrize("difference", [-1, 1])
def test_other_length(
    server: Server, tmp_path: Path, size: int, difference: int
) -> None:
    """The file has changed since the application has looked at it."""
    path = make_file(tmp_path / "f", size)
    headers = [("content-length", str(size + difference))]
    error = f"ContentLengthMismatch: {path} has {size} bytes, content-length leaves"
    check_refused(server, path, error, headers=headers)


def test_refused_after_the_start(server: Server) -> None:
    """Too late for another answer: the response is cut."""
    with Connection(server.url) as connection:
        connection.send(request(target=target("/nonexistent", parts=["a"])))

        with pytest.raises(Cut) as cut:
            connection.read_response()

    assert cut.value.received == b"a"


def test_something_else_in_its_place(client: Connection) -> None:
    response = client.get("/fallback")
    assert (response.status, response.body) == (200, b"instead of it")
    assert response.one("x-kind") == b"a"


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("none", "TypeError: path is a str, bytes or os.PathLike, not nothing"),
        ("number", "TypeError: path is a str, bytes or os.PathLike, not int"),
        ("empty", "ValueError: path is the path of a file, not ''"),
        ("nul", r"ValueError: path is the path of a file, not '/tmp/\x00'"),
        (
            "first",
            "AsgiOrderError: expected 'http.response.start',"
            " got 'http.response.pathsend'",
        ),
        (
            "trailers",
            "ValueError: no trailers can follow a file that the server sends",
        ),
    ],
)
def test_wrong_message(client: Connection, what: str, error: str) -> None:
    assert client.get(f"/wrong/{what}").text == error


def test_body_after_a_file(server: Server, client: Connection) -> None:
    assert client.get("/twice").body == Path(files.__file__).read_bytes()
    assert outcome(server, "twice").startswith("AsgiOrderError: expected nothing more")


def test_other_extensions_are_ignored(client: Connection) -> None:
    """Push and debug: no error, and nothing of it is sent."""
    response = client.get("/ignored")
    assert (response.status, response.body) == (200, b"ab")


# While it is sent.


def test_file_that_shrinks(server: Server, tmp_path: Path) -> None:
    """Cut where the file ends: what is there is no end of the response."""
    path = make_sparse(tmp_path / "f", 64 * MEBIBYTE)

    with Connection(server.url, receive_buffer=4096) as connection:
        connection.send(request(target=target(path)) + request(target="/cwd"))
        incoming = connection.start_response()
        incoming.read_until(1)
        os.truncate(path, MEBIBYTE)

        with pytest.raises(Cut) as cut:
            incoming.finish()

    assert len(cut.value.received) < 64 * MEBIBYTE
    assert not cut.value.received.strip(b"\0")
    server.node.wait_for_output("the file became shorter while it was sent")


def test_file_that_shrinks_http2(server: Server, tmp_path: Path) -> None:
    path = make_sparse(tmp_path / "f", 64 * MEBIBYTE)

    with (
        httpx.Client(base_url=server.url, http1=False, http2=True) as client,
        client.stream("GET", target(path)) as response,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        parts = response.iter_raw()
        next(parts)
        os.truncate(path, 0)

        for _ in parts:
            pass


@pytest.mark.parametrize("version", [1, 2])
def test_client_that_reads_nothing(tmp_path: Path, version: int) -> None:
    """A gigabyte for it costs neither memory nor a place in the worker."""
    path = make_sparse(tmp_path / "f", GIBIBYTE)
    small = make_file(tmp_path / "g", MEBIBYTE)

    with Node(env=FREEING) as node, serving(node, "files") as server:
        name = uuid.uuid4().hex
        warm_up(server.url, small, version)
        pids = [node.os_pid, *server.worker_pids()]
        before = [resident_bytes(pid) for pid in pids]

        with stalled(server.url, target(path, name), version):
            assert outcome(server, name) == "http.disconnect"
            wait_until(lambda: server.in_flight() == 0, "the application has left")
            growth = [
                settled(partial(resident_bytes, pid)) - size
                for pid, size in zip(pids, before, strict=True)
            ]
            assert max(growth) < 4 * MEBIBYTE, growth
            assert is_open(node, path)

        wait_until(lambda: server.connections() == 0, "the node sees that it has gone")
        wait_until(lambda: not is_open(node, path), "the file is closed")


def warm_up(url: str, path: Path, version: int) -> None:
    """The first of its kind makes heaps and buffers that are kept."""
    if version == 1:
        with Connection(url) as client:
            assert client.get(target(path)).status == 200
    else:
        with http2.Client(url) as client:
            assert client.get(target(path)).status == 200


@contextmanager
def stalled(url: str, asked: str, version: int) -> Iterator[None]:
    """A client that asks, and reads nothing of the body."""
    if version == 1:
        with Connection(url) as client:
            client.send(request(target=asked))
            assert client.start_response().status == 200
            yield
    else:
        with http2.Client(url, gives_window=False) as client:
            client.request(asked)
            yield


def test_slow_reader_gets_everything(client: Connection, tmp_path: Path) -> None:
    path = make_file(tmp_path / "f", 24 * MEBIBYTE)
    client.send(request(target=target(path)))
    incoming = client.start_response()
    settled(lambda: int(client.is_readable()), seconds=0.2)
    assert incoming.finish().body == path.read_bytes()


def test_send_timeout(node: Node, tmp_path: Path) -> None:
    """Who takes nothing for so long is cut off; who takes something is not."""
    path = make_sparse(tmp_path / "f", 32 * MEBIBYTE)

    with serving(node, "files", "#{send_timeout => 300}") as server:
        with Connection(server.url, receive_buffer=4096) as stalled:
            stalled.send(request(target=target(path)))
            incoming = stalled.start_response()
            wait_until(lambda: server.connections() == 0, "it is cut off")

            with pytest.raises(Cut):
                incoming.finish()

        with Connection(server.url) as client:
            assert len(client.get(target(path)).body) == 32 * MEBIBYTE


def test_client_leaves(server: Server, tmp_path: Path) -> None:
    """Nothing of it stays: no connection, no process, no open file."""
    path = make_sparse(tmp_path / "f", 256 * MEBIBYTE)

    for end in (Connection.close, Connection.reset):
        client = Connection(server.url)
        client.send(request(target=target(path)))
        client.start_response()
        assert is_open(server.node, path)
        end(client)
        wait_until(lambda: not is_open(server.node, path), "the file is closed")
        wait_until(lambda: server.connections() == 0, "the connection is gone")


def is_open(node: Node, path: Path) -> bool:
    folder = Path(f"/proc/{node.os_pid}/fd")
    return any(_link(entry) == str(path) for entry in folder.iterdir())


def _link(entry: Path) -> str:
    try:
        return os.readlink(entry)
    except OSError:
        return ""


def test_worker_dies_while_it_is_sent(fresh_node: Node, tmp_path: Path) -> None:
    """The node has all that it needs."""
    path = make_file(tmp_path / "f", 24 * MEBIBYTE)

    with (
        serving(fresh_node, "files") as server,
        Connection(server.url, receive_buffer=4096) as client,
    ):
        name = uuid.uuid4().hex
        client.send(request(target=target(path, name)))
        incoming = client.start_response()
        assert outcome(server, name) == "http.disconnect"
        (pid,) = server.worker_pids()
        os.kill(pid, 9)
        wait_until(lambda: server.worker_pids() not in ([], [pid]), "a new worker")
        assert incoming.finish().body == path.read_bytes()


def test_stop_waits_for_it(node: Node, tmp_path: Path) -> None:
    """A file that is being sent is sent to its end."""
    path = make_file(tmp_path / "f", 24 * MEBIBYTE)

    with serving(node, "files") as server, Connection(server.url) as client:
        client.send(request(target=target(path)))
        incoming = client.start_response()
        node.eval(f"spawn(fun() -> hornbeam:stop({server.name}) end)")
        wait_until(lambda: not listens(server.url), "it listens no more")
        assert incoming.finish().body == path.read_bytes()


def listens(url: str) -> bool:
    try:
        Connection(url).close()
    except OSError:
        return False

    return True
