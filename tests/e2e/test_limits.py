# SPDX-License-Identifier: Apache-2.0
"""Every limit at its edge."""

from __future__ import annotations

import contextlib
import time
import uuid
from ast import literal_eval
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.observe import Server, serving
from e2e.raw import Connection, Cut, Response, chunked, request, script, wait_until
from node import Node

MAX_REQUEST_LINE = 300
MAX_HEADER = 400
MAX_HEADERS = 10
MAX_BODY = 1000


@pytest.fixture(scope="module")
def server(node: Node) -> Iterator[Server]:
    options = (
        f"#{{max_request_line_size => {MAX_REQUEST_LINE},"
        f" max_header_size => {MAX_HEADER},"
        f" max_headers => {MAX_HEADERS}, max_body => {MAX_BODY}}}"
    )

    with serving(node, "contract", options) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Connection]:
    with Connection(server.url) as connection:
        yield connection


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex


def ask(server: Server, target: str, method: str = "GET") -> Any:
    with Connection(server.url) as connection:
        answer = connection.exchange(method, target, [("Connection", "close")])

    assert answer.status == 200, answer
    return literal_eval(answer.text) if answer.body else None


def check_refusal(client: Connection, *statuses: int) -> Response:
    """One error response, then the end of the connection."""
    answer = client.read_response()
    assert answer.status in statuses, answer
    assert answer.one("connection") == b"close"
    assert answer.one("content-length") is not None
    client.read_eof()
    return answer


# Sizes of a head.


@pytest.mark.parametrize(("excess", "drips"), [(0, False), (0, True)])
def test_request_line_at_its_limit(
    client: Connection, excess: int, drips: bool
) -> None:
    line = f"GET /hello?{'x' * 1000}"[: MAX_REQUEST_LINE - 9 + excess] + " HTTP/1.1"
    assert len(line) == MAX_REQUEST_LINE
    head = f"{line}\r\nHost: x\r\n\r\n".encode()
    (client.drip if drips else client.send)(head)
    assert client.read_response().status == 200


@pytest.mark.parametrize("excess", [1, 2, 3, 100_000])
def test_request_line_above_its_limit(client: Connection, excess: int) -> None:
    line = f"GET /hello?{'x' * (MAX_REQUEST_LINE - 20 + excess)} HTTP/1.1"
    assert len(line) == MAX_REQUEST_LINE + excess
    client.send(f"{line}\r\nHost: x\r\n\r\n".encode())
    check_refusal(client, 414)


def test_request_line_without_end(client: Connection) -> None:
    client.send(b"GET /" + b"x" * 10 * MAX_REQUEST_LINE)
    check_refusal(client, 414)


def head_of_size(size: int, lines: int = 1) -> bytes:
    """A head whose header section has that size, line ends included."""
    rest = size - len("host: x\r\n")
    first = rest - (lines - 1) * len("x-0: \r\n")
    values = [f"X-{number}: " for number in range(lines)]
    values[0] += "v" * (first - len("x-0: \r\n"))
    return "\r\n".join(["GET /hello HTTP/1.1", "Host: x", *values, "", ""]).encode()


@pytest.mark.parametrize("lines", [1, 5])
def test_header_section_at_its_limit(client: Connection, lines: int) -> None:
    head = head_of_size(MAX_HEADER, lines)
    assert len(head) - len("GET /hello HTTP/1.1\r\n\r\n") == MAX_HEADER
    client.send(head)
    assert client.read_response().status == 200


@pytest.mark.parametrize("lines", [1, 5])
@pytest.mark.parametrize("excess", [1, 2, 100_000])
def test_header_section_above_its_limit(
    client: Connection, lines: int, excess: int
) -> None:
    client.send(head_of_size(MAX_HEADER + excess, lines))
    check_refusal(client, 431)


def test_header_without_end(client: Connection) -> None:
    client.send(b"GET /hello HTTP/1.1\r\nHost: x\r\nX: " + b"v" * 10 * MAX_HEADER)
    check_refusal(client, 431)


def test_header_name_without_end(client: Connection) -> None:
    client.send(b"GET /hello HTTP/1.1\r\nHost: x\r\n" + b"n" * 10 * MAX_HEADER)
    check_refusal(client, 431)


