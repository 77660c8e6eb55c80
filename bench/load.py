# SPDX-License-Identifier: Apache-2.0
"""Loads by wrk and h2load: the command, and what it printed as figures."""

import http.client
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from bench.measure import percentile
from bench.servers import HOST, Failed, Server, Skip

TIMEOUT_S = 30
_GRACE_S = 60

_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}
_WRK_DONE = re.compile(r"(\d+) requests in ([\d.]+)(us|ms|s|m),")
_WRK_LATENCY = re.compile(r"^\s+(50|99)%\s+([\d.]+)(us|ms|s|m) *$", re.MULTILINE)
_WRK_ERRORS = re.compile(
    r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)"
)
_WRK_STATUS = re.compile(r"Non-2xx or 3xx responses: (\d+)")
_H2_DONE = re.compile(r"finished in ([\d.]+)(us|ms|s|m),")
_H2_STATUS = re.compile(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx")
_H2_FAILED = re.compile(r"(\d+) failed, (\d+) errored, (\d+) timeout")


@dataclass(frozen=True)
class Request:
    """What a load asks for, and the answer that is right."""

    path: str = "/"
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    answer: bytes = b""
    """The body that the answer must have."""


@dataclass(frozen=True)
class Done:
    """What a load got."""

    requests: int
    seconds: float
    wrong: int
    """Answers that were errors, or did not come."""
    p50_ms: float
    p99_ms: float


def probe(server: Server, request: Request) -> None:
    """See that the answer is right to the last byte.

    Raises:
        Failed: It is not.
    """
    connection = http.client.HTTPConnection(HOST, server.port, timeout=TIMEOUT_S)

    try:
        connection.request(
            request.method, request.path, request.body or None, request.headers
        )
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as exc:
        raise Failed(f"{server.name} gave no answer: {exc!r}") from exc
    finally:
        connection.close()

    if response.status != 200 or body != request.answer:
        raise Failed(
            f"{server.name} answered {response.status} with {body[:100]!r}"
            f" ({len(body)} bytes), expected 200 with {request.answer[:100]!r}"
            f" ({len(request.answer)} bytes)"
        )


def wrk(server: Server, request: Request, seconds: float, connections: int) -> Done:
    """Ask without a pause on so many connections."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "request.lua")
        script.write_text(lua(request, Path(folder, "body")))
        command = [
            _program("wrk"), "--threads", "1", "--connections", str(connections),
            "--duration", f"{max(1, round(seconds))}s", "--latency",
            "--timeout", f"{TIMEOUT_S}s", "--script", str(script), server.url,
        ]  # fmt: skip
        return parse_wrk(_output(command, seconds))


def lua(request: Request, body: Path) -> str:
    """What wrk is told by: its command line has no bodies."""
    lines = [f'wrk.method = "{request.method}"', f'wrk.path = "{request.path}"']
    lines += [
        f'wrk.headers["{name}"] = [==[{value}]==]'
        for name, value in request.headers.items()
    ]

    if request.body:
        body.write_bytes(request.body)
        lines.append(f'wrk.body = io.open("{body}", "rb"):read("*a")')

    return "\n".join(lines) + "\n"


def parse_wrk(text: str) -> Done:
    """Read what `wrk --latency` prints.

    Raises:
        Failed: Not one request was answered.
        ValueError: This is something else.
    """
    done = _search(_WRK_DONE, text)
    errors = _WRK_ERRORS.search(text)
    status = _WRK_STATUS.search(text)
    wrong = sum(map(int, errors.groups())) if errors else 0
    wrong += int(status[1]) if status else 0
    latencies = {
        percent: _ms(value, unit) for percent, value, unit in _WRK_LATENCY.findall(text)
    }

    if not latencies:
        raise Failed(f"wrk had no answer; {wrong} errors")

    return Done(
        requests=int(done[1]),
        seconds=_ms(done[2], done[3]) / 1000,
        wrong=wrong,
        p50_ms=latencies["50"],
        p99_ms=latencies["99"],
    )


def h2load(
    server: Server, request: Request, seconds: float, connections: int, streams: int
) -> Done:
    """Ask without a pause on HTTP/2, so many streams at once on each connection."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "requests")
        command = [
            _program("h2load"), "--clients", str(connections),
            "--max-concurrent-streams", str(streams),
            "--duration", str(max(1, round(seconds))), "--log-file", str(log),
            f"http://{HOST}:{server.port}{request.path}",
        ]  # fmt: skip
        text = _output(command, seconds)
        return parse_h2load(text, log.read_text().splitlines())


def parse_h2load(text: str, log: Iterable[str]) -> Done:
    """Read what h2load prints, and the lines of its log: start, status, microseconds.

    What was under way when time was up is in neither.

    Raises:
        Failed: Not one request was answered.
        ValueError: This is something else.
    """
    done = _search(_H2_DONE, text)
    right = int(_search(_H2_STATUS, text)[1])
    others = sum(int(count) for count in _search(_H2_STATUS, text).groups()[1:])
    wrong = others + sum(map(int, _search(_H2_FAILED, text).groups()))
    times_ms = [int(line.split()[2]) / 1000 for line in log]

    if not times_ms:
        raise Failed(f"h2load had no answer; {wrong} errors")

    return Done(
        requests=right,
        seconds=_ms(done[1], done[2]) / 1000,
        wrong=wrong,
        p50_ms=percentile(times_ms, 50),
        p99_ms=percentile(times_ms, 99),
    )


def _search(pattern: "re.Pattern[str]", text: str) -> "re.Match[str]":
    if (match := pattern.search(text)) is None:
        raise ValueError(f"no {pattern.pattern!r} in:\n{text}")

    return match


def _ms(value: str, unit: str) -> float:
    return float(value) * _UNITS[unit]


def _output(command: list[str], seconds: float) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds + _GRACE_S
    )

    if done.returncode != 0:
        raise Failed(f"{command[0]} failed: {done.stdout}{done.stderr}")

    return done.stdout


def _program(name: str) -> str:
    if (path := shutil.which(name)) is None:
        raise Skip(f"{name} is not installed")

    return path
