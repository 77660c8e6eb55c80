# SPDX-License-Identifier: Apache-2.0
"""The channel: batches, and calls that wait, from the loop and from threads."""

from __future__ import annotations

import asyncio
import os
import random
import select
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hornbeam import _protocol as protocol
from hornbeam._bridge import CallFailed
from hornbeam._channel import Channel
from hornbeam._errors import BridgeClosed, ReentrantCall
from hornbeam._etf import encode_message, pack_batch
from hornbeam._leaving import leave_in_disorder
from hornbeam._pipes import LARGE_PART_BYTES
from hornbeam._protocol import IncomingMessage
from hornbeam._reader_role import ReaderRole
from hornbeam._runtime import Runtime
from hornbeam._terms import Atom, EncodeError
from worker_support import LOOPS, Answer, Message, Peer, echo, pass_turns, run, until

ECHO = Atom("echo")


@pytest.fixture
def peers() -> Iterator[Callable[..., Peer]]:
    """Make peers that are closed after the test."""
    made: list[Peer] = []

    def make(answer: Answer = echo) -> Peer:
        made.append(Peer(answer))
        return made[-1]

    yield make

    for peer in made:
        peer.close()


class Loop:
    """The event loop's side: takes messages down."""

    def __init__(self) -> None:
        self.messages: list[IncomingMessage] = []
        self.on_message: Callable[[IncomingMessage], None] = lambda message: None
        self.expects_output = False

    def handle(self, message: IncomingMessage) -> None:
        assert isinstance(message[0], Atom)
        self.messages.append(message)
        self.on_message(message)

    def is_output_expected(self) -> bool:
        return self.expects_output


def ping(number: int) -> Message:
    return (Atom("ping"), number)


# Before there is a loop.


def test_first_message_and_calls_without_a_loop(peers: Callable[..., Peer]) -> None:
    """Code that runs while the application is imported may call the node."""
    peer = peers()
    peer.send(ping(1), ping(2))
    assert peer.channel.receive_first() == ping(1)
    assert peer.channel.call(ECHO, (b"a", 1)) == [b"a", 1]
    loop = Loop()

    async def test(runtime: Runtime) -> None:
        peer.channel.attach(runtime, loop)
        await until(runtime, lambda: loop.messages == [ping(2)])
        peer.channel.detach()

    run(test)


# The loop's messages.


@pytest.mark.parametrize("loop_name", LOOPS)
def test_messages_are_handled_in_order(
    peers: Callable[..., Peer], loop_name: str
) -> None:
    peer, loop = peers(), Loop()
    stream = b"".join(
        pack_batch([encode_message(ping(number)), encode_message(ping(number + 1))])
        for number in range(0, 100, 2)
    )

    async def test(runtime: Runtime) -> None:
        peer.channel.attach(runtime, loop)

        for begin in range(0, len(stream), 7):
            peer.send_bytes(stream[begin : begin + 7])
            await pass_turns(runtime, 1)

        await until(runtime, lambda: len(loop.messages) == 100)
        peer.channel.detach()

    run(test, loop_name)
    assert loop.messages == [ping(number) for number in range(100)]


@pytest.mark.parametrize("loop_name", LOOPS)
def test_one_packet_a_turn(peers: Callable[..., Peer], loop_name: str) -> None:
    peer, loop = peers(), Loop()

    async def test(runtime: Runtime) -> None:
        channel = peer.channel
        channel.attach(runtime, loop)
        await pass_turns(runtime)

        for number in range(3):
            channel.post(protocol.pong(number))

        await pass_turns(runtime)
        channel.post(protocol.pong(3))
        channel.detach()

    run(test, loop_name)
    peer.channel.call(ECHO, ())
    assert [len(packet) for packet in peer.packets if packet] == [3, 1]


