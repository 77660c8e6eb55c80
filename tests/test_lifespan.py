# SPDX-License-Identifier: Apache-2.0
"""The lifespan: every way an application can answer, and fail to."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hornbeam._asgi import AsgiApp, AsgiOrderError, Message, Receive, Scope, Send
from hornbeam._lifespan import Lifespan, Phase
from hornbeam._runtime import Runtime
from worker_support import LOOPS, pass_turns, raised_by, run, until

TIMEOUT_S = 10.0

STARTED: Message = {"type": "lifespan.startup.complete"}
START_FAILED: Message = {"type": "lifespan.startup.failed", "message": "no database"}
STOPPED: Message = {"type": "lifespan.shutdown.complete"}
STOP_FAILED: Message = {"type": "lifespan.shutdown.failed", "message": "no disk"}


class Life:
    """A lifespan and what it logged."""

    def __init__(self, runtime: Runtime, app: AsgiApp) -> None:
        self.logs: list[tuple[str, str]] = []
        self.lifespan = Lifespan(app, runtime, lambda *log: self.logs.append(log))

    @property
    def phase(self) -> Phase:
        return self.lifespan.phase


def scripted(*steps: Any) -> AsgiApp:
    """Make an application of steps: None receives, dicts are sent, others raised."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for step in steps:
            if step is None:
                await receive()
            elif isinstance(step, dict):
                await send(step)
            else:
                raise step

    return app