def test_headers_without_end(client: Connection) -> None:
    """Lines of one name are one header for Cowboy, and must not grow for ever."""
    try:
        client.send(b"GET /hello HTTP/1.1\r\nHost: x\r\n")

        for _ in range(1000):
            client.send(b"X: " + b"v" * 300 + b"\r\n")

        client.send(b"\r\n")
        check_refusal(client, 431)
    except (BrokenPipeError, ConnectionResetError, Cut):
        # Cut off before it was through.
        pass


def test_number_of_headers(client: Connection) -> None:
    """Host counts as one."""
    others = [f"X-{number}: 1" for number in range(MAX_HEADERS)]
    head = "\r\n".join(["GET /hello HTTP/1.1", "Host: x", *others[:-1], "", ""])
    client.send(head.encode())
    assert client.read_response().status == 200
    head = "\r\n".join(["GET /hello HTTP/1.1", "Host: x", *others, "", ""])
    client.send(head.encode())
    check_refusal(client, 431)


def test_default_limits(node: Node) -> None:
    """A hundred headers, 8190 bytes of request line, 16384 of headers."""
    with serving(node, "contract") as server, Connection(server.url) as client:
        long = request(target="/hello?" + "x" * (8190 - len("GET /hello? HTTP/1.1")))
        many = [(f"X-{number}", "v" * 150) for number in range(99)]
        client.send(long + request(target="/hello", headers=many))
        assert [client.read_response().status for _ in range(2)] == [200, 200]


# Bodies.


def test_body_at_its_limit(client: Connection) -> None:
    assert len(client.post("/echo", b"x" * MAX_BODY).body) == MAX_BODY


def test_body_above_its_limit(server: Server, client: Connection, name: str) -> None:
    """Refused by its Content-Length, before the application is asked."""
    client.send(request("POST", f"/see/{name}", body=b"x" * (MAX_BODY + 1)))
    check_refusal(client, 413)
    assert ask(server, f"/seen/{name}") is False


def test_body_above_its_limit_with_expect(client: Connection) -> None:
    """Then the client need not even send it."""
    headers = [("Expect", "100-continue"), ("Content-Length", str(MAX_BODY + 1))]
    client.send(request("POST", "/echo", headers))
    assert check_refusal(client, 413).informational == []


