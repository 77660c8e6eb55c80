# SPDX-License-Identifier: Apache-2.0
"""Starting and stopping: every error has its name, and nothing is ever left behind."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from ast import literal_eval
from collections.abc import Iterator
from contextlib import contextmanager
from operator import le
from pathlib import Path

import pytest

from e2e.observe import TESTS_DIR, Server, python_processes, serving, survivors
from e2e.raw import Connection, Cut, request, wait_until
from node import Node, StartError, literal
from ports import free_port


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The file to which `raw_apps/life.py` writes what happens."""
    path = tmp_path / "life.log"
    path.touch()
    return path


def life(log: Path, mode: str = "complete", **options: str) -> str:
    """Options of a server for `raw_apps/life.py`."""
    variables = f'#{{"LIFE_LOG" => {literal(str(log))}, "LIFESPAN" => {literal(mode)}}}'
    pairs = {"env": variables, **options}
    return f"#{{{', '.join(f'{key} => {value}' for key, value in pairs.items())}}}"


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines()


@contextmanager
def nothing_left(node: Node) -> Iterator[None]:
    """Check that a block leaves no process, port or table, in the node or beside it."""
    # What is made once; the resolver has a process and a port.
    node.eval("application:ensure_all_started(hornbeam)")
    node.eval('inet:getaddr("nowhere.invalid", inet)')
    # Servers of earlier tests end with all of their connections.
    wait_until(lambda: node.eval("ranch:info()") == "#{}", "there is no other server")
    before = count(node)
    pids = python_processes(node)
    yield
    # What helped earlier ones to end may end meanwhile.
    wait_until(lambda: is_no_more(count(node), before), "nothing is left in the node")
    assert survivors([pid for pid in python_processes(node) if pid not in pids]) == []


def count(node: Node) -> list[int]:
    """Processes, ports, tables, listeners and servers."""
    numbers: list[int] = literal_eval(
        node.eval(
            "[length(processes()), length(erlang:ports()), length(ets:all()),"
            " map_size(ranch:info()),"
            " length(supervisor:which_children(hornbeam_servers_sup))]"
        )
    )
    return numbers


def is_no_more(now: list[int], before: list[int]) -> bool:
    return all(map(le, now, before))


def fail(
    node: Node,
    app: str = "e2e.raw_apps.life:application",
    options: str = "#{}",
    app_dir: Path = TESTS_DIR,
) -> StartError:
    """Start a server that can't be, and see that nothing of it stays."""
    with nothing_left(node), pytest.raises(StartError) as caught:
        node.start_server(app, options, name="failing", app_dir=app_dir)

    assert "not_started" in node.eval("hornbeam:info(failing)")
    return caught.value


def name_of(error: StartError) -> str:
    found = re.match(r"\{(\w+),", error.reason)
    assert found is not None, error.reason
    return found[1]


# Errors of the start.


def test_invalid_options(node: Node) -> None:
    """All of them at once, each with its key, its value, and what is expected."""
    error = fail(
        node,
        options='#{workers => 0, bind => <<"nowhere.invalid:80">>, wrokers => 2,'
        " lifespan => maybe}",
    )
    assert name_of(error) == "invalid_options"
    sentence = str(error)

    for text in (
        "workers is 0",
        "from 1 to 1024",
        "nowhere.invalid does not",
        "did you mean the atom workers?",
        "lifespan is maybe",
        "auto, on or off",
    ):
        assert text in sentence


@pytest.mark.parametrize(
    ("app", "message"),
    [
        ("no_such_module:app", "no_such_module"),
        ("e2e.raw_apps.no_such:app", "no_such"),
        ("e2e.raw_apps.life:no_such", "has no attribute 'no_such'"),
        ("e2e.raw_apps.life:routes.no_such", "has no attribute 'no_such'"),
        ("e2e.raw_apps.toolbox", "neither 'application' nor 'app'"),
    ],
)
def test_app_not_found(node: Node, app: str, message: str) -> None:
    error = fail(node, app)
    assert name_of(error) == "app_not_found"
    assert message in str(error)


@pytest.mark.parametrize("app", ["", ":app", "app:", "a b:app", "app:app()", "a:b:c"])
def test_app_that_is_no_name(node: Node, app: str) -> None:
    error = fail(node, app)
    assert name_of(error) == "invalid_options"
    assert "module:attribute" in str(error)