@pytest.mark.parametrize("loop_name", LOOPS)
def test_large_part_leaves_at_once(peers: Callable[..., Peer], loop_name: str) -> None:
    """Parts of a thousand tasks do not pile up until the turn is over."""
    peer, loop = peers(), Loop()
    small, large = b"s" * (LARGE_PART_BYTES // 2), b"l" * LARGE_PART_BYTES

    async def test(runtime: Runtime) -> None:
        channel = peer.channel
        channel.attach(runtime, loop)
        await pass_turns(runtime)
        channel.post(protocol.pong(0))
        channel.post_part(protocol.data(1, small))
        assert len(channel._writer.outbox) == 2
        channel.post_part(protocol.data(2, large))
        assert channel._writer.outbox == []
        channel.post_part(protocol.data(1, b"rest"))
        assert len(channel._writer.outbox) == 1
        await pass_turns(runtime)
        assert channel._writer.outbox == []
        channel.detach()

    run(test, loop_name)
    peer.channel.call(ECHO, ())
    data = Atom("data")
    parts = [(data, 1, small), (data, 2, large), (data, 1, b"rest")]
    assert peer.messages == [(Atom("pong"), 0), *parts]


@pytest.mark.parametrize("expects_output", [False, True])
def test_answers_to_a_batch_leave_as_a_batch(
    peers: Callable[..., Peer], expects_output: bool
) -> None:
    peer, loop = peers(), Loop()
    loop.expects_output = expects_output
    channel = peer.channel
    loop.on_message = lambda message: channel.post(protocol.pong(message[1]))  # type: ignore[arg-type]  # a ping

    async def test(runtime: Runtime) -> None:
        channel.attach(runtime, loop)
        peer.send(*map(ping, range(10)))
        await until(runtime, lambda: len(peer.messages) == 10)
        channel.detach()

    run(test)
    assert [len(packet) for packet in peer.packets] == [10]


class Spy:
    """A scheduler that counts."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.calls = 0

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.calls += 1
        self.runtime.call_soon(callback)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runtime, name)


def test_what_a_batch_has_posted_leaves_without_another_turn(
    peers: Callable[..., Peer],
) -> None:
    peer, loop = peers(), Loop()
    channel = peer.channel
    loop.on_message = lambda message: channel.post(protocol.pong(1))

    async def test(runtime: Runtime) -> None:
        spy: Any = Spy(runtime)
        channel.attach(spy, loop)
        await pass_turns(runtime)
        spy.calls = 0
        peer.send(ping(1))
        await until(runtime, lambda: bool(loop.messages))
        assert channel._writer.outbox == []
        assert spy.calls == 0
        channel.detach()

    run(test)


def test_what_tasks_post_leaves_at_the_end_of_their_turn(
    peers: Callable[..., Peer],
) -> None:
    """Not a turn later: the flush is in the loop's queue behind the tasks already."""
    peer, loop = peers(), Loop()
    loop.expects_output = True
    channel = peer.channel
    left: list[int] = []

    async def test(runtime: Runtime) -> None:
        def first_step() -> None:
            runtime.call_soon(lambda: left.append(len(channel._writer.outbox)))
            channel.post(protocol.pong(1))

        loop.on_message = lambda message: runtime.call_soon(first_step)
        channel.attach(runtime, loop)
        peer.send(ping(1))
        await until(runtime, lambda: bool(left))
        channel.detach()

    run(test)
    assert left == [0]


class Outbox(list[bytes]):
    """Gets another message right after it was copied."""

    late = [protocol.pong(2), protocol.pong(1)]

    def __getitem__(self, index: Any) -> Any:
        messages = super().__getitem__(index)
        self += [self.late.pop()] if self.late else []
        return messages


def test_message_that_is_posted_while_a_thread_writes(
    peers: Callable[..., Peer],
) -> None:
    """What comes into the outbox between copy and removal is not lost."""
    peer = peers()
    channel = peer.channel
    channel._writer.outbox = Outbox([protocol.pong(0)])

    for _ in range(3):
        channel.call(ECHO, ())

    assert peer.messages == [(Atom("pong"), number) for number in range(3)]


def test_packet_larger_than_the_pipe(peers: Callable[..., Peer]) -> None:
    """A write that does not fit waits for the node, and nothing of it is lost."""
    peer = peers()
    data = os.urandom(3_000_000)
    timer = threading.Timer(0.05, peer._may_read.set)

    with peer.not_reading():
        # The peer's thread reads once more before it looks at the event.
        peer.channel.call(ECHO, ())
        peer._may_read.clear()
        timer.start()
        peer.channel.post(protocol.data(1, data))
        peer.channel.post(protocol.done(1))
        peer.channel.flush()

    timer.join()
    peer.channel.call(ECHO, ())
    assert peer.messages == [(Atom("data"), 1, data), (Atom("done"), 1)]


# Calls from the loop's thread.


@pytest.mark.parametrize("loop_name", LOOPS)
def test_call_from_a_task(peers: Callable[..., Peer], loop_name: str) -> None:
    """What comes before the reply is put aside, and handled in order afterwards."""

    def answer(peer: Peer, call: Message) -> None:
        peer.send(ping(1))
        peer.send(ping(2), (Atom("reply"), call[1], Atom("ok"), b"x"), ping(3))
        peer.send(ping(4))

    peer, loop = peers(answer), Loop()

    async def test(runtime: Runtime) -> None:
        channel = peer.channel
        channel.attach(runtime, loop)
        await pass_turns(runtime)
        channel.post(protocol.pong(7))
        assert channel.call(ECHO, ()) == b"x"
        # Handled by the loop only, and not inside of the call.
        assert loop.messages == []
        # In one packet with the call, and before it.
        assert peer.packets == [[(Atom("pong"), 7)]]
        await until(runtime, lambda: len(loop.messages) == 4)
        channel.detach()

    run(test, loop_name)
    assert loop.messages == [ping(number) for number in (1, 2, 3, 4)]


@pytest.mark.parametrize("loop_name", LOOPS)
def test_call_while_handling_a_message(
    peers: Callable[..., Peer], loop_name: str
) -> None:
    """Eager tasks run application code while a batch is handled: order is kept."""
    peer, loop = peers(), Loop()
    channel = peer.channel
    answers: list[object] = []

    def on_message(message: IncomingMessage) -> None:
        if message[1] == 1:
            peer.send(ping(3))

        answers.append(channel.call(ECHO, (message[1],)))

    loop.on_message = on_message

    async def test(runtime: Runtime) -> None:
        channel.attach(runtime, loop)
        peer.send(ping(1), ping(2))
        await until(runtime, lambda: len(answers) == 3)
        channel.detach()

    run(test, loop_name)
    assert answers == [[1], [2], [3]]
    assert loop.messages == [ping(1), ping(2), ping(3)]


def test_other_tasks_run_though_each_message_brings_another(
    peers: Callable[..., Peer],
) -> None:
    """A batch whose handling fills the inbox again does not starve the loop."""
    peer, loop = peers(), Loop()
    channel = peer.channel
    turns: list[int] = []

    def on_message(message: IncomingMessage) -> None:
        if len(loop.messages) < 50:
            peer.send(ping(len(loop.messages)))

        channel.call(ECHO, ())

    loop.on_message = on_message

    async def test(runtime: Runtime) -> None:
        channel.attach(runtime, loop)
        peer.send(ping(0))

        while len(loop.messages) < 50:
            await pass_turns(runtime, 1)
            turns.append(len(loop.messages))

        channel.detach()

    run(test)
    assert len(set(turns)) >= 20


def test_failures(peers: Callable[..., Peer]) -> None:
    def answer(peer: Peer, call: Message) -> None:
        error = (Atom("not_an_integer"), {Atom("a"): b"b"})
        peer.send((Atom("reply"), call[1], Atom("error"), error))

    channel = peers(answer).channel

    with pytest.raises(CallFailed) as caught:
        channel.call(ECHO, ())

    assert caught.value.name == "not_an_integer"
    assert caught.value.facts == {Atom("a"): b"b"}


def test_bad_arguments_send_nothing(peers: Callable[..., Peer]) -> None:
    peer = peers()

    with pytest.raises(EncodeError):
        peer.channel.call(ECHO, (object(),))

    assert peer.channel.call(ECHO, ()) == []
    assert peer.channel._slots == {}


def test_late_and_unknown_replies_are_dropped(peers: Callable[..., Peer]) -> None:
    def answer(peer: Peer, call: Message) -> None:
        for call_id in (call[1] + 100, call[1], call[1], 10**30):
            peer.send((Atom("reply"), call_id, Atom("ok"), call[1]))

    channel = peers(answer).channel
    assert [channel.call(ECHO, ()) for _ in range(3)] == [1, 2, 3]


# Calls from threads.


def in_threads(count: int, work: Callable[[int], None]) -> list[threading.Thread]:
    threads = [threading.Thread(target=work, args=(n,)) for n in range(count)]

    for thread in threads:
        thread.start()

    return threads


@pytest.mark.parametrize("loop_name", LOOPS)
def test_calls_complete_while_the_loop_is_blocked(
    peers: Callable[..., Peer], loop_name: str
) -> None:
    peer, loop = peers(), Loop()
    answers: list[Any] = []

    def work(number: int) -> None:
        answers.extend(peer.channel.call(ECHO, (number, step)) for step in range(20))

    async def test(runtime: Runtime) -> None:
        peer.channel.attach(runtime, loop)
        await pass_turns(runtime)
        peer.send(ping(1))

        # In the loop's own thread: it is blocked.
        for thread in in_threads(5, work):
            thread.join()

        # A thread may have read the ping; the loop alone answers it.
        assert loop.messages == []
        await until(runtime, lambda: loop.messages == [ping(1)])
        peer.send(ping(2))
        await until(runtime, lambda: len(loop.messages) == 2)
        peer.channel.detach()

    run(test, loop_name)
    assert sorted(answers) == [[n, step] for n in range(5) for step in range(20)]


@pytest.mark.parametrize("loop_name", LOOPS)
def test_threads_and_tasks_together(peers: Callable[..., Peer], loop_name: str) -> None:
    """50 threads and the loop call at once; replies come out of order, with pings
    between. Each gets its own answer, no ping is lost, and nobody sleeps for ever."""
    chance = random.Random(1)
    held: list[Message] = []

    def answer(peer: Peer, call: Message) -> None:
        held.append(call)
        chance.shuffle(held)

        # Some are kept back, until others come; a task's call is not.
        while held and (call[3][0] == -1 or len(held) > 3 or chance.random() < 0.7):
            late = held.pop()
            peer.send(ping(late[1]), (Atom("reply"), late[1], Atom("ok"), late[3]))

    peer, loop = peers(answer), Loop()
    wrong: list[object] = []
    running = threading.Semaphore(0)

    def work(number: int) -> None:
        wrong.extend(
            (number, step)
            for step in range(40)
            if peer.channel.call(ECHO, (number, step)) != (number, step)
        )
        running.release()

    async def test(runtime: Runtime) -> None:
        channel = peer.channel
        channel.attach(runtime, loop)
        threads = in_threads(50, work)
        done = step = 0

        while done < 50:
            # Each call of a task frees what is held back.
            if channel.call(ECHO, (-1, step)) != (-1, step):
                wrong.append((-1, step))

            await pass_turns(runtime, 1)
            step += 1
            done += running.acquire(blocking=False)

        for thread in threads:
            thread.join()

        await until(runtime, lambda: len(loop.messages) == 50 * 40 + step)
        channel.detach()

    run(test, loop_name)
    assert wrong == []
    assert peer.channel._slots == {}
    assert peer.channel._role.followers == {}


def test_loop_does_not_spin_while_a_thread_reads(
    peers: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a thread has the reader's role the loop stops watching a readable pipe."""
    peer, loop = peers(), Loop()
    channel = peer.channel
    wakeups: list[bool] = []
    in_poll, may_read = threading.Event(), threading.Event()
    take_role = channel._role.take_for_loop

    def count(me: int) -> bool:
        wakeups.append(take_role(me))
        return wakeups[-1]

    class Poll:
        def poll(self) -> None:
            in_poll.set()
            assert may_read.wait(10)

    async def test(runtime: Runtime) -> None:
        channel.attach(runtime, loop)
        await pass_turns(runtime)
        thread = threading.Thread(target=channel.call, args=(ECHO, ()))
        thread.start()
        assert in_poll.wait(10)
        # The reply is there, and nobody reads it.
        assert select.select([peer.descriptors[0]], [], [], 10)[0]
        await pass_turns(runtime, 200)
        assert wakeups == [False]
        may_read.set()
        thread.join()
        # The loop watches again.
        peer.send(ping(1))
        await until(runtime, lambda: loop.messages == [ping(1)])
        channel.detach()

    # Slots leave no room for a patch of the instance.
    monkeypatch.setattr(ReaderRole, "take_for_loop", lambda self, me: count(me))
    channel._read_poll = Poll()  # type: ignore[assignment]  # it has what is used
    run(test)
    assert wakeups == [False, True]


def test_role_is_handed_over(peers: Callable[..., Peer]) -> None:
    """The reply of a follower comes when the reader has left: it reads itself."""
    calls: list[Message] = []
    both = threading.Event()

    def answer(peer: Peer, call: Message) -> None:
        calls.append(call)

        if len(calls) == 2:
            both.set()

    peer = peers(answer)
    answers: list[Any] = []
    threads = in_threads(2, lambda n: answers.append(peer.channel.call(ECHO, (n,))))
    assert both.wait(10)
    # There is no loop: one of the two reads, the other one sleeps.
    peer.reply(calls[0], calls[0][3])
    threads[calls[0][3][0]].join(10)
    assert answers == [calls[0][3]]
    peer.reply(calls[1], calls[1][3])

    for thread in threads:
        thread.join(10)

    assert answers == [calls[0][3], calls[1][3]]


def test_calls_after_the_loop_has_ended(peers: Callable[..., Peer]) -> None:
    """Code that runs at the interpreter's exit may call the node."""
    peer, loop = peers(), Loop()

    async def test(runtime: Runtime) -> None:
        peer.channel.attach(runtime, loop)
        await pass_turns(runtime)
        peer.channel.detach()

    run(test)
    peer.send(ping(1))
    assert peer.channel.call(ECHO, (1,)) == [1]

    answers: list[Any] = []

    for thread in in_threads(
        3, lambda n: answers.append(peer.channel.call(ECHO, (n,)))
    ):
        thread.join(10)

    assert sorted(answers) == [[0], [1], [2]]
    assert loop.messages == []


@pytest.mark.parametrize("loop_name", LOOPS)
def test_thread_reads_while_the_loop_closes(
    peers: Callable[..., Peer], loop_name: str
) -> None:
    """A thread that gives the role up finds no loop any more."""
    calls: list[Message] = []
    called = threading.Event()

    def answer(peer: Peer, call: Message) -> None:
        calls.append(call)
        called.set()

    peer, loop = peers(answer), Loop()
    answers: list[object] = []
    threads: list[threading.Thread] = []

    async def test(runtime: Runtime) -> None:
        peer.channel.attach(runtime, loop)
        threads.extend(
            in_threads(1, lambda n: answers.append(peer.channel.call(ECHO, (n,))))
        )
        assert called.wait(10)

    run(test, loop_name)
    peer.send(ping(1))
    peer.reply(calls[0], b"x")
    threads[0].join(10)
    assert answers == [b"x"]


# Calls in the midst of calls.


class CallingPoll:
    """Stands for a finalizer or signal handler that runs while its thread waits."""

    def __init__(self, channel: Channel, poll: Any) -> None:
        self.channel = channel
        self.poll_object = poll
        self.caught: list[BaseException] = []

    def poll(self) -> None:
        try:
            self.channel.call(ECHO, ())
        except ReentrantCall as exc:
            self.caught.append(exc)

        self.poll_object.poll()


def test_call_inside_of_a_read(peers: Callable[..., Peer]) -> None:
    channel = peers().channel
    poll = channel._read_poll = CallingPoll(channel, channel._read_poll)  # type: ignore[assignment]  # it has what is used
    assert channel.call(ECHO, (1,)) == [1]
    assert poll.caught
    assert "finalizer or signal handler" in str(poll.caught[0])
    assert channel._slots == {}


def test_call_inside_of_a_write(peers: Callable[..., Peer]) -> None:
    peer = peers()
    channel, writer = peer.channel, peer.channel._writer
    poll = writer._poll = CallingPoll(channel, writer._poll)  # type: ignore[assignment]  # it has what is used
    data = bytes(3_000_000)
    channel.post(protocol.data(1, data))
    channel.flush()
    assert poll.caught
    assert channel._slots == {}
    assert channel.call(ECHO, (1,)) == [1]
    assert peer.messages == [(Atom("data"), 1, data)]


def test_part_inside_of_a_write(peers: Callable[..., Peer]) -> None:
    """It leaves behind that packet."""
    peer = peers()
    channel, writer = peer.channel, peer.channel._writer
    poll_object = writer._poll
    large, within = bytes(3_000_000), b"w" * LARGE_PART_BYTES

    class PostingPoll:
        def poll(self) -> None:
            writer._poll = poll_object
            channel.post_part(protocol.data(2, within))
            assert len(writer.outbox) == 1

    writer._poll = PostingPoll()  # type: ignore[assignment]  # it has what is used
    channel.post_part(protocol.data(1, large))
    channel.flush()
    assert channel.call(ECHO, (1,)) == [1]
    assert peer.messages == [(Atom("data"), 1, large), (Atom("data"), 2, within)]


def test_call_from_a_coroutine_of_another_loop(peers: Callable[..., Peer]) -> None:
    """A thread may run a loop of its own."""
    peer, loop = peers(), Loop()
    answers: list[object] = []

    async def other() -> None:
        answers.append(peer.channel.call(ECHO, (1,)))

    async def test(runtime: Runtime) -> None:
        peer.channel.attach(runtime, loop)
        thread = threading.Thread(target=lambda: asyncio.run(other()))
        thread.start()
        await until(runtime, lambda: not thread.is_alive())
        peer.channel.detach()

    run(test)
    assert answers == [[1]]


# The end.


class Left(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The statuses that the process would have left with."""
    statuses: list[int] = []

    def leave(status: int) -> None:
        statuses.append(status)
        raise Left

    monkeypatch.setattr(os, "_exit", leave)
    return statuses


def test_node_that_reads_no_more(exits: list[int]) -> None:
    descriptors = [*os.pipe(), *os.pipe()]
    os.close(descriptors.pop(2))
    channel = Channel(descriptors[0], descriptors[2])
    channel.post(protocol.pong(1))

    with pytest.raises(Left):
        channel.flush()

    assert exits == [0]

    for descriptor in descriptors:
        os.close(descriptor)


def test_end_of_input(peers: Callable[..., Peer], exits: list[int]) -> None:
    channel = peers().channel
    read, write = os.pipe()
    os.close(write)
    channel._sorter.descriptor = read

    with pytest.raises(Left):
        channel._on_readable()

    assert exits == [0]
    os.close(read)


def test_fault_of_ours(
    peers: Callable[..., Peer],
    exits: list[int],
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A message is lost: the worker is given up, with a traceback."""
    peer, loop = peers(), Loop()

    def fail(message: IncomingMessage) -> None:
        raise KeyError("bug")

    loop.on_message = fail
    peer.send(ping(1))
    peer.channel._inbox.append(ping(1))

    async def test(runtime: Runtime) -> None:
        channel = peer.channel
        channel.attach(runtime, loop)

        with pytest.raises(Left):
            channel._drain()

        channel.detach()

    run(test)
    assert exits == [71]
    assert "KeyError: 'bug'" in capfd.readouterr().err


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_part_of_the_input_is_lost(
    peers: Callable[..., Peer],
    exits: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: type[BaseException],
) -> None:
    """What follows would be taken for something else: the worker is given up."""
    peer = peers()
    peer.send(ping(1))

    def parse(packet: bytes) -> list[IncomingMessage]:
        raise error

    monkeypatch.setattr(protocol, "parse_packet", parse)

    with pytest.raises(Left):
        peer.channel._sorter.read()

    assert exits == [71]
    assert error.__name__ in capfd.readouterr().err


def test_no_memory_for_a_traceback(
    exits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves nevertheless."""

    def print_exc() -> None:
        raise MemoryError

    monkeypatch.setattr(traceback, "print_exc", print_exc)

    with pytest.raises(Left):
        leave_in_disorder()

    assert exits == [71]


def test_pipe_that_is_empty_after_all(peers: Callable[..., Peer]) -> None:
    """Somebody else may have read what the loop was woken for."""
    peer, loop = peers(), Loop()

    async def test(runtime: Runtime) -> None:
        peer.channel.attach(runtime, loop)
        peer.channel._on_readable()
        assert loop.messages == []
        peer.channel.detach()

    run(test)


def test_fork(peers: Callable[..., Peer]) -> None:
    """The parent's pipes are closed in a fork, whatever locks were held."""
    peer = peers()
    channel = peer.channel
    channel._role.mutex.acquire()
    channel._role.holder = 5
    read, write = os.pipe()
    channel._sorter.descriptor = read
    channel._writer._descriptor = write
    channel._abandon()
    channel._abandon()
    assert channel.is_closed

    for descriptor in (read, write):
        with pytest.raises(OSError):
            os.fstat(descriptor)

    with pytest.raises(BridgeClosed):
        channel.call(ECHO, ())


@pytest.mark.parametrize("name", ["flush", "_on_readable"])
def test_fork_that_comes_back_to_the_loop(
    peers: Callable[..., Peer], exits: list[int], name: str
) -> None:
    channel = peers().channel
    channel._sorter.is_closed = True

    with pytest.raises(Left):
        getattr(channel, name)()

    assert exits == [1]