def test_chunked_body_at_its_limit(client: Connection) -> None:
    client.send(request("POST", "/echo", [("Transfer-Encoding", "chunked")]))
    client.send(chunked(*[b"x" * 100] * (MAX_BODY // 100)))
    assert len(client.read_response("POST").body) == MAX_BODY


def test_chunked_body_above_its_limit(
    server: Server, client: Connection, name: str
) -> None:
    """The application, which has it in part, is told that no more will come."""
    steps = ("receive",) * 12
    client.send(
        request("POST", script(name, *steps), [("Transfer-Encoding", "chunked")])
    )

    for _ in range(MAX_BODY // 100):
        client.send(b"64\r\n" + b"x" * 100 + b"\r\n")

    client.send(b"1\r\nx\r\n")
    check_refusal(client, 413)
    got = ask(server, f"/wait/{name}")
    assert got[-1] == {"type": "http.disconnect"}
    assert sum(len(message.get("body", b"")) for message in got) <= MAX_BODY


def test_no_body_at_all(node: Node) -> None:
    with serving(node, "contract", "#{max_body => 0}") as server:
        with Connection(server.url) as client:
            assert client.post("/echo", b"").status == 200
            client.send(request("POST", "/echo", body=b"x"))
            check_refusal(client, 413)


# Times.


class Clock:
    """How long something took."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began


# The node looks after idle connections once a second.
SWEEP_SECONDS = 1.0
SLACK_SECONDS = 1.5


def read_late_answer(client: Connection) -> None:
    answer = client.read_response()
    assert answer.status == 408
    assert answer.one("connection") == b"close"
    client.read_eof()


@pytest.mark.parametrize(
    "sent",
    [b"", b"G", b"GET /hello HTTP/1.1\r\n", b"GET /hello HTTP/1.1\r\nHost: x\r\nX"],
)
def test_head_that_does_not_come(node: Node, sent: bytes) -> None:
    """408 after `header_timeout`, whatever is there of it; silence for nothing."""
    with serving(node, "contract", "#{header_timeout => 400}") as server:
        # The server's begins when it has the connection.
        clock = Clock()

        with Connection(server.url) as client:
            client.send(sent)

            if sent:
                read_late_answer(client)
            else:
                client.read_eof()

            assert 0.35 < clock.seconds < 0.4 + SWEEP_SECONDS + SLACK_SECONDS


def test_head_that_drips(node: Node) -> None:
    """Bytes that keep coming win no time."""
    with serving(node, "contract", "#{header_timeout => 400}") as server:
        with Connection(server.url) as client:
            clock = Clock()
            client.send(b"GET /hello HTTP/1.1\r\nHost: x\r\nX: ")

            while not client.is_readable(0.05):
                try:
                    client.send(b"v")
                except (BrokenPipeError, ConnectionResetError):
                    break

                assert clock.seconds < 0.4 + SWEEP_SECONDS + SLACK_SECONDS


def test_later_head_that_drips(node: Node) -> None:
    """Nor do those of a later request on the same connection."""
    options = "#{header_timeout => 400, keepalive => 20000}"

    with serving(node, "contract", options) as server, Connection(server.url) as client:
        assert client.get("/hello").text == "hello"
        clock = Clock()
        client.send(b"GET /hello HTTP/1.1\r\nHost: x\r\nX: ")

        while not client.is_readable(0.05):
            try:
                client.send(b"v")
            except (BrokenPipeError, ConnectionResetError):
                break

            assert clock.seconds < 0.4 + 2 * SWEEP_SECONDS + SLACK_SECONDS


def test_half_a_head_behind_a_download(node: Node, name: str) -> None:
    """What runs is not disturbed; when it is through, the head has its time."""
    size = 8 * 2**20

    with (
        serving(node, "flow", "#{header_timeout => 1000}") as server,
        Connection(server.url, receive_buffer=4096) as client,
        Connection(server.url) as other,
    ):
        client.send(request("GET", f"/download/{name}?{size},65536") + b"GET /x HT")
        other.send(b"G")
        # The reaper has been at it, while the download waits for its client.
        read_late_answer(other)
        answer = client.read_response()
        assert answer.status == 200
        assert len(answer.body) == size
        read_late_answer(client)


def test_idle_connection(node: Node) -> None:
    """Ends after `keepalive`, in silence."""
    options = "#{keepalive => 300, header_timeout => 60000}"

    with serving(node, "contract", options) as server, Connection(server.url) as client:
        clock = Clock()
        assert client.get("/hello").text == "hello"
        client.read_eof()
        assert 0.25 < clock.seconds < 0.3 + 2 * SWEEP_SECONDS + SLACK_SECONDS


def test_keepalive_is_for_idle_connections(node: Node) -> None:
    """A request that takes longer is not cut, nor the connection after it."""
    with serving(node, "contract", "#{keepalive => 1000}") as server:
        with Connection(server.url) as client:
            assert client.get("/silence/2.5").status == 200
            assert client.get("/hello").text == "hello"


def test_body_that_does_not_come(node: Node, name: str) -> None:
    """408, and the application is told that the rest will not come."""
    with serving(node, "contract", "#{body_timeout => 300}") as server:
        with Connection(server.url) as client:
            clock = Clock()
            target = script(name, "receive", "receive")
            client.send(request("POST", target, [("Content-Length", "10")]) + b"12345")
            check_refusal(client, 408)
            assert 0.25 < clock.seconds < 0.3 + SLACK_SECONDS

        assert ask(server, f"/wait/{name}")[-1] == {"type": "http.disconnect"}


def test_body_that_comes_slowly(node: Node) -> None:
    """Progress is enough, however long the whole takes."""
    with serving(node, "contract", "#{body_timeout => 1000}") as server:
        with Connection(server.url) as client:
            clock = Clock()
            client.send(request("POST", "/echo", [("Content-Length", "8")]))

            for number in range(8):
                client.read_silence(0.2)
                client.send(str(number).encode())

            assert client.read_response("POST").text == "01234567"
            assert clock.seconds > 1.5


def test_rest_of_a_body_that_drips(node: Node) -> None:
    """Behind the response it has `body_timeout` in all, however steadily it comes."""
    with serving(node, "contract", "#{body_timeout => 400}") as server:
        with Connection(server.url) as client:
            client.send(request("POST", "/hello", [("Content-Length", "2000")]))
            answer = client.read_response("POST")
            assert (answer.text, answer.keeps_alive) == ("hello", True)

            for _ in range(1999):
                if client.is_readable(0.01):
                    break

                client.send(b"x")
            else:
                pytest.fail("the connection is open as long as bytes come")

            with contextlib.suppress(Cut):
                assert client.receive() == b""


def test_body_that_nobody_waits_for(node: Node, name: str) -> None:
    """The time runs only while the application waits in receive()."""
    with serving(node, "contract", "#{body_timeout => 300}") as server:
        with Connection(server.url) as client:
            target = script(
                "", name, "receive", {"type": "http.response.start", "status": 200}
            )
            client.send(request("POST", target, [("Content-Length", "4")]))
            client.read_silence(1.0)
            # From the moment that it waits, the body would have to be in time.
            client.send(b"body")
            ask(server, f"/open/{name}", "POST")
            assert client.read_response("POST").status == 500


# Concurrency.


CROWDED = "max_concurrency => 1, max_queue => 1, shutdown_timeout => 1000"


def test_queue(node: Node, name: str) -> None:
    """One is worked on, one waits, the third is told to come again at once."""
    with serving(node, "contract", f"#{{{CROWDED}}}") as server:
        first, second, third = (Connection(server.url) for _ in range(3))

        with first, second, third:
            target = "/counting/none"
            first.send(request("POST", target, [("Content-Length", "1")]))
            wait_until(lambda: server.in_flight() == 1, "the first is worked on")
            second.send(request(target="/hello"))
            wait_until(lambda: server.queue() == 1, "the second waits")
            answer = third.get("/hello")
            assert answer.status == 503
            assert answer.one("retry-after") == b"1"
            assert answer.keeps_alive
            first.send(b"x")
            assert first.read_response("POST").text == "1"
            assert second.read_response().text == "hello"
            assert third.get("/hello").text == "hello"


def test_queue_timeout(node: Node) -> None:
    """Who has waited so long in vain is told to come again."""
    with serving(node, "contract", f"#{{{CROWDED}, queue_timeout => 400}}") as server:
        first, second = (Connection(server.url) for _ in range(2))

        with first, second:
            first.send(request("POST", "/counting/x", [("Content-Length", "1")]))
            wait_until(lambda: server.in_flight() == 1, "the first is worked on")
            clock = Clock()
            answer = second.get("/hello")
            assert (answer.status, answer.one("retry-after")) == (503, b"1")
            assert 0.35 < clock.seconds < 0.4 + SLACK_SECONDS
            first.send(b"x")
            assert first.read_response("POST").text == "1"


def test_leaving_the_queue(node: Node) -> None:
    """Who leaves makes room for another one."""
    with serving(node, "contract", f"#{{{CROWDED}}}") as server:
        first, second, third = (Connection(server.url) for _ in range(3))

        with first, third:
            first.send(request("POST", "/counting/x", [("Content-Length", "1")]))
            wait_until(lambda: server.in_flight() == 1, "the first is worked on")
            second.send(request(target="/hello"))
            wait_until(lambda: server.queue() == 1, "the second waits")
            second.close()
            wait_until(lambda: server.queue() == 0, "the second has left")
            third.send(request(target="/hello"))
            wait_until(lambda: server.queue() == 1, "the third waits")
            first.send(b"x")
            assert first.read_response("POST").text == "1"
            assert third.read_response().text == "hello"


def test_many_through_a_narrow_door(node: Node) -> None:
    """Two hundred at a time through two places: all are answered."""
    options = "#{max_concurrency => 2, queue_timeout => 20000}"

    with serving(node, "contract", options) as server:
        clients = [Connection(server.url) for _ in range(200)]

        try:
            for client in clients:
                client.send(request(target="/hello"))

            assert {client.read_response().status for client in clients} == {200}
        finally:
            for client in clients:
                client.close()
