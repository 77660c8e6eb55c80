# SPDX-License-Identifier: Apache-2.0
"""An Erlang node with Hornbeam loaded, driven from Python tests.

`Node` starts `erl` and talks to it over two pipes, on descriptors of their own, so that
what the node prints is free for the tests to read: expressions go one way, printed
terms come back. The node halts when the pipe closes, so it never outlives the tests,
however they end.

    with Node() as node:
        url = node.start_server("app:app", "#{workers => 2}", app_dir="examples/x")
        assert node.eval("1 + 1") == "2"
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from itertools import count
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parent.parent
APPS_DIR = ROOT / "tests" / "apps"

START_TIMEOUT_SECONDS = 30.0
EVAL_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 60.0

_marks = count(1)

# Reads packets of an id and an expression's text; answers the id, a status byte and the
# value or error as text. Each expression has a process of its own: one may wait long.
_SERVE_EXPRESSIONS = """
    [Input, Output] = [list_to_integer(Fd) || Fd <- init:get_plain_arguments()],
    Run = fun(Text) ->
        try
            {ok, Tokens, _} = erl_scan:string(unicode:characters_to_list(Text)),
            {ok, Expressions} = erl_parse:parse_exprs(Tokens),
            {value, Value, _} = erl_eval:exprs(Expressions, erl_eval:new_bindings()),
            {0, Value}
        catch
            Class:Reason:Stack -> {1, {Class, Reason, Stack}}
        end
    end,
    Print = fun
        ({'$text', Text}) -> unicode:characters_to_binary(Text);
        (Value) -> unicode:characters_to_binary(io_lib:format("~0tp", [Value]))
    end,
    Answer = fun(Port, Id, Text) ->
        {Status, Value} = Run(Text),
        port_command(Port, [<<Id:32, Status>>, Print(Value)])
    end,
    Loop = fun Loop(Port) ->
        receive
            {Port, {data, <<Id:32, Text/binary>>}} ->
                spawn(fun() -> Answer(Port, Id, Text) end),
                Loop(Port);
            {Port, eof} ->
                halt(0)
        end
    end,
    ok = logger:add_primary_filter(progress, {fun logger_filters:progress/2, stop}),
    ok = logger:set_primary_config(level, info),
    Options = [binary, eof, {packet, 4}],
    spawn(fun() -> Loop(open_port({fd, Input, Output}, Options)) end).
