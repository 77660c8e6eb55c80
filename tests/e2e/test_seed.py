# SPDX-License-Identifier: Apache-2.0
"""Every code block of the ASGI guide, run as it stands there.

Python blocks become the file `app.py` in a folder of their own, below what they use and
do not define. The node is in that folder, and finds this Python in its PATH. Erlang
blocks are evaluated as they are; all that is added is where to listen, so that tests do
not compete for a port.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from e2e.raw import Connection
from e2e.seed_blocks import BLOCKS, CODE, Block, read_block, read_lines, read_table
from e2e.support import make_client
from node import Node, literal

# Of the guide as it was given.
GUIDE_SHA256 = "e2499234bc2d310726dd25536727f43533e1a32f413529ced161b75087f9913d"

PRELUDES = {
    "fastapi": """
import asyncio

async def fetch_item(item_id):
    await asyncio.sleep(0.01)
    return {"id": item_id, "fetched": True}
""",
    "lifespan": """
class Model:
    def __init__(self, path):
        self.path = path

    def predict(self, text):
        return f"{self.path}: {text.upper()}"

load_model = Model
""",
    "streaming": "import asyncio\n",
    "body": """
import json

def process(body):
    return {"size": len(body), "text": body[:20].decode()}
""",
    "middleware": "import time\n",
    "errors": """
async def handle_request(scope, receive, send):
    if scope["path"] == "/value":
        raise ValueError("value is wrong")
    if scope["path"] == "/other":
        raise LookupError("secret detail")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"handled"})
""",
}

MY_APP = """
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"timed"})
"""

SCOPE_APP = """
import json

