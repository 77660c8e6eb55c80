# SPDX-License-Identifier: Apache-2.0
"""Calls that tasks wait for, calls that were begun, and streams of items."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import anyio
import pytest

from hornbeam import _protocol as protocol
from hornbeam._bridge import CallFailed
from hornbeam._errors import ReentrantCall
from hornbeam._protocol import IncomingMessage
from hornbeam._runtime import Runtime
from hornbeam._slots import StreamSlot
from hornbeam._terms import Atom
from worker_support import LOOPS, Answer, Message, Peer, echo, run, until

ECHO = Atom("echo")
STREAM = Atom("stream")
CANCEL = (Atom("cast"), Atom("stream_cancel"), (7,))


class Loop:
    """The event loop's side; gets nothing here."""

    def handle(self, message: IncomingMessage) -> None:
        raise AssertionError(message)

    def is_output_expected(self) -> bool:
        return False


class Held:
    """Keeps calls until they are answered by hand."""

    def __init__(self) -> None:
        self.calls: list[Message] = []

    def __call__(self, peer: Peer, call: Message) -> None:
        self.calls.append(call)


@pytest.fixture
def peers() -> Iterator[Callable[..., Peer]]:
    made: list[Peer] = []

    def make(answer: Answer = echo) -> Peer:
        made.append(Peer(answer))
        return made[-1]

    yield make

    for peer in made:
        peer.close()


@pytest.mark.parametrize("loop", LOOPS)
def test_calls_of_tasks_cross_together(peers: Callable[..., Peer], loop: str) -> None:
    peer = peers()
    answers: list[object] = []

    async def ask(number: int) -> None:
        answers.append(await peer.channel.call_async(ECHO, (number,)))

    async def test(runtime: Runtime) -> None:
        peer.channel.attach(runtime, Loop())

        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(ask, number)

        peer.channel.detach()

    run(test, loop)
    assert sorted(answers, key=repr) == sorted(([n] for n in range(100)), key=repr)
    assert len(peer.packets) < 20


@pytest.mark.parametrize("loop", LOOPS)
def test_late_answer_to_a_cancelled_call(peers: Callable[..., Peer], loop: str) -> None:
    held = Held()
    peer = peers(held)
    channel = peer.channel

    async def test(runtime: Runtime) -> None:
        channel.attach(runtime, Loop())

        async with anyio.create_task_group() as group:
            group.start_soon(channel.call_async, ECHO, (1,))
            await until(runtime, lambda: len(held.calls) == 1)
            group.cancel_scope.cancel()

        assert channel._slots == {}
        peer.answer = echo
        peer.reply(held.calls[0], "late")
        assert await channel.call_async(ECHO, (2,)) == [2]
        channel.detach()

    run(test, loop)


def test_failure_of_a_task_s_call(peers: Callable[..., Peer]) -> None:
    def fail(peer: Peer, call: Message) -> None:
        error = (Atom("no"), {Atom("why"): 1})
        peer.send((Atom("reply"), call[1], Atom("error"), error))

    peer = peers(fail)

    async def test(runtime: Runtime) -> None:
        peer.channel.attach(runtime, Loop())

        with pytest.raises(CallFailed) as caught:
            await peer.channel.call_async(ECHO, ())

        assert (caught.value.name, caught.value.facts) == ("no", {Atom("why"): 1})
        peer.channel.detach()

    run(test)


def test_waiting_with_a_timeout(peers: Callable[..., Peer]) -> None:
    """As the reader, and as one who follows another reader; both may go on later."""
    held = Held()
    peer = peers(held)
    channel = peer.channel
    slots = [channel.start(ECHO, (number,)) for number in range(2)]

    with pytest.raises(TimeoutError):
        channel.wait(slots[0], 0.02)

    got: list[object] = []
    reader = threading.Thread(target=lambda: got.append(channel.wait(slots[0])))
    reader.start()

    while channel._role.holder == 0:
        reader.join(0.001)

    with pytest.raises(TimeoutError):
        channel.wait(slots[1], 0.02)

    assert channel._role.followers == {}

    for call in held.calls:
        peer.reply(call, call[3][0])

    assert channel.wait(slots[1], 20) == 1
    reader.join()
    assert got == [0]