@pytest.mark.parametrize("loop", LOOPS)
def test_whole_life(loop: str) -> None:
    """One task from startup to shutdown, with the state that it leaves."""
    got: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        got.append({**scope, "state": dict(scope["state"])})
        scope["state"]["pool"] = got
        got.append(await receive())
        await send(STARTED)
        got.append(await receive())
        await send(STOPPED)

    async def test(runtime: Runtime) -> None:
        life = Life(runtime, app)
        assert await life.lifespan.start(TIMEOUT_S)
        assert life.phase == Phase.SERVING
        assert life.lifespan.state["pool"] is got
        assert len(got) == 2
        assert await life.lifespan.stop(TIMEOUT_S) == "complete"
        assert life.logs == []

    run(test, loop)
    assert got == [
        {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": {},
        },
        {"type": "lifespan.startup"},
        {"type": "lifespan.shutdown"},
    ]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("steps", "phase", "message"),
    [
        ([None, STARTED, None], Phase.SERVING, ""),
        ([STARTED, None, None], Phase.SERVING, ""),
        ([None, STARTED], Phase.STOPPED, ""),
        ([None, START_FAILED], Phase.FAILED, "no database"),
        ([START_FAILED], Phase.FAILED, "no database"),
        ([None, START_FAILED, ValueError("x")], Phase.FAILED, "no database"),
        ([None, STARTED, START_FAILED], Phase.FAILED, "no database"),
        ([None, STARTED, ValueError("x")], Phase.FAILED, "ValueError: x"),
        ([None, {**START_FAILED, "message": 5}], Phase.FAILED, "5"),
        ([None, {"type": "lifespan.startup.failed"}], Phase.FAILED, ""),
        ([ValueError("x")], Phase.UNSUPPORTED, "ValueError: x"),
        ([None, ValueError("x")], Phase.UNSUPPORTED, "ValueError: x"),
        ([None, SystemExit(2)], Phase.UNSUPPORTED, "SystemExit: 2"),
        ([None, KeyboardInterrupt()], Phase.UNSUPPORTED, "KeyboardInterrupt"),
        ([None], Phase.UNSUPPORTED, "the application returned without an answer"),
        ([], Phase.UNSUPPORTED, "the application returned without an answer"),
    ],
)
def test_startup(loop: str, steps: list[Any], phase: Phase, message: str) -> None:
    async def test(runtime: Runtime) -> None:
        life = Life(runtime, scripted(*steps))
        assert await life.lifespan.start(TIMEOUT_S)
        assert life.phase is phase
        assert life.lifespan.message.startswith(message)
        assert bool(life.lifespan.message) == bool(message)

    run(test, loop)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_failure_a_turn_after_complete(loop: str) -> None:
    """It has failed to start, though it said complete."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(STARTED)
        await asyncio.sleep(0)
        raise ValueError("late")

    async def test(runtime: Runtime) -> None:
        life = Life(runtime, app)
        assert await life.lifespan.start(TIMEOUT_S)
        assert life.phase is Phase.FAILED

    run(test, loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_silent_startup(loop: str) -> None:
    async def test(runtime: Runtime) -> None:
        life = Life(runtime, scripted(None, None))
        assert not await life.lifespan.start(0.02)
        assert life.phase is Phase.STARTING
        life.lifespan.cancel()

    run(test, loop)


def test_startup_without_timeout() -> None:
    async def test(runtime: Runtime) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            waiter = runtime.create_waiter()
            runtime.call_later(0.02, waiter.set)
            await waiter.wait()
            await send(STARTED)

        life = Life(runtime, app)
        assert await life.lifespan.start(None)
        assert await life.lifespan.stop(None) == "complete"

    run(test)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("steps", "outcome", "message", "is_logged"),
    [
        ([None, STOPPED], "complete", "", False),
        ([None, STOPPED, ValueError("late")], "complete", "", False),
        ([None], "complete", "", False),
        ([None, STOP_FAILED], "failed", "no disk", False),
        ([None, STOP_FAILED, ValueError("x")], "failed", "no disk", False),
        ([None, ValueError("x")], "failed", "ValueError: x", True),
        ([None, None], "failed", "no lifespan.shutdown.complete within 0.05 s", False),
    ],
)
def test_shutdown(
    loop: str, steps: list[Any], outcome: str, message: str, is_logged: bool
) -> None:
    async def test(runtime: Runtime) -> None:
        life = Life(runtime, scripted(None, STARTED, *steps))
        assert await life.lifespan.start(TIMEOUT_S)
        assert await life.lifespan.stop(0.05) == outcome
        # A task that is cancelled has its end too.
        await pass_turns(runtime)
        assert life.lifespan.message == message
        assert [level for level, _ in life.logs] == ["error"] * is_logged

    run(test, loop)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("late", [ValueError("late"), START_FAILED])
def test_failure_while_serving(loop: str, late: Any) -> None:
    """It is logged with its traceback, requests go on, and the end tells of it."""

    async def test(runtime: Runtime) -> None:
        proceed = runtime.create_waiter()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(STARTED)
            await proceed.wait()
            await scripted(late)(scope, receive, send)

        life = Life(runtime, app)
        assert await life.lifespan.start(TIMEOUT_S)
        assert life.phase is Phase.SERVING
        proceed.set()
        await until(runtime, lambda: life.phase is Phase.FAILED)
        ((level, text),) = life.logs
        assert level == "error"
        assert text.startswith("lifespan failed while serving")
        assert life.lifespan.message in text
        assert await life.lifespan.stop(TIMEOUT_S) == "failed"

    run(test, loop)


@pytest.mark.parametrize(
    ("before", "message", "expected"),
    [
        ([], STOPPED, "'lifespan.startup.complete' or 'lifespan.startup.failed'"),
        ([], {"type": "lifespan.startup"}, "'lifespan.startup.complete' or"),
        ([], {"type": "return"}, "'lifespan.startup.complete' or"),
        ([], {"type": "raise"}, "'lifespan.startup.complete' or"),
        ([STARTED], STARTED, "nothing before receive() gives 'lifespan.shutdown'"),
        ([STARTED], STOPPED, "nothing before receive() gives 'lifespan.shutdown'"),
        ([STARTED], {"type": "shutdown"}, "nothing before receive() gives"),
        ([START_FAILED], STARTED, "nothing more"),
    ],
)
def test_order(before: list[Message], message: Message, expected: str) -> None:
    caught: list[BaseException] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for step in before:
            await send(step)

        caught.append(await raised_by(send(message)))

    async def test(runtime: Runtime) -> None:
        await Life(runtime, app).lifespan.start(TIMEOUT_S)

    run(test)
    assert isinstance(caught[0], AsgiOrderError)
    assert caught[0].expected.startswith(expected)
    assert caught[0].got == repr(message["type"])


def test_order_while_stopping() -> None:
    caught: list[BaseException] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(STARTED)
        await receive()
        caught.append(await raised_by(send(STARTED)))
        await send(STOPPED)
        caught.append(await raised_by(send(STOPPED)))

    async def test(runtime: Runtime) -> None:
        life = Life(runtime, app)
        await life.lifespan.start(TIMEOUT_S)
        assert await life.lifespan.stop(TIMEOUT_S) == "complete"

    run(test)
    assert str(caught[0]).startswith("expected 'lifespan.shutdown.complete' or")
    assert str(caught[1]).startswith("expected nothing more")


def test_bad_message() -> None:
    caught: list[BaseException] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        caught.append(await raised_by(send({})))

    async def test(runtime: Runtime) -> None:
        await Life(runtime, app).lifespan.start(TIMEOUT_S)

    run(test)
    assert isinstance(caught[0], TypeError)


@pytest.mark.parametrize("loop", LOOPS)
def test_third_receive_waits_until_the_task_is_cancelled(loop: str) -> None:
    got: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            got.append(message["type"])
            await send({"type": f"{message['type']}.complete"})

    async def test(runtime: Runtime) -> None:
        life = Life(runtime, app)
        assert await life.lifespan.start(TIMEOUT_S)
        assert await life.lifespan.stop(TIMEOUT_S) == "complete"
        assert life.logs == []

    run(test, loop)
    assert got == ["lifespan.startup", "lifespan.shutdown"]
