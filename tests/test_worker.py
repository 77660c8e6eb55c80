# SPDX-License-Identifier: Apache-2.0
"""A worker as a process, with a node in Python at the other end of its pipes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_node import (
    ROOT,
    FakeNode,
    Response,
    find_pythons,
    read_status,
    wait_until,
)
from hornbeam._etf import CODEC, encode_message, pack_batch
from hornbeam._pacer import TURN_BYTES
from hornbeam._protocol import MAX_PACKET_BYTES
from hornbeam._terms import Atom

LOOPS = ("asyncio", "uvloop", "trio")
WINDOW = 65536

Start = Callable[..., FakeNode]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start workers that are gone after the test."""
    nodes: list[FakeNode] = []

    def start_worker(app: str = "probe:app", **options: Any) -> FakeNode:
        nodes.append(FakeNode(app, **options))
        return nodes[-1]

    yield start_worker

    for node in nodes:
        node.__exit__(None, None, None)


@pytest.fixture(scope="module")
def probe() -> Iterator[FakeNode]:
    """A worker with the probe application; tests leave it as they found it."""
    with FakeNode("probe:app", worker_id=7) as node:
        node.wait_ready()
        yield node


def result(response: Response) -> Any:
    assert response.status == 200, response
    assert response.is_complete
    return json.loads(response.body)


def events(node: FakeNode) -> Any:
    return result(node.get("/events"))


# Start and end.


@pytest.mark.parametrize("loop", LOOPS)
def test_ready_and_stopped(start: Start, loop: str) -> None:
    node = start("hello:app", loop=Atom(loop))
    facts = node.wait_ready()
    assert facts.pop("lending").startswith("\0hornbeam-")
    assert facts == {
        "os_pid": node.pid,
        "python": ".".join(map(str, sys.version_info[:3])),
        "codec": Atom(CODEC),
        "loop": Atom(loop),
        "worker_class": Atom("asgi"),
        "lifespan": Atom("unsupported"),
    }
    response = node.get("/")
    assert response.kinds == ["response"]
    assert (response.status, response.body) == (200, b"Hello from ASGI!")
    assert node.shutdown() == {"lifespan": Atom("off")}
    assert node.output == ""


@pytest.mark.parametrize("python", find_pythons(), ids=os.path.basename)
def test_other_pythons(start: Start, python: str) -> None:
    # The C codec is built for the tests' own interpreter.
    node = start(python=python, env={"HORNBEAM_CODEC": "python"})
    facts = node.wait_ready()
    assert Path(python).name == "python" + facts["python"].rpartition(".")[0]
    assert result(node.get("/count")) == 1
    assert result(node.get("/threads_while_blocked"))[-1] == 200
    assert node.get("/raise").status == 500
    node.shutdown()


def test_python_codec(start: Start) -> None:
    node = start(env={"HORNBEAM_CODEC": "python"})
    assert node.wait_ready()["codec"] == Atom("python")
    assert result(node.get("/count")) == 1
    assert result(node.get("/mixed"))
    node.shutdown()


@pytest.mark.parametrize(
    ("wanted", "module", "loop"),
    [("auto", "uvloop", "asyncio"), ("uvloop", "uvloop", None), ("trio", "trio", None)],
)
def test_loop_that_is_not_there(
    start: Start, tmp_path: Path, wanted: str, module: str, loop: str | None
) -> None:
    (tmp_path / f"{module}.py").write_text("raise ImportError('not for you')")
    node = start("hello:app", loop=Atom(wanted), env={"PYTHONPATH": str(tmp_path)})

    if loop is not None:
        assert node.wait_ready()["loop"] == Atom(loop)
    else:
        name, facts = node.wait_failed()
        assert name == "loop_unavailable"
        assert facts == {"loop": Atom(wanted), "message": "not for you"}


def test_auto_is_uvloop(start: Start) -> None:
    assert start("hello:app", loop=Atom("auto")).wait_ready()["loop"] == Atom("uvloop")