def stream_of(*items: Message) -> Answer:
    """Open stream 7 for each call, with items right behind."""

    def answer(peer: Peer, call: Message) -> None:
        reply = (Atom("reply"), call[1], Atom("ok"), 7)
        peer.send(reply, *items)

    return answer


def test_items(peers: Callable[..., Peer]) -> None:
    item = (Atom("item"), 7, b"1")
    end = (Atom("stream_end"), 7)
    late = (Atom("item"), 7, b"2")
    peer = peers(stream_of(item, item, end, late))
    stream = StreamSlot()
    assert peer.channel.wait(peer.channel.start(STREAM, (), stream)) == 7
    assert [peer.channel.take_item(stream) for _ in range(3)] == [item, item, end]
    assert not stream.done
    peer.channel.close_stream(stream)
    peer.answer = echo
    peer.channel.call(ECHO, ())
    assert peer.messages == []


def test_closed_stream(peers: Callable[..., Peer]) -> None:
    """The node is told, once; late items are dropped."""
    item = (Atom("item"), 7, b"1")
    peer = peers(stream_of(item))
    stream = StreamSlot()
    peer.channel.wait(peer.channel.start(STREAM, (), stream))
    peer.channel.close_stream(stream)
    peer.channel.close_stream(stream)
    peer.answer = echo
    peer.send(item)
    assert peer.channel.call(ECHO, (1,)) == [1]
    assert peer.messages == [CANCEL]
    assert peer.channel._streams == {}


def test_stream_that_is_given_up_before_it_is_open(
    peers: Callable[..., Peer],
) -> None:
    held = Held()
    peer = peers(held)
    channel = peer.channel
    slot = channel.start(STREAM, (), StreamSlot())
    channel.forget(slot)

    while not held.calls:
        threading.Event().wait(0.001)

    peer.answer = echo
    stream_of()(peer, held.calls[0])
    assert channel.call(ECHO, ()) == []
    assert channel.call(ECHO, ()) == []
    assert peer.messages == [CANCEL]


def test_what_a_reader_has_to_send_leaves_at_once(
    peers: Callable[..., Peer],
) -> None:
    """A handler that runs while the loop's thread waits for its own call sends."""
    held = Held()
    peer = peers(held)
    channel = peer.channel

    def refuse(message: IncomingMessage) -> None:
        channel.send(protocol.pong(5))

    def answer_when_told() -> None:
        # Not before the handler's message is there.
        while (Atom("pong"), 5) not in peer.messages:
            done.wait(0.001)

        peer.reply(held.calls[0], "yes")

    done = threading.Event()

    async def test(runtime: Runtime) -> None:
        channel.take_directly(protocol.INVOKE_CANCEL, refuse)
        channel.attach(runtime, Loop())
        peer.send((Atom("invoke_cancel"), 1))
        thread = threading.Thread(target=answer_when_told)
        thread.start()
        assert channel.call(ECHO, ()) == b"yes"
        thread.join()
        channel.detach()

    run(test)


def test_handler_may_not_call(peers: Callable[..., Peer]) -> None:
    peer = peers()
    errors: list[BaseException] = []

    def call(message: IncomingMessage) -> None:
        try:
            peer.channel.call(ECHO, ())
        except ReentrantCall as exc:
            errors.append(exc)

    peer.channel.take_directly(protocol.INVOKE_CANCEL, call)
    peer.send((Atom("invoke_cancel"), 1))
    peer.channel.call(ECHO, ())
    peer.channel.call(ECHO, ())
    assert len(errors) == 1
