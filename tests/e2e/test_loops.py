# SPDX-License-Identifier: Apache-2.0
"""Event loops and versions of Python: each does the same work."""

from __future__ import annotations

import asyncio
import hashlib
import os
import platform
import random
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from e2e.support import (
    E2E_DIR,
    env_option,
    make_async_client,
    make_client,
    open_gate,
    serving,
    unique,
    wait_for_gate,
)
from node import ROOT, Node, StartError, literal

VERSIONS = ("3.10", "3.11", "3.12", "3.13")
LOOPS = ("asyncio", "uvloop", "trio")

REQUESTS = 100
AT_A_TIME = 20

SITE_PACKAGES = sysconfig.get_path("purelib")
"""Where this Python's packages are; those without compiled parts run on others too."""


def find_interpreter(version: str) -> str:
    """The newest interpreter of a version that pyenv has; skip without one."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = sorted(
        root.glob(f"versions/{version}.*/bin/python"),
        key=lambda path: [int(digits) for digits in re.findall(r"\d+", path.parts[-3])],
    )

    if not found:
        pytest.skip(f"no Python {version} in {root}/versions")

    interpreter = str(found[-1])
    # One that was built from other sources than those of today would not do.
    run_in(ROOT, str(ROOT / "scripts" / "build_ext.sh"), interpreter)
    return interpreter


def run_in(folder: Path, *command: str) -> str:
    """What a command prints."""
    done = subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def ask_interpreter(interpreter: str, code: str) -> str:
    """What another Python prints, with the worker's packages at hand."""
    return run_in(ROOT / "python", interpreter, "-c", code)


def worker_info(node: Node, server: str, key: str) -> str:
    """What `hornbeam:info/1` tells of the only worker."""
    return node.eval_text(
        f"#{{workers := [#{{{key} := Value}}]}} = hornbeam:info({server}),"
        ' io_lib:format("~ts", [Value])'
    )


# The work.


def check_work(url: str, *, loop: str, python: str) -> None:
    """What every loop of every version must do."""
    with make_client(url) as client:
        about = client.get("/about", params=unique("count")).json()
        assert about == {
            "python": python,
            "loop": loop,
            "lifespan": ["started"],
            "token": "from startup",
            "counted": [1, 2],
        }
        content = random.Random(6).randbytes(1_000_000)
        assert client.post("/echo", content=content).content == content
        digest = hashlib.sha256(content).hexdigest()
        assert client.put("/digest", content=iter([content])).text == digest
        assert client.get("/raise").status_code == 500
        assert client.get("/nothing").status_code == 404

    asyncio.run(_check_many(url))


async def _check_many(url: str) -> None:
    """Requests side by side get their own bodies, and their own context variables."""
    async with make_async_client(url, connections=AT_A_TIME) as client:
        left = iter(range(REQUESTS))

        async def check() -> None:
            for n in left:
                echoed = await client.post("/echo", content=f"{n}")
                assert echoed.text == f"{n}"
                context = await client.get("/context", params=f"{n}")
                assert context.text == "nobody True"

        await asyncio.gather(*(check() for _ in range(AT_A_TIME)))


@pytest.mark.parametrize("loop", LOOPS)
def test_loop(node: Node, loop: str) -> None:
    """Each that can be asked for by name."""
    pytest.importorskip(loop)
    options = f"#{{loop => {loop}, lifespan => on}}"

    with serving(node, "smoke_app:application", options, name="loop") as url:
        assert worker_info(node, "loop", "loop") == loop
        check_work(url, loop=loop, python=platform.python_version())

    node.wait_for_output(rf"smoke: shut down on \S+ {loop}\n")


def test_auto_takes_uvloop(node: Node) -> None:
    """Where it is installed."""
    pytest.importorskip("uvloop")

    with serving(node, "smoke_app:application", name="loop"):
        assert worker_info(node, "loop", "loop") == "uvloop"


@pytest.mark.parametrize("version", VERSIONS)
def test_version(node: Node, version: str) -> None:
    """On a bare interpreter: nothing but the standard library."""
    interpreter = find_interpreter(version)
    python = ask_interpreter(
        interpreter, "import platform as p; print(p.python_version())"
    )
    codec = ask_interpreter(interpreter, "import hornbeam._etf as e; print(e.CODEC)")
    options = f"#{{python => {literal(interpreter)}, lifespan => on, loop => asyncio}}"

    with serving(node, "smoke_app:application", options, name="version") as url:
        assert worker_info(node, "version", "python") == python
        assert worker_info(node, "version", "codec") == codec
        check_work(url, loop="asyncio", python=python)

    node.wait_for_output(rf"smoke: shut down on {re.escape(python)} asyncio\n")