BROKEN_MODULES = {
    "raises": ("1 / 0\n", "ZeroDivisionError"),
    "syntax": ("def app(:\n", "SyntaxError"),
    "imports": ("import no_such_module\n", "No module named 'no_such_module'"),
    "exits": ("import sys\nsys.exit('no licence')\n", "SystemExit"),
}


@pytest.mark.parametrize("case", BROKEN_MODULES)
@pytest.mark.parametrize("workers", [1, 2])
def test_app_import_failed(node: Node, tmp_path: Path, case: str, workers: int) -> None:
    """With Python's traceback, in reason and sentence, and without frames of ours."""
    source, message = BROKEN_MODULES[case]
    (tmp_path / "broken.py").write_text(source)
    error = fail(node, "broken:app", f"#{{workers => {workers}}}", tmp_path)
    assert name_of(error) == "app_import_failed"
    assert message in str(error)
    assert "broken.py" in str(error)
    assert "traceback =>" in error.reason
    assert "_loader.py" not in str(error)


def test_app_not_callable(node: Node, tmp_path: Path) -> None:
    (tmp_path / "number.py").write_text("app = 5\n")
    error = fail(node, "number:app", app_dir=tmp_path)
    assert name_of(error) == "app_not_callable"
    assert "of type int" in str(error)


def test_wrong_worker_class(node: Node, tmp_path: Path) -> None:
    """By what it is, not at its first request."""
    (tmp_path / "new.py").write_text("async def app(scope, receive, send): ...\n")
    error = fail(node, "new:app", "#{worker_class => wsgi}", app_dir=tmp_path)
    assert name_of(error) == "worker_class_unsupported"


def test_worker_exited(node: Node, tmp_path: Path) -> None:
    (tmp_path / "leaves.py").write_text("import os\nos._exit(7)\n")
    error = fail(node, "leaves:app", app_dir=tmp_path)
    assert name_of(error) == "worker_exited"
    assert "status 7" in str(error)


def test_python_not_found(node: Node) -> None:
    for python in ("no-such-python", "/no/such/python"):
        error = fail(node, options=f"#{{python => {literal(python)}}}")
        assert name_of(error) == "python_not_found"
        assert python in str(error)


def test_python_that_is_none(node: Node) -> None:
    """A program that can be run and is no interpreter."""
    error = fail(node, options='#{python => <<"false">>}')
    assert name_of(error) == "worker_exited"


def test_venv_not_found(node: Node, tmp_path: Path) -> None:
    """Missing, and there but without an interpreter."""
    for venv in (tmp_path / "missing", tmp_path):
        options = f'#{{venv => {literal(str(venv))}, python => <<"python3">>}}'
        error = fail(node, options=options)
        assert name_of(error) == "venv_not_found"
        assert str(venv) in str(error)


def test_loop_unavailable(node: Node, bare_venv: Path) -> None:
    """In an environment that has neither uvloop nor trio."""
    for loop in ("uvloop", "trio"):
        error = fail(node, options=in_venv(bare_venv, loop=loop))
        assert name_of(error) == "loop_unavailable"
        assert f"the event loop {loop} is not available" in str(error)


def test_venv(node: Node, bare_venv: Path) -> None:
    """Its interpreter runs the workers; `auto` is asyncio where there is no uvloop."""
    with serving(node, "life", in_venv(bare_venv, loop="auto")) as server:
        assert server.worker_facts("loop") == ["asyncio"]
        executable = Path(f"/proc/{server.worker_pids()[0]}/cmdline").read_text()
        assert executable.startswith(str(bare_venv))

        with Connection(server.url) as client:
            assert client.get("/hello").text == "hello"


@pytest.fixture(scope="module")
def bare_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("venv")
    command = [sys.executable, "-m", "venv", "--without-pip", str(path)]
    subprocess.run(command, check=True)
    return path


def in_venv(venv: Path, *, loop: str) -> str:
    return f'#{{venv => {literal(str(venv))}, python => <<"python3">>, loop => {loop}}}'


def test_chdir(node: Node, tmp_path: Path) -> None:
    """Modules are found from there, where `pythonpath` is relative."""
    missing = tmp_path / "missing"
    error = fail(node, options=f"#{{chdir => {literal(str(missing))}}}")
    assert name_of(error) == "chdir_failed"
    assert str(missing) in str(error)

    (tmp_path / "here.py").write_text(
        "import os\n"
        "async def app(scope, receive, send):\n"
        "    assert scope['type'] == 'http'\n"
        "    await send({'type': 'http.response.start', 'status': 200})\n"
        "    body = os.getcwd().encode()\n"
        "    await send({'type': 'http.response.body', 'body': body})\n"
    )
    options = f'#{{chdir => {literal(str(tmp_path))}, pythonpath => ["."]}}'
    url = node.start_server("here:app", options, name="here")

    try:
        with Connection(url) as client:
            assert client.get("/").text == str(tmp_path)
    finally:
        node.stop_server("here")


