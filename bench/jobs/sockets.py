# SPDX-License-Identifier: Apache-2.0
"""WebSockets: an echo, and one message to many."""

import asyncio
import json
import time

from bench import clients
from bench.clients import Connection
from bench.figures import Sample
from bench.job import Case, Costs, Job, Options, latencies, served
from bench.load import TIMEOUT_S
from bench.servers import Failed, Server, Setup

ECHOERS = 100
ECHO_PAYLOAD = b"a message that comes back just as it was sent, 64 bytes in all.."
RECEIVERS = 2000
MESSAGE_BYTES = 100
PUBLISH = f"/publish?bytes={MESSAGE_BYTES}"


class Echoer(Connection):
    """Sends a message when the one before has come back."""

    asked = clients.text_frame(ECHO_PAYLOAD, from_client=True)
    answer = clients.text_frame(ECHO_PAYLOAD, from_client=False)

    def __init__(self, server: Server) -> None:
        super().__init__(clients.handshake(server, "/"), 101)
        self.times_s: list[float] = []
        self.wrong = 0
        self._data = b""
        self._sent_s = 0.0
        self._until_s = 0.0

    def ask_until(self, until_s: float) -> None:
        self._until_s = until_s
        self._ask()

    def _ask(self) -> None:
        self._sent_s = time.perf_counter()
        self.transport.write(self.asked)

    def received(self, data: bytes) -> None:
        self._data += data

        if len(self._data) < len(self.answer):
            return

        now = time.perf_counter()

        if self._data == self.answer:
            self.times_s.append(now - self._sent_s)
        else:
            self.wrong += 1

        self._data = b""

        if now < self._until_s and not self.wrong:
            self._ask()
        else:
            self.transport.abort()


def _echo(server: Server, options: Options) -> Sample:
    return clients.run(_echo_all(server, options))


async def _echo_all(server: Server, options: Options) -> Sample:
    count = options.count(ECHOERS)
    echoers = await clients.open_all(server, lambda: Echoer(server), count)
    costs = Costs(server)
    began = time.perf_counter()

    for echoer in echoers:
        echoer.ask_until(began + options.seconds)

    closed = asyncio.gather(*(echoer.closed for echoer in echoers))
    await asyncio.wait_for(closed, options.seconds + TIMEOUT_S)
    seconds = time.perf_counter() - began
    times_s = [each for echoer in echoers for each in echoer.times_s]
    # Each owed an answer when time was up, unless it was cut off before.
    wrong = sum(echoer.wrong for echoer in echoers)
    wrong += sum(not echoer.times_s for echoer in echoers)
    sample = costs.sample(len(times_s)) | latencies(times_s)
    return sample | {"rate": len(times_s) / seconds, "wrong": wrong}


class Receivers:
    """Counts the bytes that a publish owes to all sockets."""

    def __init__(self) -> None:
        self._owing = 0
        self._done: asyncio.Future[float] | None = None

    def expect(self, count: int) -> "asyncio.Future[float]":
        self._owing = count
        self._done = asyncio.get_running_loop().create_future()
        return self._done

    def received(self, count: int) -> None:
        self._owing -= count

        if self._owing == 0 and self._done is not None:
            self._done.set_result(time.perf_counter())


class Receiver(Connection):
    """A WebSocket that all messages go to."""

    frame = clients.text_frame(b"x" * MESSAGE_BYTES, from_client=False)

    def __init__(self, server: Server, receivers: Receivers) -> None:
        super().__init__(clients.handshake(server, "/connect"), 101)
        self.wrong = 0
        self._receivers = receivers
        self._data = b""

    def received(self, data: bytes) -> None:
        self._data += data

        while len(self._data) >= len(self.frame):
            self.wrong += not self._data.startswith(self.frame)
            self._data = self._data[len(self.frame) :]

        self._receivers.received(len(data))


def _broadcast(server: Server, options: Options) -> Sample:
    return clients.run(_broadcast_all(server, options))


async def _broadcast_all(server: Server, options: Options) -> Sample:
    receivers = Receivers()
    count = options.count(RECEIVERS)
    sockets = await clients.open_all(server, lambda: Receiver(server, receivers), count)
    await _await_count(server, count)
    await _publish(server, receivers, count)
    costs = Costs(server)
    times_s: list[float] = []
    began = time.perf_counter()

    while time.perf_counter() - began < options.seconds:
        times_s.append(await _publish(server, receivers, count))

    seconds = time.perf_counter() - began
    messages = count * len(times_s)
    sample = costs.sample(messages) | latencies(times_s)
    wrong = sum(socket.wrong for socket in sockets)
    clients.close_all(sockets)
    return sample | {"rate": messages / seconds, "wrong": wrong}


async def _await_count(server: Server, count: int) -> None:
    """The handshake of the last may be there before the application knows of it."""
    deadline = time.monotonic() + TIMEOUT_S

    while (connected := (await _get(server, "/"))["connected"]) != count:
        if time.monotonic() > deadline:
            raise Failed(f"{connected} of {count} sockets are connected")

        await asyncio.sleep(0.01)


async def _publish(server: Server, receivers: Receivers, count: int) -> float:
    """Return the seconds until all have it."""
    done = receivers.expect(count * len(Receiver.frame))
    began = time.perf_counter()
    answer = asyncio.create_task(_get(server, PUBLISH))
    last = await asyncio.wait_for(done, TIMEOUT_S)
    reached = (await answer)["reached"]

    if reached != count:
        raise Failed(f"a message reached {reached} of {count} sockets")

    return last - began


async def _get(server: Server, path: str) -> dict[str, int]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    request = clients.get(server, path)
    writer.write(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()

    if not head.startswith(b"HTTP/1.1 200 "):
        raise Failed(f"{path}: answered {head[:200]!r}")

    answer: dict[str, int] = json.loads(body)
    return answer


JOBS = (
    Job(
        "ws-echo",
        "100 WebSockets, a message of 64 bytes each at a time",
        "message",
        (Case(served(Setup("echoes:app"), _echo)),),
    ),
    Job(
        "broadcast",
        "One message of 100 bytes to 2,000 WebSockets, under Hornbeam by a topic,"
        " elsewhere one after the other; latency is until the last has it",
        "receipt",
        (Case(served(Setup("fanout:app"), _broadcast)),),
    ),
)
