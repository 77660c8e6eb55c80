# SPDX-License-Identifier: Apache-2.0
"""Lifespans, driven from the node and over a socket."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from e2e.support import env_option, make_client, serving, unique
from node import Node, StartError

SILENT_MS = 300

# What an application does -> how it ends with `auto` and with `on` (None: it starts),
# and a part of the sentence.
UNSUPPORTED = "lifespan_unsupported"
FAILED = "lifespan_failed"
TABLE = {
    "complete": (None, None, ""),
    "complete_late": (None, None, ""),
    "failed": (FAILED, FAILED, "sorry, čaj: failed"),
    "failed_late": (FAILED, FAILED, "sorry, čaj: failed_late"),
    "raises": (None, UNSUPPORTED, "RuntimeError: raised in startup"),
    "returns": (None, UNSUPPORTED, "returned"),
    "returns_unasked": (None, UNSUPPORTED, "returned"),
    "silent": ("startup_timeout", "startup_timeout", f"{SILENT_MS} ms"),
}


def kind_options(kind: str, lifespan: str, mark: str = "") -> str:
    env = env_option({"E2E_LIFESPAN": kind, "E2E_MARK": mark})
    return (
        f"#{{lifespan => {lifespan}, env => {env},"
        f" lifespan_timeout => {SILENT_MS if kind == 'silent' else 10_000}}}"
    )


@pytest.mark.parametrize("lifespan", ["auto", "on", "off"])
@pytest.mark.parametrize("kind", TABLE)
def test_table(node: Node, kind: str, lifespan: str) -> None:
    """What the option makes of what the application does."""
    auto, on, sentence = TABLE[kind]
    outcome = {"auto": auto, "on": on, "off": None}[lifespan]
    mark = unique(kind)
    options = kind_options(kind, lifespan, mark)
    serve = serving(node, "lifespan_kinds:application", options, name="kinds")

    if outcome is None:
        with serve as url:
            assert httpx.get(url).text == kind

        node.wait_for_output(f"{mark} serves")
    else:
        with pytest.raises(StartError, match=sentence) as failure, serve:
            pass

        assert failure.value.reason.startswith(f"{{{outcome},")
        assert node.eval("hornbeam:info(kinds)").startswith("{error,{not_started,")

    if lifespan == "off":
        assert f"{mark} was asked" not in node.output
    else:
        node.wait_for_output(f"{mark} was asked")


def test_reason_of_a_failed_startup(node: Node) -> None:
    """A name and facts, with the application's message as text."""
    options = kind_options("failed", "auto")

    with (
        pytest.raises(StartError) as failure,
        serving(node, "lifespan_kinds:application", options),
    ):
        pass

    # Erlang prints bytes beyond Latin-1's letters as numbers.
    message = ",".join(str(byte) for byte in "sorry, čaj: failed".encode())
    assert failure.value.reason == f"{{lifespan_failed,#{{message => <<{message}>>}}}}"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("shutdown_failed", "could not flush"),
        ("shutdown_raises", "RuntimeError: raised in shutdown"),
    ],
)
def test_shutdown_fails(node: Node, kind: str, message: str) -> None:
    """The server stops all the same; the log says why."""
    options = kind_options(kind, "auto")

    with serving(node, "lifespan_kinds:application", options, name="kinds") as url:
        assert httpx.get(url).text == kind
        node.stop_server("kinds")

    node.wait_for_output(message)


def test_shutdown_of_each_worker(node: Node) -> None:
    """Startup and shutdown run once in every worker."""
    mark = unique("each")
    env = env_option({"E2E_MARK": mark})
    options = f"#{{workers => 3, lifespan => on, env => {env}}}"

    with serving(node, "lifespan_kinds:application", options):
        node.wait_for_output(f"(?s)({mark} was asked.*){{3}}")
        assert f"{mark} was shut down" not in node.output

    node.wait_for_output(f"(?s)({mark} was shut down.*){{3}}")
    assert node.output.count(mark) == 6


# State and tasks.


@pytest.fixture(scope="module")
def client(node: Node) -> Iterator[httpx.Client]:
    """A client of `lifespan_state`."""
    with (
        serving(node, "lifespan_state:app", "#{lifespan => on}") as url,
        make_client(url) as client,
    ):
        yield client


def test_state_holds_objects(client: httpx.Client) -> None:
    """Requests share the very object that startup has made."""
    answers = [client.get("/use").json() for _ in range(3)]
    assert len({answer["pool"] for answer in answers}) == 1
    first = answers[0]["used"]
    assert [answer["used"] for answer in answers] == [first, first + 1, first + 2]


def test_state_is_copied_for_each_request(client: httpx.Client) -> None:
    """Shallow: an entry stays in its request, a change of an object does not."""
    first = client.get("/own?name=a").json()
    second = client.get("/own?name=b").json()
    assert first["before"] == second["before"] == ["names", "pool", "scalar"]
    assert first["scalar"] == second["scalar"] == 2
    assert (first["names"], second["names"]) == (["a"], ["a", "b"])


def test_tasks_of_the_startup_live_on(client: httpx.Client) -> None:
    """A task that startup has made still works between and during requests."""
    for _ in range(2):
        ticks = client.get("/tick").json()
        assert ticks["after"] > ticks["before"]


def test_stop_lets_requests_finish_first(node: Node) -> None:
    """Then shutdown runs, with the startup's task still alive."""
    printed = len(node.logged())

    with (
        serving(node, "lifespan_state:app", name="slow") as url,
        ThreadPoolExecutor(1) as pool,
    ):
        answer = pool.submit(httpx.get, f"{url}/slow")
        node.wait_for_output("lifespan_state: slow began", since=printed)
        node.stop_server("slow")
        assert answer.result().json() == {"finished": True}

    node.wait_for_output("lifespan_state: stopped, task alive: True", since=printed)
    told = node.output[printed:]
    assert told.index("slow ends") < told.index("lifespan_state: stopped")


def test_terminated_node_runs_shutdown(fresh_node: Node) -> None:
    """SIGTERM is a stop in order."""
    mark = unique("terminated")
    fresh_node.start_server(
        "e2e.apps.lifespan_kinds:application",
        kind_options("complete", "on", mark),
        app_dir="tests",
    )
    assert fresh_node.terminate() == 0
    fresh_node.wait_for_output(f"{mark} was shut down")