@pytest.mark.parametrize(
    ("settings", "name", "facts"),
    [
        (
            {"app": "nowhere:app"},
            "app_not_found",
            {"app": "nowhere:app", "message": "there is no module 'nowhere'"},
        ),
        (
            {"app": "broken:app"},
            "app_import_failed",
            {
                "app": "broken:app",
                "message": "ZeroDivisionError: division by zero",
                "traceback": "Traceback (most recent call last):\n",
            },
        ),
        (
            {"app": "leaves:app"},
            "app_import_failed",
            {"message": "SystemExit: no config"},
        ),
        (
            {"app": "number:app"},
            "app_not_callable",
            {"app": "number:app", "type": "int"},
        ),
        (
            {"app": "wsgi:app", "worker_class": Atom("wsgi")},
            "worker_class_unsupported",
            {"worker_class": Atom("wsgi")},
        ),
        (
            {"app": "number:app", "chdir": "/nowhere/at/all"},
            "chdir_failed",
            {"chdir": "/nowhere/at/all", "message": "No such file or directory"},
        ),
    ],
)
def test_failed(
    start: Start,
    tmp_path: Path,
    settings: dict[str, Any],
    name: str,
    facts: dict[str, Any],
) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit('no config')")
    (tmp_path / "number.py").write_text("app = 5")
    (tmp_path / "wsgi.py").write_text("async def app(scope, receive, send): pass")
    got, got_facts = start(cwd=tmp_path, **settings).wait_failed()
    assert got == name

    for key, fact in facts.items():
        if isinstance(fact, str):
            assert got_facts[key].startswith(fact)
        else:
            assert got_facts[key] == fact


def test_where_modules_come_from(start: Start, tmp_path: Path) -> None:
    """The application's folder comes first, relative to its directory; the entry
    script's folder shadows nothing, and ours are the packages of that name."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "worker.py").write_text("mine = True")
    (tmp_path / "here" / "hornbeam.py").write_text("raise ImportError('not this one')")
    (tmp_path / "here" / "app.py").write_text(
        "import sys, os, worker, hornbeam_erlang\n"
        "assert worker.mine\n"
        "async def app(scope, receive, send):\n"
        "    found = [sys.path[0], os.getcwd(), sys.modules['__main__'].__file__]\n"
        "    await send({'type': 'http.response.start', 'status': 200})\n"
        "    await send({'type': 'http.response.body', 'body': repr(found).encode()})\n"
    )
    node = start("app", chdir=str(tmp_path), pythonpath=["here"])
    node.wait_ready()
    path, directory, main = eval(node.get("/").body)
    assert (path, directory) == (str(tmp_path / "here"), str(tmp_path))
    assert main == str(ROOT / "priv" / "worker.py")


@pytest.mark.parametrize("layout", ["release", "link"])
def test_entry_in_other_places(start: Start, tmp_path: Path, layout: str) -> None:
    """A release holds copies, a checkout may be linked to."""
    if layout == "release":
        (tmp_path / "priv").mkdir()
        shutil.copy(ROOT / "priv" / "worker.py", tmp_path / "priv")
        shutil.copytree(ROOT / "python", tmp_path / "priv" / "python")
        script = tmp_path / "priv" / "worker.py"
    else:
        script = tmp_path / "w.py"
        script.symlink_to(ROOT / "priv" / "worker.py")

    node = start("hello:app", script=script)
    node.wait_ready()
    assert node.get("/").status == 200


def test_entry_without_packages(tmp_path: Path) -> None:
    shutil.copy(ROOT / "priv" / "worker.py", tmp_path)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "worker.py")], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "no package 'hornbeam' in" in done.stderr


def test_started_by_hand() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "priv" / "worker.py")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 64
    assert "descriptors 3 and 4 are the node's pipes" in done.stderr


def test_exit_handlers_run(start: Start, tmp_path: Path) -> None:
    """The end in order is an ordinary exit: logs are flushed, and the node is there."""
    (tmp_path / "app.py").write_text(
        "import atexit, hornbeam_erlang\n"
        "@atexit.register\n"
        "def leave():\n"
        "    hornbeam_erlang.state_set('left', True)\n"
        "    print('left')\n"
        "async def app(scope, receive, send): pass\n"
    )
    node = start("app", cwd=tmp_path)
    node.wait_ready()
    node.shutdown()
    assert node.output == "left\n"
    assert node.state.call(Atom("state_get"), ("left",)) is not None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("loop", LOOPS)
def test_signals_are_the_nodes_business(
    start: Start, number: signal.Signals, loop: str
) -> None:
    """Ctrl-C in a terminal reaches worker and node; the node ends the worker."""
    node = start("hello:app", loop=Atom(loop))
    node.wait_ready()
    os.kill(node.pid, number)
    assert node.get("/").status == 200
    node.shutdown()


# The node goes.


@pytest.mark.parametrize("path", [None, "/hang_in_call", "/hang_in_thread"])
def test_end_of_input(start: Start, path: str | None) -> None:
    """The worker leaves at once, also while a call waits."""
    node = start()
    node.held_functions.add("state_get")
    node.wait_ready()

    if path is not None:
        node.request(path)
        node.wait_output("calling")

    node.close_input()
    assert node.wait_exit() == 0


def test_end_of_input_before_it_began(start: Start) -> None:
    node = start(configure=False)
    node.close_input()
    assert node.wait_exit() == 0


def test_node_is_killed_while_the_loop_is_blocked(tmp_path: Path) -> None:
    """Nobody reads the pipe then: it is the parent's death that ends the worker."""
    pid_file = tmp_path / "pid"
    script = (
        "import os, sys, time\n"
        "from fake_node import FakeNode\n"
        "node = FakeNode('probe:app')\n"
        "node.wait_ready()\n"
        "node.request('/sleep')\n"
        "node.wait_output('blocking')\n"
        f"open({str(pid_file)!r} + '.new', 'w').write(str(node.pid))\n"
        f"os.rename({str(pid_file)!r} + '.new', {str(pid_file)!r})\n"
        "time.sleep(1000)\n"
    )
    path = os.pathsep.join(str(ROOT / name) for name in ("python", "tests"))
    parent = subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": path}
    )

    try:
        wait_until(pid_file.exists, "the worker's pid")
    finally:
        parent.kill()
        parent.wait()

    status = Path(f"/proc/{pid_file.read_text()}/status")
    wait_until(
        lambda: not status.exists() or "zombie" in status.read_text(),
        "the end of the worker",
    )