def test_pure_codec(node: Node) -> None:
    """The same without the C extension."""
    options = '#{env => #{"HORNBEAM_CODEC" => "python"}, loop => asyncio}'

    with serving(node, "smoke_app:application", options, name="pure") as url:
        assert worker_info(node, "pure", "codec") == "python"
        check_work(url, loop="asyncio", python=platform.python_version())


def test_loop_that_is_not_there(node: Node) -> None:
    """An interpreter without uvloop says so; `auto` takes what there is."""
    interpreter = find_interpreter("3.12")
    found = "import importlib.util as u; print(u.find_spec('uvloop') is not None)"

    if ask_interpreter(interpreter, found) == "True":
        pytest.skip(f"{interpreter} has uvloop")

    options = f"#{{python => {literal(interpreter)}, loop => uvloop}}"

    with (
        pytest.raises(StartError, match="uvloop is not available") as failure,
        serving(node, "smoke_app:application", options),
    ):
        pass

    assert failure.value.reason.startswith("{loop_unavailable,")
    options = f"#{{python => {literal(interpreter)}}}"

    with serving(node, "smoke_app:application", options, name="loop"):
        assert worker_info(node, "loop", "loop") == "asyncio"


# Frameworks.


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("loops") / "sample.bin"
    path.write_bytes(random.Random(8).randbytes(300_000))
    return path


@pytest.fixture(scope="module", params=["trio", "asyncio"])
def fastapi(
    request: pytest.FixtureRequest, node: Node, sample: Path
) -> Iterator[httpx.Client]:
    """A client of `fastapi_flow` on a loop that is not the default."""
    pytest.importorskip(request.param)
    env = env_option({"E2E_FILE": str(sample)})
    options = f"#{{loop => {request.param}, env => {env}}}"

    with serving(node, "fastapi_flow:app", options) as url, make_client(url) as client:
        yield client


def test_fastapi_threads(fastapi: httpx.Client) -> None:
    assert fastapi.get("/thread").json() == {"is_main": False}


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_fastapi_background_task(fastapi: httpx.Client, kind: str) -> None:
    name = unique("task")
    assert fastapi.get(f"/background/{kind}/{name}").json() == {"answered": name}
    open_gate(fastapi, f"{name}-go")
    wait_for_gate(fastapi, f"{name}-done")


def test_fastapi_dependencies(fastapi: httpx.Client) -> None:
    name = unique("connection")
    assert fastapi.get("/dependency/async", params={"name": name}).status_code == 200
    wait_for_gate(fastapi, f"{name}-committed")
    assert fastapi.get("/dependency/sync", params={"name": name}).status_code == 200
    wait_for_gate(fastapi, f"{name}-closed")


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_fastapi_stream(fastapi: httpx.Client, kind: str) -> None:
    name = unique("stream")

    with fastapi.stream("GET", f"/stream/{kind}/{name}") as response:
        parts = response.iter_text()

        for number in range(3):
            assert next(parts) == f"part {number}\n"
            open_gate(fastapi, f"{name}-{number}")

        assert list(parts) == []


def test_fastapi_file_and_upload(fastapi: httpx.Client, sample: Path) -> None:
    content = sample.read_bytes()
    assert fastapi.get("/file").content == content
    response = fastapi.post("/upload", data={"comment": "c"}, files={"file": content})
    assert response.json()["sha256"] == hashlib.sha256(content).hexdigest()


def test_fastapi_error(fastapi: httpx.Client, node: Node) -> None:
    """The traceback is in the log, though trio wraps errors in groups."""
    name = unique("stream")

    with (
        pytest.raises(httpx.RemoteProtocolError),
        fastapi.stream("GET", f"/stream/broken/{name}") as response,
    ):
        response.read()

    node.wait_for_output(f"RuntimeError: stream broken on purpose: {name}")


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
@pytest.mark.parametrize("version", VERSIONS)
def test_starlette(node: Node, version: str, loop: str) -> None:
    """Task groups of anyio on every version: from 3.12 on tasks start eagerly."""
    interpreter = find_interpreter(version)

    if tuple(map(int, version.split("."))) < sys.version_info[:2]:
        pytest.skip("on older versions, packages want others that this one has not got")

    paths = ", ".join(map(literal, (str(E2E_DIR.parent), SITE_PACKAGES)))
    options = (
        f"#{{python => {literal(interpreter)}, loop => {loop},"
        f" pythonpath => [{paths}]}}"
    )

    with (
        serving(node, "starlette_app:tagged", options) as url,
        make_client(url) as client,
    ):
        content = random.Random(9).randbytes(300_000)
        assert client.post("/echo", content=content).content == content
        assert client.get("/things/a").headers["x-tag"] == "GET"
        name = unique("stream")

        with client.stream("GET", "/endless", params={"name": name}) as response:
            next(response.iter_raw())

        wait_for_gate(client, f"{name}-closed")
