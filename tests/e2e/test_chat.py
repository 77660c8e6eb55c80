# SPDX-License-Identifier: Apache-2.0
"""The chat example: by a client, and by its page in Chromium."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from e2e.chromium import Browser, Page, find_chromium, running_browser
from e2e.observe import Server
from e2e.sockets import TIMEOUT_SECONDS, SyncConnection, connect
from e2e.support import make_client, serving, unique
from node import ROOT, Node

CHAT_DIR = ROOT / "examples" / "chat"
SERVER = "chat_example"


@pytest.fixture(scope="module")
def client(node: Node) -> Iterator[httpx.Client]:
    """Two workers: who is in a room may be in either."""
    with (
        serving(
            node, "app:app", "#{workers => 2}", name=SERVER, app_dir=CHAT_DIR
        ) as url,
        make_client(url) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def url(client: httpx.Client) -> str:
    return str(client.base_url).rstrip("/")


def take(socket: SyncConnection) -> dict[str, object]:
    message: dict[str, object] = json.loads(socket.recv(TIMEOUT_SECONDS))
    return message


def test_page(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.content == (CHAT_DIR / "page.html").read_bytes()


def test_room(url: str) -> None:
    """All hear who comes, what is said and who goes, themselves included."""
    room = unique("room")[:32]
    names = [f"n{number}" for number in range(6)]

    with ExitStack() as stack:
        sockets: list[SyncConnection] = []

        for number, name in enumerate(names, 1):
            path = f"/rooms/{room}?name={name}"
            sockets.append(stack.enter_context(connect(url, path)))
            joined = {"kind": "joined", "name": name, "online": number}
            assert [take(socket) for socket in sockets] == [joined] * number

        for socket, name in zip(sockets, names, strict=True):
            socket.send(f"größe {name}")
            said = {"kind": "said", "name": name, "text": f"größe {name}"}
            assert [take(each) for each in sockets] == [said] * len(names)

        sockets[0].close()
        left = {"kind": "left", "name": "n0", "online": 5}
        assert [take(socket) for socket in sockets[1:]] == [left] * 5


def test_other_rooms_hear_nothing(url: str) -> None:
    room, other = unique("room")[:32], unique("other")[:32]

    with (
        connect(url, f"/rooms/{room}") as inside,
        connect(url, f"/rooms/{other}") as out,
    ):
        take(inside)
        take(out)
        inside.send("secret")
        take(inside)
        out.send("public")
        assert take(out)["text"] == "public"


def test_long_text_is_cut(url: str) -> None:
    with connect(url, f"/rooms/{unique('room')[:32]}") as socket:
        take(socket)
        socket.send("x" * 5000)
        assert take(socket)["text"] == "x" * 1000


@pytest.mark.parametrize("room", ["*", "%23", "A", "a" * 33, "a%3Ab"])
def test_rooms_that_would_be_patterns(url: str, room: str) -> None:
    """Nobody listens to the rooms of others by a clever name."""
    with pytest.raises(InvalidStatus) as refused, connect(url, f"/rooms/{room}"):
        raise AssertionError("it was let in")

    assert refused.value.response.status_code in (403, 404)


# In a browser.


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = find_chromium()

    if path is None:
        pytest.skip("there is no Chromium here; `apt-get install chromium` brings it")

    with running_browser(path) as browser:
        yield browser


def enter(browser: Browser, url: str, room: str, name: str) -> Page:
    page = browser.open(f"{url}/?room={room}&name={name}")
    page.wait_for(
        "document.getElementById('state')"
        f" && document.getElementById('state').textContent === 'connected as {name}'"
    )
    return page


def say(page: Page, text: str) -> None:
    page.evaluate(
        f"document.getElementById('text').value = {json.dumps(text)};"
        " document.getElementById('form').requestSubmit()"
    )


def shows(text: str) -> str:
    """JavaScript: whether a line of the page is this one."""
    return (
        "[...document.querySelectorAll('#messages li')]"
        f".some((line) => line.textContent === {json.dumps(text)})"
    )


def test_two_pages(browser: Browser, url: str) -> None:
    """What one writes is on the other's page, as text and not as markup."""
    room = unique("room")[:32]
    ann = enter(browser, url, room, "ann")
    bob = enter(browser, url, room, "bob")
    ann.wait_for(shows("bob has joined, 2 here"))
    say(ann, "größe")
    say(bob, "<b>bold</b>")

    for page in (ann, bob):
        page.wait_for(shows("ann: größe"))
        page.wait_for(shows("bob: <b>bold</b>"))
        assert page.evaluate("document.querySelectorAll('#messages b').length") == 0


def test_page_finds_its_way_back(browser: Browser, node: Node, url: str) -> None:
    """Its worker dies under it: it is told, connects again, and goes on."""
    room = unique("room")[:32]
    page = enter(browser, url, room, "cat")
    page.evaluate("window.opened = socket")

    for pid in Server(node, SERVER, url).worker_pids():
        os.kill(pid, signal.SIGKILL)

    page.wait_for("socket !== window.opened && socket.readyState === WebSocket.OPEN")
    say(page, "still here")
    page.wait_for(shows("cat: still here"))