# A node that does not keep to the protocol.


def packet(*messages: tuple[Any, ...]) -> bytes:
    return pack_batch([encode_message(message) for message in messages])


SCOPE: tuple[Any, ...] = (b"GET", b"http", b"1.1", b"/", b"", [], None, None, {})


@pytest.mark.parametrize(
    ("hostile", "text"),
    [
        (b"\0\0\0\3abc", "undecodable packet"),
        (b"\0\0\0\0", "undecodable packet"),
        (b"\0\0\0\2\x83a", "undecodable packet"),
        (struct.pack(">I", MAX_PACKET_BYTES + 1), "bytes is announced"),
        (packet((Atom("hello"), 1)), "unknown message"),
        (packet((Atom("configure"), {})), "unexpected message"),
        (packet((Atom("ping"), b"1")), "wrong type"),
        (packet((Atom("request"), 1)), "takes 4 fields, not 1"),
        (packet((Atom("request"), 1, SCOPE, b"", None)), "wrong type"),
        (packet((Atom("request"), 1, SCOPE[1:], b"", False)), "the scope of a request"),
        (packet((Atom("request"), 1, (1, *SCOPE[1:]), b"", False)), "the scope"),
        (packet((Atom("shutdown"), -1)), "a timeout is milliseconds"),
        (packet((Atom("reply"), 1)), "a reply has a call id"),
        (packet((Atom("reply"), b"1", Atom("ok"), 1)), "a reply has a call id"),
    ],
)
def test_hostile_packets(start: Start, hostile: bytes, text: str) -> None:
    node = start("hello:app")
    node.wait_ready()
    node.send_bytes(packet((Atom("ping"), 1)) + hostile)
    assert node.wait_exit() == 70
    assert "hornbeam worker: protocol error: " in node.output
    assert text in node.output


@pytest.mark.parametrize(
    "reply",
    [
        (Atom("error"), Atom("badarg")),
        (Atom("error"), (Atom("badarg"), [])),
        (Atom("perhaps"), b"x"),
    ],
)
def test_hostile_replies(start: Start, reply: tuple[Any, ...]) -> None:
    node = start()
    node.held_functions.add("state_get")
    node.wait_ready()
    node.request("/hang_in_call")
    call = node.expect("call")
    node.send((Atom("reply"), call[1], *reply))
    assert node.wait_exit() == 70
    assert "a reply is ok, or error with a name and facts" in node.output


