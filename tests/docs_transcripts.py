# SPDX-License-Identifier: Apache-2.0
"""Run what the documentation shows, and compare it with the output that it shows.

The blocks of a page run in their order, in a folder of the page's own:

* a block whose first line is a comment with a file name becomes that file;
* `erlang` with prompts (`1> `) is evaluated by a node whose current folder is the
  page's;
* `console` runs in a shell, but for three kinds of command: `curl` is done here,
  `make run` and `... foreground` go to the background;
* `pycon` is a doctest.

In all output `...` stands for anything. The pages serve on port 8000, the tests on a
free one: it is replaced on the way in and out.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

import httpx

from docs_pages import Block
from node import ROOT, Node, literal

SHOWN_ADDRESS = "127.0.0.1:8000"
COMMAND_TIMEOUT_SECONDS = 60.0

Process: TypeAlias = "subprocess.Popen[str]"

# The variables of an Erlang transcript live on from prompt to prompt, and what it
# prints is part of what it answers.
_EVALUATE = """
    {{ok, Tokens, _}} = erl_scan:string(unicode:characters_to_list({text})),
    {{ok, Expressions}} = erl_parse:parse_exprs(Tokens),
    {{Printer, _}} = spawn_monitor(fun() ->
        (fun Loop(Printed) ->
            receive
                {{io_request, From, Ref, Request}} ->
                    Chars = case Request of
                        {{put_chars, _, Text}} -> Text;
                        {{put_chars, _, M, F, A}} -> apply(M, F, A)
                    end,
                    From ! {{io_reply, Ref, ok}},
                    Loop([Printed, unicode:characters_to_binary(Chars)]);
                {{stop, From}} ->
                    From ! {{printed, iolist_to_binary(Printed)}}
            end
        end)([])
    end),
    group_leader(Printer, self()),
    Bindings = persistent_term:get(docs_bindings, []),
    {{value, Value, NewBindings}} = erl_eval:exprs(Expressions, Bindings),
    persistent_term:put(docs_bindings, NewBindings),
    Printer ! {{stop, self()}},
    Printed = receive {{printed, Text}} -> Text end,
    Shown = unicode:characters_to_list({expected}),
    Expected = case erl_scan:string(Shown ++ ".") of
        {{ok, Terms, _}} -> erl_parse:parse_term(Terms);
        _ -> error
    end,
    case Expected of
        {{ok, Value}} when Printed =:= <<>> -> Shown;
        _ -> [Printed, io_lib:format("~tp", [Value])]
    end