def test_address_in_use(node: Node) -> None:
    """Of another program; none of several addresses stays open then."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        options = f'#{{bind => ["127.0.0.1:0", {literal(address)}]}}'
        error = fail(node, options=options)

    assert name_of(error) == "address_in_use"
    assert address in str(error)


def test_address_of_another_machine(node: Node) -> None:
    error = fail(node, options='#{bind => "192.0.2.1:8000"}')
    assert name_of(error) == "bind_failed"
    assert "192.0.2.1:8000" in str(error)


def test_already_started(node: Node, log: Path) -> None:
    """The one that runs is not touched."""
    with serving(node, "life", life(log)) as server:
        before = server.worker_pids()

        with pytest.raises(StartError) as caught:
            node.start_server(
                "e2e.raw_apps.life:application", name=server.name, app_dir=TESTS_DIR
            )

        assert name_of(caught.value) == "already_started"
        assert server.worker_pids() == before


def test_not_started(node: Node) -> None:
    for call in ("stop(nobody)", "info(nobody)"):
        assert (
            node.eval(f"hornbeam:{call}") == "{error,{not_started,#{name => nobody}}}"
        )


# Unix sockets.


def test_stale_unix_socket(node: Node, tmp_path: Path, log: Path) -> None:
    """The file of a server that was killed is no obstacle."""
    path = tmp_path / "stale.sock"

    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
        stale.listen()

    with serving(node, "life", life(log, bind=f'"unix:{path}"')) as server:
        with Connection(server.url) as client:
            assert client.get("/hello").text == "hello"

    assert not path.exists()


def test_unix_socket_in_use(node: Node, tmp_path: Path) -> None:
    """One that somebody listens on stays."""
    path = tmp_path / "used.sock"

    with socket.socket(socket.AF_UNIX) as used:
        used.bind(str(path))
        used.listen()
        error = fail(node, options=f'#{{bind => "unix:{path}"}}')
        assert name_of(error) == "address_in_use"
        assert path.exists()


def test_unix_path_that_is_a_file(node: Node, tmp_path: Path) -> None:
    """A file with contents is nothing that a server may remove."""
    path = tmp_path / "precious"
    path.write_text("precious")
    error = fail(node, options=f'#{{bind => "unix:{path}"}}')
    assert name_of(error) in ("address_in_use", "bind_failed")
    assert path.read_text() == "precious"


# Lifespan.

FAILED, UNSUPPORTED, TIMEOUT = (
    "lifespan_failed",
    "lifespan_unsupported",
    "startup_timeout",
)
LIFESPANS = {
    "complete": ("started", "started"),
    "failed-early": (FAILED, FAILED),
    "failed-late": (FAILED, FAILED),
    "raises": ("unsupported", UNSUPPORTED),
    "returns": ("unsupported", UNSUPPORTED),
    "silent": (TIMEOUT, TIMEOUT),
}


@pytest.mark.parametrize("option", ["auto", "on"])
@pytest.mark.parametrize("mode", LIFESPANS)
def test_lifespan(node: Node, log: Path, mode: str, option: str) -> None:
    """The table of the documentation, row by row."""
    expected = LIFESPANS[mode][option == "on"]
    timeout_ms = "300" if mode == "silent" else "10000"
    options = life(log, mode, lifespan=option, lifespan_timeout=timeout_ms)

    if expected in ("started", "unsupported"):
        with serving(node, "life", options) as server, Connection(server.url) as client:
            assert server.worker_facts("lifespan") == [expected]
            assert client.get("/hello").text == "hello"
    else:
        error = fail(node, options=options)
        assert name_of(error) == expected
        assert {FAILED: "no database", TIMEOUT: "300 ms"}.get(expected, "") in str(
            error
        )

    assert lines(log)[0] == "asked"


@pytest.mark.parametrize("mode", LIFESPANS)
def test_lifespan_off(node: Node, log: Path, mode: str) -> None:
    """The application is not asked, and a request has no state."""
    with serving(node, "life", life(log, mode, lifespan="off")) as server:
        assert server.worker_facts("lifespan") == ["off"]

        with Connection(server.url) as client:
            assert client.get("/state").text == "None"

    assert lines(log) == []


def test_lifespan_of_each_worker(node: Node, log: Path) -> None:
    """Startup before the first request, shutdown at the stop."""
    with serving(node, "life", life(log, workers="3")):
        assert lines(log).count("lifespan.startup") == 3
        assert "lifespan.shutdown" not in lines(log)

    assert lines(log).count("lifespan.shutdown") == 3


def test_state_is_copied(node: Node, log: Path) -> None:
    """A shallow copy for each request: its own keys go, what it points at stays."""
    with serving(node, "life", life(log)) as server, Connection(server.url) as client:
        states = [literal_eval(client.get("/state").text) for _ in range(3)]

    assert states == [{"shared": [1] * count, "number": 1} for count in range(3)]


def test_tasks_of_the_startup_go_on(node: Node, log: Path) -> None:
    with serving(node, "life", life(log)) as server, Connection(server.url) as client:
        before = int(client.get("/ticks").text)
        wait_until(lambda: int(client.get("/ticks").text) > before, "it ticks")


@pytest.mark.parametrize("mode", ["shutdown-raises", "shutdown-silent"])
def test_shutdown_that_fails(node: Node, log: Path, mode: str) -> None:
    """It is logged, and the server ends all the same, in its time."""
    options = life(log, mode, lifespan_timeout="1000")
    printed = len(node.logged())
    began = time.monotonic()

    with serving(node, "life", options) as server:
        pids = server.worker_pids()
        began = time.monotonic()

    assert time.monotonic() - began < 5
    assert survivors(pids) == []
    wait_until(
        lambda: "lifespan_shutdown_failed" in node.output[printed:], "it is logged"
    )


# Stop.


def test_start_stop_start(node: Node, log: Path) -> None:
    """On the same port, again and again, and nothing stays."""
    bind = f'"127.0.0.1:{free_port()}"'

    with nothing_left(node):
        for _ in range(5):
            with serving(node, "life", life(log, bind=bind)) as server:
                with Connection(server.url) as client:
                    assert client.get("/hello").text == "hello"


def test_several_servers(node: Node, log: Path) -> None:
    """Side by side, each with its application, and each stopped for itself."""
    with serving(node, "contract") as first, serving(node, "life", life(log)) as second:
        with Connection(second.url) as client:
            assert client.get("/ticks").status == 200

        with Connection(first.url) as client:
            assert client.get("/ticks").status == 404
            node.stop_server(second.name)
            assert client.get("/hello").text == "hello"

    assert "lifespan.shutdown" in lines(log)


def test_several_addresses(node: Node, log: Path, tmp_path: Path) -> None:
    """One server on all of them, as `info` tells."""
    path = tmp_path / "app.sock"
    bind = f'["127.0.0.1:0", "unix:{path}", "127.0.0.1:0"]'

    with serving(node, "life", life(log, bind=bind)) as server:
        text = node.eval_text(
            'lists:join(<<" ">>, [U || #{url := U} <-'
            f" maps:get(listeners, hornbeam:info({server.name}))])"
        )
        urls = text.split()
        assert len(set(urls)) == 3

        for url in urls:
            with Connection(url) as client:
                assert client.get("/hello").text == "hello"


class Stopping:
    """A stop under way in a thread of its own."""

    def __init__(self, server: Server) -> None:
        self._thread = threading.Thread(
            target=server.node.stop_server, args=[server.name]
        )
        self._began = time.monotonic()
        self._thread.start()

    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def join(self) -> float:
        """Wait for its end; seconds that it took."""
        self._thread.join(30)
        assert not self._thread.is_alive()
        return time.monotonic() - self._began


def upload(client: Connection) -> None:
    """Begin a request that ends when `x` is sent."""
    client.send(request("POST", "/upload", [("Content-Length", "1")]))


def is_refused(server: Server) -> bool:
    try:
        Connection(server.url).close()
    except (ConnectionRefusedError, ConnectionResetError):
        return True

    return False


def test_stop_drains(node: Node, log: Path) -> None:
    """No new connections, no idle ones; what runs is finished, then the shutdown."""
    with serving(node, "life", life(log)) as server:
        busy, idle = Connection(server.url), Connection(server.url)

        with busy, idle:
            assert idle.get("/hello").text == "hello"
            upload(busy)
            wait_until(lambda: "upload began" in lines(log), "it runs")
            stopping = Stopping(server)
            idle.read_eof()
            wait_until(lambda: is_refused(server), "new connections are refused")
            assert not stopping.is_over()
            assert "lifespan.shutdown" not in lines(log)
            busy.send(b"x")
            assert busy.read_response("POST").text == "x"
            busy.read_eof()
            assert stopping.join() < 10

    assert lines(log)[-2:] == ["upload ended", "lifespan.shutdown"]


def test_stop_does_not_wait_for_ever(node: Node, log: Path) -> None:
    """After `shutdown_timeout` what still runs is cut, cancelled, and shut down."""
    options = life(log, shutdown_timeout="300")

    with serving(node, "life", options) as server, Connection(server.url) as client:
        client.send(request(target="/slow"))
        wait_until(lambda: "slow began" in lines(log), "it runs")
        pids = server.worker_pids()
        assert 0.25 < Stopping(server).join() < 5

        with pytest.raises(Cut):
            client.read_response()

    assert survivors(pids) == []
    assert lines(log)[-2:] == ["CancelledError", "lifespan.shutdown"]


@pytest.mark.parametrize("how", ["sleep", "c", "loop"])
def test_stop_of_a_blocked_worker(node: Node, log: Path, how: str) -> None:
    """It can't be asked, and is killed when its time is over."""
    options = life(log, shutdown_timeout="200", lifespan_timeout="1000")

    with serving(node, "life", options) as server, Connection(server.url) as client:
        client.send(request(target=f"/block/{how}"))
        wait_until(lambda: "blocked" in lines(log), "it is blocked")
        pids = server.worker_pids()
        assert Stopping(server).join() < 10

    assert survivors(pids) == []