async def application(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    types = {key: [type(value).__name__, repr(value)] for key, value in scope.items()}
    await send({"type": "http.response.body", "body": json.dumps(types).encode()})
"""


@pytest.fixture(scope="module")
def guide_node() -> Iterator[Node]:
    """A node that finds this Python as `python3`, as an active environment has it."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    with Node(env={"PATH": path}) as node:
        yield node


class Guide:
    """Runs blocks in a folder."""

    def __init__(self, node: Node, folder: Path) -> None:
        self.node = node
        self.folder = folder

    def write(self, block: str) -> None:
        """Make `app.py` of a Python block."""
        code = f"{PRELUDES.get(block, '')}{read_block(block)}"
        (self.folder / "app.py").write_text(code, encoding="utf-8")

    @contextmanager
    def started(self, block: str) -> Iterator[httpx.Client]:
        """Evaluate an Erlang block; gives a client of what it started."""
        command = read_block(block)
        assert command.count("#{") == 1
        command = command.replace("#{", '#{bind => "127.0.0.1:0", ')
        self.node.eval(f"ok = file:set_cwd({literal(str(self.folder))})")
        assert self.node.eval(command) == "ok"

        try:
            url = self.node.eval_text("maps:get(url, hornbeam:info())")

            with make_client(url) as client:
                yield client
        finally:
            assert self.node.eval("hornbeam:stop()") == "ok"

    @contextmanager
    def running(self, block: str, start: str) -> Iterator[httpx.Client]:
        """Write one block and start it with another."""
        self.write(block)

        with self.started(start) as client:
            yield client


@pytest.fixture
def guide(guide_node: Node, tmp_path: Path) -> Guide:
    return Guide(guide_node, tmp_path)


# The text and its blocks.


def test_text_is_the_guide() -> None:
    """The copy is the text that was given, to the byte."""
    text = "\n".join(read_lines()).encode()
    assert hashlib.sha256(text).hexdigest() == GUIDE_SHA256


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_block_is_the_guides_text(block: Block) -> None:
    """But for leading white space."""
    expected = [read_lines()[number - 1] for number in block.lines]
    code = read_block(block.name).splitlines()
    assert [line.lstrip() for line in code] == expected


def test_no_code_is_left_out() -> None:
    """Lines outside of blocks are prose, headings and tables; blocks do not overlap."""
    in_blocks = [number for block in BLOCKS for number in block.lines]
    assert len(in_blocks) == len(set(in_blocks))
    rest = [
        line
        for number, line in enumerate(read_lines(), 1)
        if number not in set(in_blocks)
    ]
    assert [line for line in rest if CODE.match(line)] == []
    code = [read_lines()[number - 1] for number in in_blocks]
    # The pattern does know code when it sees it; the rest are items of collections.
    assert sum(bool(CODE.match(line)) for line in code) > len(code) / 2


def test_every_python_block_is_tested() -> None:
    """They parse, and each is named in a test below."""
    source = Path(__file__).read_text(encoding="utf-8")

    for block in BLOCKS:
        if not block.name.startswith("start_"):
            ast.parse(read_block(block.name))

        assert re.search(rf'(running|started|write)\([^)]*"{block.name}"', source)


# The blocks at work.


def test_basic_application(guide: Guide) -> None:
    with guide.running("hello", "start_hello") as client:
        response = client.get("/")
        assert (response.status_code, response.text) == (200, "Hello from ASGI!")
        assert response.headers["content-type"] == "text/plain"


def test_scope(guide: Guide) -> None:
    """The table of the HTTP scope: keys and types."""
    (guide.folder / "app.py").write_text(SCOPE_APP, encoding="utf-8")

    with guide.started("start_hello") as client:
        scope = client.get("/p%20q?a=1", headers={"x-y": "z"}).json()

    types = {key: kind for key, kind, _ in read_table("HTTP Scope")}
    assert {key: scope[key][0] for key in types} == types
    values = {key: ast.literal_eval(scope[key][1]) for key in types}
    assert values["type"] == "http"
    assert values["asgi"]["version"] == "3.0"
    assert values["http_version"] == "1.1"
    assert (values["path"], values["query_string"]) == ("/p q", b"a=1")
    assert [b"x-y", b"z"] in [list(pair) for pair in values["headers"]]
    assert values["server"] == (client.base_url.host, client.base_url.port)
    assert values["client"][0] == "127.0.0.1"


def check_fastapi(client: httpx.Client) -> None:
    """What the FastAPI block promises, whatever was counted before."""
    first, second = (client.get("/").json()["views"] for _ in range(2))
    assert second == first + 1

    created = client.post("/items/", json={"name": "čaj"}).json()
    assert created["name"] == "čaj"
    assert client.get(f"/items/{created['id']}").json() == created

    fetched = {"id": 987654, "fetched": True}
    assert [client.get("/items/987654").json() for _ in range(2)] == [fetched] * 2
    assert client.get("/items/none").status_code == 422


def test_fastapi(guide: Guide) -> None:
    with guide.running("fastapi", "start_fastapi") as client:
        check_fastapi(client)
        name = 'maps:get(<<"name">>, hornbeam_state:get(<<"item:1">>))'
        assert guide.node.eval_text(name) == "čaj"


def test_starlette(guide: Guide) -> None:
    with guide.running("starlette", "start_fastapi") as client:
        assert client.get("/").json() == {"hello": "world"}
        assert client.get("/user/a%20b").json() == {"user_id": "a b"}


def test_lifespan(guide: Guide) -> None:
    """Startup runs before the first request, shutdown when the server stops."""
    with guide.running("lifespan", "start_lifespan") as client:
        guide.node.wait_for_output("Model loaded!")
        answer = client.get("/predict", params={"text": "hi"}).json()
        assert answer == {"result": "model.pkl: HI"}
        assert "Cleanup complete!" not in guide.node.output

    guide.node.wait_for_output("Cleanup complete!")


def test_lifespan_options(guide: Guide) -> None:
    """The values of the table are accepted: detect, require, disable."""
    values = [row[0] for row in read_table("Lifespan Options")]
    assert values == ["auto", "on", "off"]
    guide.write("hello")
    guide.node.eval(f"ok = file:set_cwd({literal(str(guide.folder))})")

    for value in values:
        start = (
            f'hornbeam:start("app", #{{bind => "127.0.0.1:0", lifespan => {value}}})'
        )
        answer = guide.node.eval(start)

        # The block's application returns at once for a scope that is not HTTP's.
        if value == "on":
            assert answer.startswith("{error,{lifespan_unsupported,")
        else:
            assert answer == "ok"
            assert guide.node.eval("hornbeam:stop()") == "ok"


def test_streaming(guide: Guide) -> None:
    """Chunks come while the application makes them, a tenth of a second apart."""
    with (
        guide.running("streaming", "start_hello") as client,
        client.stream("GET", "/") as response,
    ):
        text, seconds = read_as_it_comes(response)

    assert text == "".join(f"Chunk {i}\n" for i in range(10)) + "Done!\n"
    assert seconds > 0.5


def test_server_sent_events(guide: Guide) -> None:
    """Events come while the application makes them, a second apart."""
    with (
        guide.running("sse", "start_configured") as client,
        client.stream("GET", "/events") as response,
    ):
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        text, seconds = read_as_it_comes(response)

    assert text == "".join(f"data: Event {i}\n\n" for i in range(10))
    assert seconds > 8


def read_as_it_comes(response: httpx.Response) -> tuple[str, float]:
    """The whole text, and the seconds from its first part to its end."""
    parts = response.iter_text()
    text = next(parts)
    started = time.monotonic()
    text += "".join(parts)
    return text, time.monotonic() - started


def test_request_body(guide: Guide) -> None:
    """Of no, little and much content, whole and chunked."""
    with guide.running("body", "start_hello") as client:
        for size in (0, 5, 2_000_000):
            response = client.post("/", content=b"x" * size)
            assert response.json() == {"size": size, "text": "x" * min(size, 20)}

        response = client.post("/", content=iter([b"one ", b"two"]))
        assert response.json() == {"size": 7, "text": "one two"}
        assert response.headers["content-type"] == "application/json"


def test_early_hints(guide: Guide) -> None:
    """103 with its links, then the response."""
    with (
        guide.running("early_hints", "start_hello") as client,
        Connection(str(client.base_url)) as connection,
    ):
        response = connection.exchange()

    assert [hint.status for hint in response.informational] == [103]
    link = (b"link", b"</style.css>; rel=preload; as=style")
    assert link in response.informational[0].headers
    assert (response.status, response.text) == (200, "<html>...</html>")
    assert response.one("content-type") == b"text/html"


def test_middleware(guide: Guide) -> None:
    (guide.folder / "myapp.py").write_text(MY_APP, encoding="utf-8")

    with guide.running("middleware", "start_hello") as client:
        response = client.get("/")
        assert response.text == "timed"
        assert re.fullmatch(r"\d+\.\d{3}", response.headers["x-response-time"])


def test_configuration(guide: Guide) -> None:
    """All its options at once; four workers share the counters."""
    with guide.running("fastapi", "start_configured") as client:
        check_fastapi(client)
        workers = "length(maps:get(workers, hornbeam:info()))"
        assert guide.node.eval(workers) == "4"


def test_error_handling(guide: Guide) -> None:
    with guide.running("errors", "start_hello") as client:
        assert client.get("/").text == "handled"
        response = client.get("/value")
        assert (response.status_code, response.text) == (400, "value is wrong")
        response = client.get("/other")
        assert (response.status_code, response.text) == (500, "Internal Server Error")