"""


def environment() -> dict[str, str]:
    """What makes `python3` the Python of the tests."""
    path = [str(Path(sys.executable).parent), os.environ["PATH"]]
    return {"PATH": os.pathsep.join(path)}


class PageRun:
    """A run of one page.

    Args:
        node: a node on which nothing is served, with `environment()`.
        folder: an empty folder.
    """

    def __init__(self, node: Node, folder: Path) -> None:
        self._node = node
        self._folder = folder
        self._address = f"127.0.0.1:{_find_free_port()}"
        self._epmd_port = str(_find_free_port())
        self._background = ExitStack()
        self._output_start = len(node.output)

    def __enter__(self) -> PageRun:
        for key, value in {
            "bind": literal(self._address),
            "workers": "1",
        }.items():
            self._node.eval(f"application:set_env(hornbeam, {key}, {value})")

        self._node.eval(f"ok = file:set_cwd({literal(str(self._folder))})")
        return self

    def __exit__(self, *_: object) -> None:
        self._background.close()
        # State and servers go with the application, its environment by hand.
        self._node.eval(
            "application:stop(hornbeam),"
            " persistent_term:erase(docs_bindings),"
            " [application:unset_env(hornbeam, K) || {K, _} <-"
            "     application:get_all_env(hornbeam), K =/= included_applications],"
            f" file:set_cwd({literal(str(ROOT))})"
        )

    def run(self, block: Block) -> None:
        """Run one block.

        Raises:
            AssertionError: What it shows is not what there is.
        """
        if block.file_name is not None:
            self._write(block.file_name, self._inwards(block.text))
        elif block.directive == "node output":
            self._expect_node_output(block)
        elif block.language == "erlang":
            if block.text.startswith("1> "):
                # A new terminal, so the other one is closed.
                self._background.close()

            for expression, expected in split_erlang(block.text):
                answer = self._evaluate(expression, expected)
                check_output(expected, answer, f"{block.where}: {expression}")
        elif block.language == "console":
            for command, expected in split_console(block.text):
                printed = self._outwards(self._run_command(self._inwards(command)))
                check_output(expected, printed, f"{block.where}: {command}")

    def _write(self, name: str, text: str) -> None:
        path = self._folder / name

        # Of the system, not of the page.
        if path.is_relative_to(self._folder):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def _inwards(self, text: str) -> str:
        return text.replace(SHOWN_ADDRESS, self._address)

    def _outwards(self, text: str) -> str:
        return text.replace(self._address, SHOWN_ADDRESS)

    def _expect_node_output(self, block: Block) -> None:
        deadline = time.monotonic() + 10

        while True:
            printed = self._node.output[self._output_start :]

            if re.search(to_pattern(block.text), "".join(printed.split()), re.DOTALL):
                return

            assert time.monotonic() < deadline, (
                f"{block.where}: the node said\n{printed}"
            )
            time.sleep(0.05)

    # Erlang.

    def _evaluate(self, expression: str, expected: str) -> str:
        answer = self._node.eval_text(
            _EVALUATE.format(
                text=literal(self._inwards(expression)),
                expected=literal(self._inwards(expected)),
            )
        )
        return self._outwards(answer)

    # The shell.

    def _run_command(self, command: str) -> str:
        words = shlex.split(command)

        if words[0] == "curl":
            return curl(words[1:], self._folder)

        if words[:2] == ["make", "run"]:
            return self._make_run(dict(word.split("=", 1) for word in words[2:]))

        if words[-1] == "foreground":
            self._wait_until_served(self._start(words, {}))
            return ""

        done = subprocess.run(
            command,
            shell=True,
            cwd=self._folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_TIMEOUT_SECONDS,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}"
        return re.sub(r"\x1b\[[\d;]*m", "", done.stdout)

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            **environment(),
            "PYTHONPATH": str(ROOT / "python"),
            "PYTHONDONTWRITEBYTECODE": "1",
            # A release has a name and so starts this daemon: one of its own.
            "ERL_EPMD_PORT": self._epmd_port,
        }

    def _make_run(self, given: dict[str, str]) -> str:
        """What `make run` does, without the installation that it does before."""
        settings = {"APP": "app:app", "WORKERS": "", "OPTS": "", **given}
        settings["APP_DIR"] = str(self._folder / Path(settings["APP_DIR"]).name)
        settings["BIND"] = self._address
        settings["RUN_PYTHON"] = sys.executable
        process = self._start([str(ROOT / "scripts" / "run.sh")], settings)
        assert process.stdout is not None
        printed = ""

        while "ready on" not in printed:
            line = process.stdout.readline()
            assert line, f"make run {given}: ended early and said\n{printed}"
            printed += line

        return printed

    def _start(self, words: list[str], settings: dict[str, str]) -> Process:
        """Start what ends with the page."""
        process = subprocess.Popen(
            words,
            cwd=self._folder,
            env={**self._environment(), **settings},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._background.callback(self._end, process)
        return process

    def _wait_until_served(self, process: Process) -> None:
        host, port = self._address.split(":")
        deadline = time.monotonic() + COMMAND_TIMEOUT_SECONDS

        with socket.socket() as probe:
            while probe.connect_ex((host, int(port))) != 0:
                assert process.poll() is None, "the release ended early"
                assert time.monotonic() < deadline, f"nobody listens on {self._address}"
                time.sleep(0.05)

    def _end(self, process: Process) -> None:
        process.terminate()

        with process:
            printed, _ = process.communicate(timeout=COMMAND_TIMEOUT_SECONDS)

        epmd = shutil.which("epmd")

        if epmd is not None:
            subprocess.run(
                [epmd, "-kill"], env=self._environment(), capture_output=True
            )

        assert process.returncode == 0, printed


def curl(words: list[str], folder: Path) -> str:
    """Do what curl does, for those of its options that the pages use.

    Args:
        words: what follows the command's name.
        folder: in which it would run.
    """
    authority: Path | None = None
    method, url, shows_head = "", "", False
    headers: list[tuple[str, str]] = []
    rest = iter(words)

    for word in rest:
        if word == "-i":
            shows_head = True
        elif word == "-X":
            method = next(rest)
        elif word == "-H":
            name, value = next(rest).split(": ")
            headers.append((name, value))
        elif word == "--cacert":
            authority = folder / next(rest)
        else:
            assert word.startswith(("http://", "https://")), f"{word} is not done here"
            url = word

    answer = httpx.request(
        method or "GET",
        url,
        headers=headers,
        timeout=30,
        verify=authority is None or ssl.create_default_context(cafile=authority),
    )
    head = f"{answer.http_version} {answer.status_code} {answer.reason_phrase}\n"
    head += "".join(f"{name}: {value}\n" for name, value in answer.headers.items())
    return (head + "\n" if shows_head else "") + answer.text


def split_erlang(text: str) -> Iterator[tuple[str, str]]:
    """Split a shell transcript into expressions and what follows them."""
    assert re.match(r"\d+> ", text), f"a transcript begins with a prompt, not {text!r}"

    for part in re.split(r"^\d+> ", text, flags=re.M)[1:]:
        # An expression ends with a full stop at the end of a line.
        expression, expected = re.split(r"\.\n", part, maxsplit=1)
        yield expression + ".", expected.strip()


def split_console(text: str) -> Iterator[tuple[str, str]]:
    """Split a shell transcript into commands and what follows them."""
    assert text.startswith("$ "), f"a transcript begins with a prompt, not {text!r}"

    for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
        command, _, expected = part.partition("\n")
        yield command, expected.strip()


def check_output(expected: str, actual: str, where: str) -> None:
    """Compare output with what a page shows; line ends and indents don't count.

    Raises:
        AssertionError: They differ.
    """
    assert re.fullmatch(to_pattern(expected), "".join(actual.split()), re.DOTALL), (
        f"{where}\nshown:  {expected}\nactual: {actual}"
    )


def to_pattern(shown: str) -> str:
    return ".*".join(re.escape("".join(part.split())) for part in shown.split("..."))


def _find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
