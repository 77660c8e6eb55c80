# SPDX-License-Identifier: Apache-2.0
"""Requests and responses on HTTP/1.1, asked for by wrk."""

import json
import tempfile
from pathlib import Path

from bench.figures import Sample
from bench.job import (
    ASGI_PEERS,
    Case,
    Costs,
    Job,
    Options,
    Run,
    hammer,
    latencies,
    served,
)
from bench.load import Request
from bench.servers import Server, Setup, running
from bench.transfer import download_for

KIB = 1024
ECHO_BYTES = 64 * KIB
UPLOAD_BYTES = 10_000_000
DOWNLOAD_BYTES = KIB * KIB
# As bench/apps/bodies.py has it.
DOWNLOAD = bytes(range(256)) * 4096
CHUNK = b"0123456789abcdef" * 4
CHUNKS = 10_000
FEW_CONNECTIONS = 8
WSGI_CONNECTIONS = 32

HELLO = Request(answer=b"Hello, world!")
BROWSER = Request(
    headers={
        "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101"
        " Firefox/128.0",
        "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        "Accept-Language": "en-GB,en;q=0.7,de;q=0.3",
        "Accept-Encoding": "gzip, deflate, br, zstd",
        "Referer": "https://www.example.com/articles/2024/a-page-before-this-one",
        "Cookie": "session=0123456789abcdef0123456789abcdef; theme=dark; consent=yes",
        "Upgrade-Insecure-Requests": "1",
        "Sec-Fetch-Dest": "document",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Site": "same-origin",
        "Cache-Control": "no-cache",
        "Priority": "u=0, i",
    },
    answer=HELLO.answer,
)
ORDER = Request(
    path="/orders",
    method="POST",
    headers={"Content-Type": "application/json"},
    body=json.dumps(
        {
            "customer": "Carpinus betulus",
            "lines": [
                {"name": "hedge plant", "price": 2.5, "count": 40},
                {"name": "spade", "price": 31.25, "count": 1},
            ],
            "note": "bare-rooted",
        }
    ).encode(),
    answer=b'{"customer":"Carpinus betulus","count":41,"total":131.25}',
)
ECHO = Request(
    path="/echo",
    method="POST",
    body=bytes(range(256)) * (ECHO_BYTES // 256),
    answer=bytes(range(256)) * (ECHO_BYTES // 256),
)
UPLOAD = Request(
    path="/length",
    method="POST",
    body=bytes(UPLOAD_BYTES),
    answer=str(UPLOAD_BYTES).encode(),
)
PAGE = (
    "<ul>"
    + "".join(f"<li>{number}: row {number}</li>" for number in range(10))
    + "</ul>"
)


def _chunks(server: Server, options: Options) -> Sample:
    """Whole streams, to their end: wrk would count none of one that is not over."""
    download_for(server, "/chunks", CHUNK * CHUNKS, FEW_CONNECTIONS, 0)
    costs = Costs(server)
    got = download_for(
        server, "/chunks", CHUNK * CHUNKS, FEW_CONNECTIONS, options.seconds
    )
    chunks = CHUNKS * len(got.times_s)
    sample = costs.sample(chunks) | latencies(got.times_s)
    return sample | {"rate": chunks / got.seconds, "wrong": got.wrong}


def _file(name: str, options: Options, log: Path) -> Sample:
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        file.write(DOWNLOAD)
        file.flush()
        setup = Setup("items:app", env={"BENCH_FILE": file.name})
        request = Request(path="/file", answer=DOWNLOAD)

        with running(name, setup, log) as server:
            return hammer(
                request, connections=FEW_CONNECTIONS, payload_bytes=DOWNLOAD_BYTES
            )(server, options)


def _wsgi(app: str, answer: bytes) -> Run:
    request = Request(answer=answer)
    return served(
        Setup(f"wsgi:{app}", wsgi=True), hammer(request, connections=WSGI_CONNECTIONS)
    )


def _simple(name: str, title: str, app: str, request: Request) -> Job:
    return Job(name, title, "request", (Case(served(Setup(app), hammer(request))),))


def _bulk(name: str, title: str, request: Request, payload_bytes: int) -> Job:
    measured = hammer(request, connections=FEW_CONNECTIONS, payload_bytes=payload_bytes)
    return Job(name, title, "request", (Case(served(Setup("bodies:app"), measured)),))


JOBS = (
    Job(
        "hello",
        "The smallest raw ASGI application, 64 connections, one worker",
        "request",
        (Case(served(Setup("hello:app"), hammer(HELLO))),),
        (*ASGI_PEERS, "cowboy"),
    ),
    _simple("headers", "The same with 12 headers of a browser", "hello:app", BROWSER),
    _simple("fastapi", "FastAPI, JSON validated in and out", "items:app", ORDER),
    _bulk("echo", "A POST of 64 KiB, echoed, 8 connections", ECHO, ECHO_BYTES),
    _bulk("upload", "Uploads of 10 MB, 8 connections", UPLOAD, UPLOAD_BYTES),
    _bulk(
        "download",
        "Responses of 1 MiB, 8 connections",
        Request(path="/much", answer=DOWNLOAD),
        DOWNLOAD_BYTES,
    ),
    Job(
        "chunks",
        "Responses of 10,000 chunks of 64 bytes, 8 connections; latency is that of a"
        " whole response",
        "chunk",
        (Case(served(Setup("bodies:app"), _chunks)),),
    ),
    Job(
        "file",
        "A file of 1 MiB by FileResponse, 8 connections",
        "request",
        (Case(_file),),
    ),
    Job(
        "wsgi",
        "WSGI, one worker with 8 threads, 32 connections",
        "request",
        (
            Case(_wsgi("hello", b"Hello, world!"), "hello"),
            Case(_wsgi("page", PAGE.encode()), "Flask"),
        ),
        ("gunicorn", "granian"),
    ),
)