# The end of the node.


def test_sigterm(log: Path) -> None:
    """A clean end: what runs is finished, the lifespan shut down, no process stays."""
    with Node() as node, serving(node, "life", life(log, workers="2")) as server:
        pids = python_processes(node)
        assert set(server.worker_pids()) <= set(pids)

        with Connection(server.url) as client:
            upload(client)
            wait_until(lambda: "upload began" in lines(log), "it runs")
            statuses: list[int] = []
            ending = threading.Thread(target=lambda: statuses.append(node.terminate()))
            ending.start()
            wait_until(lambda: is_refused(server), "new connections are refused")
            client.send(b"x")
            assert client.read_response("POST").text == "x"
            ending.join(30)

    assert statuses == [0]
    assert survivors(pids) == []
    assert lines(log).count("lifespan.shutdown") == 2


@pytest.mark.parametrize("how", [None, "sleep", "c", "loop"])
def test_node_is_killed(log: Path, how: str | None) -> None:
    """No worker outlives its node, whatever it is doing."""
    with Node() as node, serving(node, "life", life(log, workers="2")) as server:
        pids = python_processes(node)
        assert len(pids) >= 2

        with Connection(server.url) as client:
            if how is not None:
                client.send(request(target=f"/block/{how}"))
                wait_until(lambda: "blocked" in lines(log), "it is blocked")

            node.kill()

        assert survivors(pids, seconds=5) == []


# sys.config.


def test_sys_config(tmp_path: Path, log: Path) -> None:
    """Options may stand there, and those of the call win."""
    (tmp_path / "sys.config").write_text(
        '[{hornbeam, [{server_header, "configured"}, {max_body, 3},'
        " {workers, 7}, {timeout, 1000}]}].\n"
    )
    flags = {"ERL_FLAGS": f"-config {tmp_path / 'sys'}"}

    with Node(env=flags) as node:
        options = life(log, workers="2", max_body="4")

        with serving(node, "life", options) as server, Connection(server.url) as client:
            assert len(server.worker_pids()) == 2
            answer = client.post("/upload", b"1234")
            assert (answer.status, answer.one("server")) == (200, b"configured")
            assert client.get("/slow").status == 504
            assert client.post("/upload", b"12345").status == 413


def test_bad_sys_config(tmp_path: Path) -> None:
    """Is an error like one of the call."""
    (tmp_path / "sys.config").write_text("[{hornbeam, [{worker, 7}]}].\n")

    with Node(env={"ERL_FLAGS": f"-config {tmp_path / 'sys'}"}) as node:
        error = fail(node)

    assert name_of(error) == "invalid_options"
    assert "did you mean the atom workers?" in str(error)
