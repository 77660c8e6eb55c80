# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 as others speak it: curl, nghttp, h2load."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.observe import Server, serving
from node import Node

TIMEOUT_SECONDS = 30
MEBIBYTE = 1 << 20


def tool(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(name) is None, reason=f"there is no {name}")


@pytest.fixture(scope="module")
def server(node: Node) -> Iterator[Server]:
    with serving(node, "http2") as running:
        yield running


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("http2") / "body"
    path.write_bytes(bytes(range(256)) * (8 * MEBIBYTE // 256))
    return path


def run(*command: object) -> str:
    """What a client prints, on both of its outputs; it has to succeed."""
    done = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    text = done.stdout.decode("latin-1")
    assert done.returncode == 0, text
    return text


@tool("curl")
@pytest.mark.parametrize("how", ["--http2", "--http2-prior-knowledge"])
def test_curl(server: Server, how: str) -> None:
    """By upgrade and without."""
    text = run("curl", "-sS", how, "-w", "%{http_version}", f"{server.url}/hello")
    assert text == "hello2"


@tool("curl")
def test_curl_uploads_and_downloads(server: Server, body: Path) -> None:
    run(
        *("curl", "-sS", "--fail", "--http2-prior-knowledge"),
        *("--data-binary", f"@{body}", "-o", f"{body}.back", f"{server.url}/echo"),
    )
    assert digest(body) == digest(Path(f"{body}.back"))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@tool("curl")
def test_curl_head(server: Server) -> None:
    text = run(
        *("curl", "-sSI", "--http2-prior-knowledge"),
        f"{server.url}/download/head?100,10",
    )
    assert text.startswith("HTTP/2 200")


@tool("curl")
@pytest.mark.parametrize("how", ["--http2", "--http1.1"])
def test_curl_where_http2_is_off(node: Node, how: str) -> None:
    """It offers the upgrade, and goes on without."""
    with serving(node, "http2", "#{http_version => ['HTTP/1.1']}") as server:
        text = run("curl", "-sS", how, "-w", "%{http_version}", f"{server.url}/hello")

    assert text == "hello1.1"


@tool("nghttp")
def test_nghttp(server: Server) -> None:
    urls = [f"{server.url}/hello", f"{server.url}/scope"]
    text = run("nghttp", *urls)
    assert text.startswith("hello")
    assert "'http_version': '2'" in text


@tool("nghttp")
def test_nghttp_trailers(server: Server) -> None:
    text = run(
        *("nghttp", "-v", "-H", "te: trailers"),
        f"{server.url}/download/t?100000,10000,trailers",
    )
    assert "x-size: 100000" in text


@tool("nghttp")
@pytest.mark.parametrize("options", [(), ("--trailer", "x-sum: 1"), ("-b", "100")])
def test_nghttp_uploads(server: Server, body: Path, options: tuple[str, ...]) -> None:
    """With trailers, and padded."""
    text = run("nghttp", *options, "-d", body, f"{server.url}/opener/large")
    assert text == ""
    text = run("nghttp", *options, "-d", body, f"{server.url}/upload/large")
    assert text == digest(body)


@tool("nghttp")
def test_nghttp_with_a_small_window(server: Server) -> None:
    text = run("nghttp", "-w", "8", "-n", "-s", f"{server.url}/download/w?100000,10000")
    assert " 200 " in text


@tool("h2load")
def test_h2load(server: Server) -> None:
    text = run("h2load", "-n", 2000, "-c", 4, "-m", 10, f"{server.url}/hello")
    assert re.search(r"status codes: 2000 2xx, 0 3xx, 0 4xx, 0 5xx", text), text
    assert "2000 succeeded, 0 failed, 0 errored, 0 timeout" in text


@tool("h2load")
def test_h2load_on_one_connection(server: Server) -> None:
    """More requests than a flood of frames may be."""
    text = run("h2load", "-n", 3000, "-c", 1, "-m", 100, f"{server.url}/hello")
    assert "3000 succeeded, 0 failed" in text