"""


class EvalError(Exception):
    """An expression failed; the text is class, reason and stack as Erlang has them."""


class StartError(Exception):
    """`hornbeam:start` gave an error.

    `reason` is the term as Erlang prints it, the text of the exception is that of
    `hornbeam:format_error/1`.
    """

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class Node:
    """A running node. Make it with the constructor, end it with `close`."""

    def __init__(self, *, env: dict[str, str] | None = None) -> None:
        to_node_read, self._to_node = os.pipe()
        self._from_node, from_node_write = os.pipe()
        self._process = subprocess.Popen(
            _command(to_node_read, from_node_write),
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(to_node_read, from_node_write),
            # Ctrl-C is for the tests alone, which then close the node.
            start_new_session=True,
        )
        os.close(to_node_read)
        os.close(from_node_write)
        self._lock = threading.Lock()
        self._answers: dict[int, Future[str]] = {}
        self._last_id = 0
        self._is_closed = False
        self._output = Output()
        self._threads = [
            threading.Thread(target=self._read_answers, daemon=True),
            threading.Thread(target=self._read_output, daemon=True),
        ]

        for thread in self._threads:
            thread.start()

        try:
            self.eval("ok", timeout=START_TIMEOUT_SECONDS)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Node:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def os_pid(self) -> int:
        """Process id of the node itself."""
        return self._process.pid

    @property
    def output(self) -> str:
        """All that the node and its workers have printed so far, log included."""
        return self._output.text

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def eval(self, expression: str, *, timeout: float = EVAL_TIMEOUT_SECONDS) -> str:
        """Evaluate Erlang expressions and return the last value as printed by `~0tp`.

        The closing full stop may be left out. Several threads may call this at once.

        Raises:
            EvalError: An expression failed.
            TimeoutError: There is no answer in time.
            ConnectionError: The node has gone.
        """
        text = expression.strip().removesuffix(".") + "."

        try:
            return self._ask(text).result(timeout)
        except TimeoutError:
            raise TimeoutError(f"no answer within {timeout} s to: {text}") from None

    def eval_text(self, expression: str) -> str:
        """Evaluate an expression that gives text, and return that text as it is."""
        return self.eval(f"{{'$text', begin {expression} end}}")

    def start_server(
        self,
        app: str,
        options: str = "#{}",
        *,
        name: str = "default",
        app_dir: str | Path = APPS_DIR,
    ) -> str:
        """Start a server and return its base URL, like `http://127.0.0.1:40001`.

        Args:
            app: `module:attribute`.
            options: Text of an Erlang map. It wins over this method's defaults: one
                worker, a free port of 127.0.0.1, this Python, and `app_dir` as
                `pythonpath`.
            name: Name of the server, an Erlang atom.
            app_dir: Folder of the module, `tests/apps` where not given.

        Raises:
            StartError: The server did not start.
        """
        defaults = (
            f'#{{bind => "127.0.0.1:0", workers => 1,'
            f" python => {literal(sys.executable)},"
            f" pythonpath => [{literal(str(ROOT / app_dir))}]}}"
        )
        merged = f"maps:merge({defaults}, {options})"
        answer = self.eval_text(
            f"case hornbeam:start({name}, {literal(app)}, {merged}) of"
            " ok -> [];"
            ' {error, R} -> [io_lib:format("~0tp", [R]), 0, hornbeam:format_error(R)]'
            " end"
        )

        if answer:
            raise StartError(*answer.split("\0", 1))

        return self.eval_text(f"maps:get(url, hornbeam:info({name}))")

    def stop_server(self, name: str = "default") -> None:
        """Stop a server as `hornbeam:stop` does, all requests drained."""
        answer = self.eval(f"hornbeam:stop({name})")

        if answer != "ok":
            raise EvalError(answer)

    def logged(self) -> str:
        """All output, once all is in it that was logged before this call.

        The log is behind what the node does: `len(node.logged())` is where that of a
        test begins, and what is not in `node.logged()` has not been logged.
        """
        mark = f"-- mark {next(_marks)} --"
        self.eval(
            "ok = logger_std_h:filesync(default),"
            f" io:put_chars(user, <<{literal(mark)}/binary, 10>>)"
        )
        self.wait_for_output(f"{mark}\n")
        return self.output

    def wait_for_output(
        self, pattern: str, timeout: float = 10.0, *, since: int = 0
    ) -> re.Match[str]:
        """Wait until what the node printed matches a regular expression.

        Args:
            since: where to begin, as other tests have printed before.

        Raises:
            TimeoutError: It did not in time; the text has all output.
        """
        return self._output.wait_for(re.compile(pattern), timeout, since)

    def terminate(self) -> int:
        """Send SIGTERM, wait, and return the exit status."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(STOP_TIMEOUT_SECONDS)

    def kill(self) -> None:
        """End the node with SIGKILL, as an OOM killer does, and wait for it."""
        self._process.kill()
        self._process.wait(STOP_TIMEOUT_SECONDS)

    def close(self) -> None:
        """End the node: by closing its pipe, or by SIGKILL where that does not help."""
        if self._to_node >= 0:
            os.close(self._to_node)
            self._to_node = -1

        try:
            self._process.wait(STOP_TIMEOUT_SECONDS)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            for thread in self._threads:
                thread.join(STOP_TIMEOUT_SECONDS)

            if self._process.stdout is not None:
                self._process.stdout.close()

    def _ask(self, text: str) -> Future[str]:
        answer: Future[str] = Future()

        with self._lock:
            if self._is_closed:
                raise self._gone()

            self._last_id += 1
            self._answers[self._last_id] = answer
            payload = self._last_id.to_bytes(4, "big") + text.encode()

            try:
                _write_all(self._to_node, len(payload).to_bytes(4, "big") + payload)
            except BrokenPipeError as exc:
                raise self._gone() from exc

        return answer

    def _read_answers(self) -> None:
        with open(self._from_node, "rb") as answers:
            while len(head := answers.read(4)) == 4:
                self._settle(answers.read(int.from_bytes(head, "big")))

        with self._lock:
            self._is_closed = True

        for answer in self._answers.values():
            answer.set_exception(self._gone())

    def _settle(self, payload: bytes) -> None:
        with self._lock:
            answer = self._answers.pop(int.from_bytes(payload[:4], "big"))

        text = payload[5:].decode()

        if payload[4] == 0:
            answer.set_result(text)
        else:
            answer.set_exception(EvalError(text))

    def _read_output(self) -> None:
        assert self._process.stdout is not None

        while chunk := os.read(self._process.stdout.fileno(), 65536):
            self._output.append(chunk)

    def _gone(self) -> ConnectionError:
        return ConnectionError(f"the node has gone; it said:\n{self.output}")


def literal(text: str) -> str:
    """Text as an Erlang binary literal."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'<<"{escaped}"/utf8>>'


class Output:
    """Text that grows in one thread and is awaited in others."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._grown = threading.Condition()

    @property
    def text(self) -> str:
        with self._grown:
            return self._bytes.decode(errors="replace")

    def append(self, chunk: bytes) -> None:
        with self._grown:
            self._bytes += chunk
            self._grown.notify_all()

    def wait_for(
        self, pattern: re.Pattern[str], timeout: float, since: int = 0
    ) -> re.Match[str]:
        deadline = time.monotonic() + timeout

        with self._grown:
            while True:
                text = self._bytes.decode(errors="replace")

                if match := pattern.search(text, since):
                    return match

                if not self._grown.wait(deadline - time.monotonic()):
                    raise TimeoutError(
                        f"no {pattern.pattern!r} within {timeout} s in:\n{text}"
                    )


def _command(read_fd: int, write_fd: int) -> list[str]:
    """The command line of a node with all of Hornbeam's code."""
    code_paths = sorted(
        str(path)
        for folder in ("lib", "checkouts")
        for path in (ROOT / "_build" / "default" / folder).glob("*/ebin")
    )

    if not code_paths:
        raise FileNotFoundError(f"nothing is built in {ROOT}: run `make build`")

    return [
        "erl",
        "-noinput",
        *("+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none"),
        *("-pa", *code_paths, "-eval", _SERVE_EXPRESSIONS),
        *("-extra", str(read_fd), str(write_fd)),
    ]


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