@pytest.mark.parametrize(
    ("first", "text"),
    [
        (packet((Atom("ping"), 1)), "the first message is configure"),
        (packet((Atom("configure"), {})), "setting app is missing"),
        (b"\0\0\0\1x", "undecodable packet"),
    ],
)
def test_hostile_beginning(start: Start, first: bytes, text: str) -> None:
    node = start(configure=False)
    node.send_bytes(first)
    assert node.wait_exit() == 70
    assert text in node.output


def test_unknown_ids_are_dropped(probe: FakeNode) -> None:
    probe.send(
        (Atom("body"), 10**12, b"x", True),
        (Atom("ack"), 10**12, 5),
        (Atom("disconnect"), 10**12),
        (Atom("cancel"), 10**12),
        (Atom("reply"), 10**12, Atom("ok"), 1),
    )
    probe.send_bytes(struct.pack(">I", 2) + b"\x83j")
    probe.ping(1)


# Output, input, other processes.


def test_node_without_standard_descriptors(start: Start) -> None:
    """What the application opens does not become its stdout."""
    node = start(redirect="<&- >&- 2>&-")
    node.wait_ready()
    assert result(node.get("/print")) == 1
    assert result(node.get("/standard")) == ["/dev/null"] * 3
    node.send_bytes(b"\0\0\0\1x")
    assert node.wait_exit() == 70
    assert node.output == ""


def test_what_applications_print_does_no_harm(probe: FakeNode) -> None:
    assert result(probe.get("/print")) == 1

    for text in (
        "printed at import\n",
        "by print\n",
        "to stderr\n",
        "by os.write\n",
        "by printf\n",
        "by a thread\n",
    ):
        probe.wait_output(text)

    assert result(probe.get("/count")) > 0


def test_input_is_empty(probe: FakeNode) -> None:
    assert result(probe.get("/input")) == ["", ""]


def test_fork(probe: FakeNode) -> None:
    """A fork can't call, and holds neither pipe; the worker goes on."""
    text, status, count = result(probe.get("/fork"))
    assert text == "BridgeClosed False []"
    assert status == 0
    assert result(probe.get("/fork"))[2] == count + 1


def test_fork_that_comes_back_to_the_loop(probe: FakeNode) -> None:
    """It leaves, and does not serve what its parent serves."""
    status, count = result(probe.get("/fork_that_comes_back"))
    assert status == 1
    assert count > 0
    probe.ping(2)


def test_subprocesses_inherit_nothing(probe: FakeNode) -> None:
    assert result(probe.get("/subprocess")) == "[False, False]"


def test_subprocesses_can_be_terminated(probe: FakeNode) -> None:
    terminated, interrupted = -signal.SIGTERM, -signal.SIGINT
    assert result(probe.get("/terminate")) == [terminated, interrupted, terminated]


def test_multiprocessing(start: Start) -> None:
    node = start()
    node.wait_ready()
    assert result(node.get("/multiprocessing")) == [[2], [2]]
    assert result(node.get("/count")) == 1
    node.shutdown()


# Requests.


def test_log_message(start: Start) -> None:
    node = start()
    node.wait_ready()
    request_id = node.request("/raise")
    _, level, report = node.expect("log", Atom("error"))
    assert level == Atom("error")
    assert report[Atom("request_id")] == request_id
    text = report[Atom("message")].decode()
    assert text.startswith("GET /raise: the application raised before the response")
    assert text.endswith("ValueError: boom")
    assert node.get("/raise_late").is_aborted
    assert b"SystemExit: 3" in node.expect("log", Atom("error"))[2][Atom("message")]
    assert result(node.get("/count")) == 1


def test_disconnect(start: Start) -> None:
    node = start()
    node.wait_ready()
    request_id = node.request("/wait")
    node.wait_output("waiting")
    node.send((Atom("disconnect"), request_id))
    assert node.respond(request_id).kinds == []
    assert events(node) == ["disconnected", "ClientDisconnected"]
    assert [level for level, _ in node.logged() if level != "info"] == ["debug"]


