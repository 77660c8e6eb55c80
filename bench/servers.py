# SPDX-License-Identifier: Apache-2.0
"""Hornbeam and its peers: how each is started, awaited, and ended.

All run the same application with the same number of workers, on uvloop, without an
access log, under the interpreter that runs the bench. Limits that a job would meet, on
connections or idle time, are raised for all.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench import measure

ROOT = Path(__file__).resolve().parent.parent
APPS = ROOT / "bench" / "apps"
COWBOY_SOURCE = ROOT / "bench" / "bench_cowboy.erl"

HOST = "127.0.0.1"
START_TIMEOUT_S = 30.0
END_TIMEOUT_S = 30.0
POLL_S = 0.005
# Longer than any job lets a connection be.
IDLE_S = 3600
# The most sockets that a job opens, and room.
CONNECTIONS = 12_000


class Skip(Exception):
    """A server cannot do a job; the text says why."""


class Failed(Exception):
    """A server did not start, or ended."""


@dataclass(frozen=True)
class Setup:
    """What a job wants of a server."""

    app: str
    """`module:attribute` of `bench/apps`."""
    workers: int = 1
    wsgi: bool = False
    threads: int = 8
    """Of a worker that runs a WSGI application."""
    http2: bool = False
    reloads: bool = False
    """SIGHUP replaces the workers."""
    env: dict[str, str] = field(default_factory=dict)
    vm_flags: tuple[str, ...] = ()
    """Of the node, beside those that all have."""


@dataclass(frozen=True)
class Server:
    """A server that answers requests."""

    name: str
    pid: int
    port: int
    spawned_s: float
    """When its process was made, as `time.perf_counter` has it."""
    log: Path
    others: tuple[int, ...] = ()
    """Further processes that work for it, like redis."""

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/"

    def pids(self) -> list[int]:
        return [pid for each in (self.pid, *self.others) for pid in measure.tree(each)]


Command = Callable[[Setup, int], list[str]]


def _hornbeam(setup: Setup, port: int) -> list[str]:
    options = {
        "bind": f'"{HOST}:{port}"',
        "workers": str(setup.workers),
        "threads": str(setup.threads),
        "worker_class": "wsgi" if setup.wsgi else "asgi",
        "python": f'"{sys.executable}"',
        "max_connections": str(CONNECTIONS),
        "max_concurrency": str(CONNECTIONS),
        "keepalive": str(IDLE_S * 1000),
        "header_timeout": str(IDLE_S * 1000),
        "websocket_timeout": str(IDLE_S * 1000),
        "websocket_ping": "infinity",
    }

    # The number of threads is what bounds a worker then.
    if setup.wsgi:
        del options["max_concurrency"]

    text = ", ".join(f"{name} => {value}" for name, value in options.items())
    start = f'ok = hornbeam:start("{setup.app}", #{{{text}}}).'
    reloads = ["-hornbeam", "reload_on_sighup", "true"] if setup.reloads else []
    return [*_erl(), *setup.vm_flags, *reloads, "-eval", start]


def _uvicorn(setup: Setup, port: int) -> list[str]:
    _refuse("uvicorn speaks no WSGI", setup.wsgi)
    _refuse("uvicorn speaks no HTTP/2", setup.http2)
    # One worker needs a supervisor for nothing but to be reloaded.
    return [
        *_module("uvicorn"), setup.app, "--host", HOST, "--port", str(port),
        "--workers", str(setup.workers), "--loop", "uvloop", "--http", "httptools",
        "--no-access-log", "--log-level", "warning",
        "--timeout-keep-alive", str(IDLE_S), "--ws-ping-interval", str(IDLE_S),
        "--ws-per-message-deflate", "false",
    ]  # fmt: skip


def _granian(setup: Setup, port: int) -> list[str]:
    kind = ["--interface", "wsgi", "--blocking-threads", str(setup.threads)]

    if not setup.wsgi:
        kind = ["--interface", "asgi", "--loop", "uvloop"]

    return [
        *_module("granian"), setup.app, "--host", HOST, "--port", str(port),
        "--workers", str(setup.workers), *kind, "--no-access-log",
        "--log-level", "warning", "--http", "auto" if setup.http2 else "1",
        "--http1-header-read-timeout", "60000",
        "--backlog", "4096", "--backpressure", str(CONNECTIONS),
        "--respawn-failed-workers", "--workers-kill-timeout", "5",
    ]  # fmt: skip


def _hypercorn(setup: Setup, port: int) -> list[str]:
    _refuse("hypercorn runs WSGI through a wrapper of its own", setup.wsgi)
    _refuse("hypercorn reloads on no signal", setup.reloads)
    return [
        *_module("hypercorn"), setup.app, "--bind", f"{HOST}:{port}",
        "--workers", str(setup.workers), "--worker-class", "uvloop",
        "--log-level", "warning", "--keep-alive", str(IDLE_S), "--backlog", "2048",
    ]  # fmt: skip


def _gunicorn(setup: Setup, port: int) -> list[str]:
    _refuse("gunicorn's uvicorn workers speak no HTTP/2", setup.http2)
    kind = ["--worker-class", "uvicorn_worker.UvicornWorker"]

    if setup.wsgi:
        kind = ["--worker-class", "gthread", "--threads", str(setup.threads)]

    return [
        *_module("gunicorn"), setup.app, "--bind", f"{HOST}:{port}",
        "--workers", str(setup.workers), *kind, "--log-level", "warning",
        "--keep-alive", str(IDLE_S), "--no-control-socket",
    ]  # fmt: skip


def _daphne(setup: Setup, port: int) -> list[str]:
    _refuse("daphne speaks no WSGI", setup.wsgi)
    _refuse("daphne has one process", setup.workers > 1 or setup.reloads)
    _refuse("daphne needs TLS for HTTP/2", setup.http2)
    return [
        *_module("daphne"), setup.app, "--bind", HOST, "--port", str(port),
        "--verbosity", "0", "--ping-interval", str(IDLE_S),
    ]  # fmt: skip


def _cowboy(setup: Setup, port: int) -> list[str]:
    _refuse("Cowboy alone runs no application", setup.app != "hello:app")
    folder = ROOT / "_build" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    command = ["erlc", *_code_paths(), "-o", str(folder), str(COWBOY_SOURCE)]
    subprocess.run(command, check=True)
    return [*_erl(), "-pa", str(folder), "-eval", f"bench_cowboy:start({port})."]


COMMANDS: dict[str, Command] = {
    "hornbeam": _hornbeam,
    "uvicorn": _uvicorn,
    "granian": _granian,
    "hypercorn": _hypercorn,
    "gunicorn": _gunicorn,
    "daphne": _daphne,
    "cowboy": _cowboy,
}


@contextlib.contextmanager
def running(name: str, setup: Setup, log: Path) -> Iterator[Server]:
    """Run a server until the block ends.

    Raises:
        Skip: It cannot do what the setup asks for.
        Failed: It does not answer in time.
    """
    port = free_port()
    command = COMMANDS[name](setup, port)
    # Of the bench's own path, what applications import is all that they may see.
    env = {**os.environ, "PYTHONPATH": str(ROOT / "python"), **setup.env}
    spawned_s = time.perf_counter()

    with spawned(command, log, env) as process:
        server = Server(name, process.pid, port, spawned_s, log)
        _await_answer(server, process)
        yield server


@contextlib.contextmanager
def spawned(
    command: list[str], log: Path, env: dict[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program in a session of its own; it and all its children end here."""
    log.parent.mkdir(parents=True, exist_ok=True)

    with log.open("ab") as output:
        output.write(f"$ {' '.join(command)}\n".encode())
        output.flush()
        process = subprocess.Popen(
            command,
            cwd=APPS,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    try:
        yield process
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kill all: to close thousands of connections one by one takes long."""
    members = {pid: measure.start_time(pid) for pid in measure.tree(process.pid)}

    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)

    for pid, started in members.items():
        # Some are in sessions of their own.
        if started is not None and measure.start_time(pid) == started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    process.wait(END_TIMEOUT_S)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return port


def _await_answer(server: Server, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_TIMEOUT_S

    while not _answers(server.url):
        if process.poll() is not None:
            raise Failed(f"{server.name} has ended: see {server.log}")

        if time.monotonic() > deadline:
            raise Failed(f"{server.name} does not answer: see {server.log}")

        time.sleep(POLL_S)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def _refuse(reason: str, condition: bool) -> None:
    if condition:
        raise Skip(reason)


def _module(name: str) -> list[str]:
    return [sys.executable, "-m", name]


def _erl() -> list[str]:
    # As scripts/run.sh has it: schedulers must not spin while they wait.
    quiet = ["+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none"]
    return ["erl", "-noinput", "+Bi", *quiet, *_code_paths()]


def _code_paths() -> list[str]:
    built = ROOT / "_build" / "default"
    folders = [*built.glob("lib/*/ebin"), *built.glob("checkouts/*/ebin")]

    if not folders:
        raise Failed("nothing is built: run `make build`")

    return [word for folder in sorted(folders) for word in ("-pa", str(folder))]