def test_cancel(start: Start) -> None:
    node = start()
    node.wait_ready()
    first, second = node.request("/receive_nothing"), node.request("/slow", more=True)
    node.wait_output("slow")
    node.send((Atom("cancel"), first), (Atom("cancel"), second))
    assert node.respond(first).kinds == []
    assert node.respond(second).kinds == ["waiting"]
    # In one batch with the request: before its first step.
    node.send(
        (Atom("request"), 1000, (*SCOPE[:3], b"/slow", *SCOPE[4:]), b"", True),
        (Atom("cancel"), 1000),
    )
    assert "response" not in node.respond(1000).kinds
    assert [level for level, _ in node.logged() if level != "info"] == []


def test_held_start_goes_with_a_ping(probe: FakeNode) -> None:
    request_id = probe.request("/head_then_wait")
    probe.wait_output("head sent")
    probe.ping(3)
    assert probe.expect("start", request_id)[2:] == (200, [], b"")
    probe.send((Atom("disconnect"), request_id))
    assert probe.respond(request_id).kinds == []


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_contexts_of_requests_are_apart(start: Start, loop: str) -> None:
    """Nothing leaks from one request's context to another one's, however it came in:
    also not if a call in the first one read it from the pipe."""
    node = start(loop=Atom(loop))
    node.wait_ready()

    for _ in range(20):
        ids = [node.request("/context", query=b"%d" % n) for n in range(10)]
        assert {result(node.respond(request_id)) for request_id in ids} == {"none"}


def test_nothing_is_left_of_aborted_requests(start: Start) -> None:
    node = start()
    node.wait_ready()
    node.acknowledge = False

    def abort_some() -> Any:
        for path in ("/receive_nothing", "/slow", "/wait", "/download") * 30:
            request_id = node.request(path, more=True, query=b"1000000")
            kind = "cancel" if path == "/receive_nothing" else "disconnect"
            node.send((Atom(kind), request_id))

            if path == "/slow":
                node.send((Atom("body"), request_id, b"", False))

            node.respond(request_id)

        return result(node.get("/objects"))

    # Lists of what has happened grow, the rest does not.
    before = abort_some()
    after = abort_some()
    assert after[1] == before[1]
    assert after[0] - before[0] < 40


# Flow control.


def test_download_takes_a_window(start: Start) -> None:
    """An application that sends 50 MB to a client that takes nothing waits."""
    size = 50_000_000
    node = start(acknowledge=False)
    node.wait_ready()
    node.get("/count")
    before_kib = read_status(node.pid, "VmRSS")
    request_id = node.request("/download", query=b"%d" % size)
    digest = hashlib.sha256()
    got = unacknowledged = 0

    while True:
        # After this ping all has come that was on its way.
        if unacknowledged * 4 < WINDOW:
            node.ping(got)

        message = take_part(node, request_id)

        if message is None:
            assert unacknowledged * 4 >= WINDOW, "the worker waits for too much"
            node.send((Atom("ack"), request_id, unacknowledged))
            unacknowledged = 0
            continue

        digest.update(message[-1])
        got += len(message[-1])
        unacknowledged += len(message[-1])
        assert unacknowledged <= WINDOW

        if message[0] == Atom("last"):
            break

    part = bytes(range(256)) * 100
    assert got == size
    assert (
        digest.digest() == hashlib.sha256((part * (size // 25600 + 1))[:size]).digest()
    )
    assert read_status(node.pid, "VmHWM") - before_kib < 8192


@pytest.mark.parametrize("loop", LOOPS)
def test_small_answer_among_streams_that_begin(start: Start, loop: str) -> None:
    """It waits for what leaves in a turn or two, and not for the windows of all."""
    count, part_bytes = 200, 25600
    node = start(acknowledge=False, loop=Atom(loop))
    node.wait_ready()
    streams = [node.make_message("/download", b"1000000") for _ in range(count)]
    node.send(*streams, node.make_message("/count"))
    node.expect("done", count + 1)
    parts = [Atom("start"), Atom("data")]

    with node._changed:
        heads = [message[0] for message in node.messages]
        before = node.messages[: heads.index(Atom("response"))]

    before_bytes = sum(len(m[-1]) for m in before if m[0] in parts)
    # trio runs tasks in any order: it may even be the first.
    assert before_bytes <= 2 * (TURN_BYTES + part_bytes)
    # Nobody is forgotten: each sends what its window has room for.
    sizes = dict.fromkeys((stream[1] for stream in streams), 0)

    def are_windows_full() -> bool:
        for message in node.messages:
            if message[0] in parts:
                sizes[message[1]] += len(message[-1])

        node.messages.clear()
        return min(sizes.values()) > WINDOW // 2

    node.wait(are_windows_full, "a window of each")
    assert max(sizes.values()) <= WINDOW


def take_part(node: FakeNode, request_id: int) -> Any:
    """Take the next part of a response; None if a ping is answered before it comes."""
    for kind in ("start", "data", "last"):
        if node.has(kind, request_id):
            return node.expect(kind, request_id)

    node.ping(0)

    if any(node.has(kind, request_id) for kind in ("start", "data", "last")):
        return take_part(node, request_id)

    return None


@pytest.mark.unmeasured
def test_upload_takes_a_window(start: Start) -> None:
    """50 MB go through an application that takes them, a window at a time."""
    size, part = 50_000_000, bytes(range(250)) * 64
    node = start()
    node.wait_ready()
    node.get("/count")
    before_kib = read_status(node.pid, "VmRSS")
    request_id = node.request("/upload", more=True)
    room, sent = WINDOW, 0

    while sent < size:
        while room < len(part):
            room += node.expect("credit", request_id)[2]

        node.send((Atom("body"), request_id, part, True))
        sent += len(part)
        room -= len(part)

    node.send((Atom("body"), request_id, b"", False))
    digest = hashlib.sha256(part * (size // len(part))).hexdigest()
    assert sent == size
    assert result(node.respond(request_id)) == [size, digest]
    assert read_status(node.pid, "VmHWM") - before_kib < 8192


def test_upload_that_nobody_takes_gets_no_credit(probe: FakeNode) -> None:
    request_id = probe.request("/receive_nothing", body=b"x" * 60000, more=True)
    probe.ping(4)
    assert not probe.has("credit", request_id)
    assert not probe.has("waiting", request_id)
    probe.send((Atom("cancel"), request_id))
    probe.respond(request_id)


def test_echo(probe: FakeNode) -> None:
    data = os.urandom(200_000)
    request_id = probe.request("/echo", body=data[:50_000], more=True, method="POST")
    probe.send((Atom("body"), request_id, data[50_000:], False))
    response = probe.respond(request_id)
    assert response.body == data
    assert response.is_complete


# Calls.


def test_calls(probe: FakeNode) -> None:
    assert result(probe.get("/ids")) == [7, True, 1]
    first = result(probe.get("/count"))
    ids = [probe.request("/count") for _ in range(50)]
    assert sorted(result(probe.respond(request_id)) for request_id in ids) == list(
        range(first + 1, first + 51)
    )


def test_calls_of_threads_while_the_loop_is_blocked(start: Start) -> None:
    node = start()
    node.wait_ready()
    assert result(node.get("/threads_while_blocked")) == list(range(1, 201))


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_threads_and_tasks_call_together(start: Start, loop: str) -> None:
    node = start(loop=Atom(loop), threads=50)
    node.wait_ready()
    ids = [node.request("/mixed"), *(node.request("/count") for _ in range(20))]
    assert result(node.respond(ids[0])) is True
    assert sorted(result(node.respond(n)) for n in ids[1:]) == list(range(1, 21))


def test_ping_is_answered_by_the_loop_only(start: Start) -> None:
    """A worker whose loop is blocked does not look healthy because a thread reads."""
    node = start()
    node.held_functions.add("state_get")
    node.wait_ready()
    request_id = node.request("/hang_in_thread")
    call = node.expect("call")
    node.send((Atom("ping"), 5))
    node.send((Atom("reply"), call[1], Atom("ok"), None))
    node.expect("pong", 5)
    # The thread read the ping while the loop waited for it to end.
    node.respond(request_id)
    request_id = node.request("/hang_in_thread")
    call = node.expect("call")
    node.send((Atom("ping"), 6), (Atom("ping"), 7))
    node.wait_output("calling")
    assert not node.has("pong", 6)
    node.send((Atom("reply"), call[1], Atom("ok"), None))
    node.expect("pong", 6)
    node.expect("pong", 7)


def test_thread_pool_has_the_size_that_was_set(start: Start) -> None:
    node = start(threads=3)
    node.wait_ready()
    names = result(node.get("/pool"))
    assert [name.rpartition("_")[0] for name in names] == ["hornbeam"] * 3


# Lifespan.

FAILED, UNSUPPORTED, TIMEOUT = (
    "lifespan_failed",
    "lifespan_unsupported",
    "startup_timeout",
)
NOT_HERE = {"message": "ValueError: no lifespan here"}
NO_ANSWER = {"message": "the application returned without an answer to startup"}
NO_DATABASE = {"message": "no database"}


@pytest.mark.parametrize(
    ("app", "auto", "on"),
    [
        ("completes", "started", "started"),
        ("fails_early", (FAILED, NO_DATABASE), (FAILED, NO_DATABASE)),
        ("fails_and_raises", (FAILED, NO_DATABASE), (FAILED, NO_DATABASE)),
        (
            "fails_late",
            (FAILED, {"message": "ValueError: late"}),
            (FAILED, {"message": "ValueError: late"}),
        ),
        ("raises", "unsupported", (UNSUPPORTED, NOT_HERE)),
        ("returns", "unsupported", (UNSUPPORTED, NO_ANSWER)),
        ("silent", (TIMEOUT, {"timeout_ms": 50}), (TIMEOUT, {"timeout_ms": 50})),
    ],
)
@pytest.mark.parametrize("mode", ["auto", "on", "off"])
def test_lifespan_modes(start: Start, app: str, auto: Any, on: Any, mode: str) -> None:
    timeout_ms = 50 if app == "silent" else 10000
    node = start(f"lives:{app}", lifespan=Atom(mode), lifespan_timeout=timeout_ms)
    expected = {"auto": auto, "on": on, "off": "off"}[mode]

    if isinstance(expected, tuple):
        assert node.wait_failed() == expected
        return

    assert node.wait_ready()["lifespan"] == Atom(expected)
    # The scope has a state where there is a lifespan.
    assert result(node.get("/")) == (expected == "started")
    outcome = "complete" if expected == "started" else "off"
    assert node.shutdown() == {"lifespan": Atom(outcome)}


@pytest.mark.parametrize(
    ("app", "message"),
    [
        ("stop_fails", "no disk"),
        ("stop_raises", "ValueError: no disk"),
        ("stop_silent", "no lifespan.shutdown.complete within 0.5 s"),
    ],
)
def test_lifespan_that_fails_to_stop(start: Start, app: str, message: str) -> None:
    # The startup, which is to succeed, has the same time.
    timeout_ms = 500 if app == "stop_silent" else 10000
    node = start(f"lives:{app}", lifespan_timeout=timeout_ms)
    node.wait_ready()
    assert node.shutdown() == {"lifespan": Atom("failed"), "message": message}


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_state_and_tasks_of_the_lifespan(start: Start, loop: str) -> None:
    node = start("lives:whole", loop=Atom(loop), lifespan=Atom("on"))
    node.wait_ready()
    names, first = result(node.get("/"))
    # Shallow copies: what a request adds is its own, the objects are shared.
    assert names == ["of_request", "ticks"]
    names, second = result(node.get("/"))
    assert names == ["of_request", "ticks"]
    assert len(second) > len(first) > 0
    assert node.shutdown() == {"lifespan": Atom("complete")}
    assert node.output == "shutting down\nafter shutdown\n"


# Shutdown.


def test_shutdown_waits_for_requests(start: Start) -> None:
    node = start()
    node.wait_ready()
    first, second = (node.request("/slow", more=True) for _ in range(2))
    node.send((Atom("shutdown"), 60000))
    # The loop has turned since.
    node.ping(1)
    node.ping(2)
    node.send((Atom("body"), first, b"", False))
    assert result(node.respond(first)) == "done"
    node.ping(3)
    assert not node.has("stopped")
    node.send((Atom("body"), second, b"", False))
    assert result(node.respond(second)) == "done"
    node.expect("stopped")
    assert node.wait_exit() == 0


def test_shutdown_cancels_what_takes_too_long(start: Start) -> None:
    node = start()
    node.wait_ready()
    request_id = node.request("/receive_nothing")
    node.send((Atom("shutdown"), 20))
    response = node.respond(request_id)
    assert response.status == 503
    node.expect("stopped")
    assert node.wait_exit() == 0


def test_stopped_is_the_last_message(start: Start) -> None:
    """Requests that are cancelled are answered before, or not any more."""
    node = start()
    node.wait_ready()
    answered = node.request("/receive_nothing")
    node.request("/stubborn")
    node.wait_output("stubborn")
    node.send((Atom("shutdown"), 0))
    assert node.wait_exit() == 0
    heads = [message[0].name for message in node.messages]
    assert ("response", answered) in [(m[0].name, m[1]) for m in node.messages]
    assert heads[-1] == "stopped"


def test_shutdown_that_waits_for_ever(start: Start) -> None:
    node = start()
    node.wait_ready()
    node.send((Atom("shutdown"), Atom("infinity")))
    node.expect("stopped")
    assert node.wait_exit() == 0


# Starlette, on each loop.


@pytest.mark.parametrize("loop", LOOPS)
def test_starlette(start: Start, loop: str) -> None:
    node = start("starlette_app:app", loop=Atom(loop), lifespan=Atom("on"))
    node.wait_ready()
    assert result(node.get("/state")) == [42, 1]
    assert result(node.get("/thread")) == [False, 2]
    assert node.get("/post", method="POST", body=b"abc").body == b"cba"
    assert result(node.get("/events")) == ["background task"]
    assert node.get("/stream").body == b"01234"
    assert node.get("/boom").status == 500
    assert node.get("/nowhere").status == 404
    check_starlette_ends(node)
    assert node.shutdown() == {"lifespan": Atom("complete")}
    assert node.output == "lifespan is over\n"


def check_starlette_ends(node: FakeNode) -> None:
    """A stream whose client leaves, and a request that is cancelled."""
    request_id = node.request("/endless")
    node.expect("start", request_id)
    node.send((Atom("disconnect"), request_id))
    node.respond(request_id)
    # The loop closes an asynchronous generator some turns later.
    wait_until(lambda: "endless stream is over" in events(node), "the stream's end")
    request_id = node.request("/slow")
    node.ping(9)
    node.send((Atom("cancel"), request_id))
    assert node.respond(request_id).kinds == []
    assert events(node)[2:] == ["slow is over"]
    # Only that of /boom.
    assert len([1 for level, _ in node.logged() if level == "error"]) == 1


def test_application_that_makes_tasks_when_imported(
    start: Start, tmp_path: Path
) -> None:
    """The loop runs while the application is imported, as under other servers."""
    (tmp_path / "app.py").write_text(
        "import asyncio\n"
        "results = []\n"
        "async def work(): results.append(1)\n"
        "task = asyncio.get_running_loop().create_task(work())\n"
        "async def app(scope, receive, send):\n"
        "    await task\n"
        "    await send({'type': 'http.response.start', 'status': 200})\n"
        "    await send({'type': 'http.response.body', 'body': b'%d' % len(results)})\n"
    )
    node = start("app:app", cwd=tmp_path)
    node.wait_ready()
    assert node.get("/").body == b"1"


@pytest.mark.parametrize(
    "python", [sys.executable, *find_pythons()], ids=os.path.basename
)
def test_factory_of_tasks(start: Start, tmp_path: Path, python: str) -> None:
    """An eager one too, where there is one."""
    (tmp_path / "app.py").write_text(
        "import asyncio\n"
        "usual = getattr(asyncio, 'eager_task_factory', None) or (\n"
        "    lambda loop, main, **options: asyncio.Task(main, loop=loop, **options))\n"
        "made = []\n"
        "def make(loop, main, **options):\n"
        "    made.append(main)\n"
        "    return usual(loop, main, **options)\n"
        "asyncio.get_running_loop().set_task_factory(make)\n"
        "async def app(scope, receive, send):\n"
        "    assert scope['type'] == 'http'\n"
        "    begun = len(made)\n"
        "    body = (await receive())['body']\n"
        "    text = b'%d %s' % (begun, body)\n"
        "    await send({'type': 'http.response.start', 'status': 200})\n"
        "    await send({'type': 'http.response.body', 'body': text})\n"
    )
    env = {"HORNBEAM_CODEC": "python"}
    node = start("app:app", cwd=tmp_path, python=python, env=env, lifespan=Atom("off"))
    node.wait_ready()
    bodies = [node.get("/", body=b"x").body for _ in range(3)]
    assert bodies == [b"1 x", b"2 x", b"3 x"]
    upload = node.request("/", method="POST", body=b"y", more=True)
    assert node.respond(upload).body == b"4 y"
