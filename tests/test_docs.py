# SPDX-License-Identifier: Apache-2.0
"""The documentation is true: its examples run, its tables are those of the code."""

from __future__ import annotations

import builtins
import configparser
import doctest
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import hornbeam_erlang
from docs_pages import (
    DOCS,
    Block,
    find_pages,
    read_anchors,
    read_blocks,
    read_code,
    read_links,
    read_table,
)
from docs_transcripts import PageRun, environment
from node import ROOT, Node, literal

ERLANG_SOURCE = ROOT / "apps" / "hornbeam" / "src"
OPTIONS = DOCS / "reference" / "options.md"
ERLANG = DOCS / "reference" / "erlang.md"
PYTHON = DOCS / "reference" / "python.md"
ERRORS = DOCS / "reference" / "errors.md"

PAGES = find_pages()
BLOCKS = [block for page in PAGES for block in read_blocks(page)]
OPERATIONS = DOCS / "how-to" / "operations.md"
RELEASE = DOCS / "how-to" / "rebar3-release.md"

# What is for those who work on the project, not for its users.
FORBIDDEN = re.compile(
    r"\bsessions?\b|\bissue #?\d|\bhelpers?\b|\bmirrors?\b"
    r"|(?<!\w)/(?:home|root|tmp|work)/|\b(?:debian|hex|pypi)\.(?:org|pm)\b",
    re.IGNORECASE,
)


def name_of(value: Path | Block) -> str:
    return value.where if isinstance(value, Block) else str(value.relative_to(ROOT))


def is_transcript(block: Block) -> bool:
    is_erlang = block.language == "erlang" and re.match(r"\d+> ", block.text)
    return block.language == "console" or bool(is_erlang)


@pytest.fixture(scope="module")
def docs_node() -> Iterator[Node]:
    """A node whose current folder and configuration are those of the page that runs."""
    with Node(env=environment()) as node:
        yield node


@pytest.fixture
def run(docs_node: Node, tmp_path: Path) -> Iterator[PageRun]:
    # Resolved, as the interpreter of a worker sees it.
    with PageRun(docs_node, tmp_path.resolve()) as running:
        yield running


# Examples.


@pytest.mark.parametrize(
    "page",
    [
        page
        for page in PAGES
        if page != RELEASE and any(map(is_transcript, read_blocks(page)))
    ],
    ids=name_of,
)
def test_transcripts(page: Path, run: PageRun) -> None:
    """What a page shows of a terminal is what a terminal shows."""
    for block in read_blocks(page):
        run.run(block)


@pytest.mark.skipif(shutil.which("rebar3") is None, reason="rebar3 is not installed")
def test_release(run: PageRun, tmp_path: Path) -> None:
    """The project of the page about releases builds and serves."""
    vendored = tmp_path / "vendor" / "hornbeam"
    vendored.parent.mkdir()
    vendored.symlink_to(ROOT)

    # Where the dependencies don't come from Hex, they are taken from there.
    if (ROOT / "_checkouts").exists():
        (tmp_path / "_checkouts").symlink_to(ROOT / "_checkouts")

    for block in read_blocks(RELEASE):
        run.run(block)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(b.language == "pycon" for b in read_blocks(page))],
    ids=name_of,
)
def test_python_transcripts(page: Path) -> None:
    """What a page shows of the Python prompt holds, on the stand-in."""
    parser = doctest.DocTestParser()
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    names: dict[str, object] = {}

    for block in read_blocks(page):
        if block.language == "pycon":
            test = parser.get_doctest(
                block.text, names, block.where, str(page), block.line
            )
            report: list[str] = []
            outcome = runner.run(test, out=report.append, clear_globs=False)
            assert outcome.attempted > 0
            assert outcome.failed == 0, "".join(report)
            names = test.globs


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if block.language and not is_transcript(block)],
    ids=name_of,
)
def test_other_blocks_are_well_formed(
    block: Block, docs_node: Node, tmp_path: Path
) -> None:
    """What is not run is at least read by the program that it is for."""
    if block.language == "python":
        compile(block.text, block.where, "exec")
    elif block.language == "sh":
        subprocess.run(["sh", "-n"], input=block.text, text=True, check=True)
    elif block.language == "ini":
        check_unit(block.text)
    elif block.language == "erlang":
        check_erlang(block, docs_node, tmp_path)
    else:
        assert block.language in ("text", "pycon", "nginx")


def check_unit(text: str) -> None:
    """A unit of systemd; by the default limits it is given the time that it needs."""
    unit = configparser.ConfigParser(interpolation=None)
    unit.read_string(text)
    assert int(unit["Service"]["TimeoutStopSec"]) > 30 + 30 + 30
    assert unit["Service"]["KillMode"] == "mixed"


def check_erlang(block: Block, node: Node, folder: Path) -> None:
    """A file of terms, or of a module."""
    assert block.file_name is not None, f"{block.where} is neither a file nor run"
    path = folder / Path(block.file_name).name
    path.write_text(block.text)

    if path.suffix == ".erl":
        compiled = node.eval(f'compile:file("{path}", [binary, strong_validation])')
        assert compiled.startswith("{ok,")
        return

    terms = node.eval(f"{{ok, Terms}} = file:consult({literal(str(path))}), Terms")

    if path.name == "sys.config":
        check_configuration(terms, node)


def check_configuration(terms: str, node: Node) -> None:
    """The parts that are Hornbeam's and the logger's are accepted by them."""
    node.eval(
        f"[Config] = {terms},"
        " Options = maps:from_list(proplists:get_value(hornbeam, Config, [])),"
        " OfNode = [state_max_memory, rpc_allow, reload_on_sighup],"
        " Servers = maps:without(OfNode, Options),"
        ' {ok, _} = hornbeam_config:validate("app:app", Servers),'
        " [{ok, _} = hornbeam_option:check(Key, Value) ||"
        "     {Key, Value} <- maps:to_list(maps:with(OfNode, Options))],"
        " Handlers = proplists:get_value(logger,"
        "     proplists:get_value(kernel, Config, []), []),"
        " [ok = Module:check_config(FormatterConfig) ||"
        "     {handler, _, _, #{formatter := {Module, FormatterConfig}}} <- Handlers]"
    )


def test_make_commands() -> None:
    """Targets and variables of `make` that the pages name exist."""
    makefile = (ROOT / "Makefile").read_text()
    commands = [
        command
        for block in BLOCKS
        if block.language in ("sh", "console", "ini")
        for command in re.findall(r"\bmake ([^\n]*)", block.text)
    ]
    assert commands

    for command in commands:
        for word in re.sub(r"'[^']*'", "", command).split():
            name, is_variable, _ = word.partition("=")
            pattern = rf"^{name} =" if is_variable else rf"^{name}:"

            if not word.startswith(("-", "/")):
                assert re.search(pattern, makefile, re.M), f"make {command}: {word}"


def test_scripts() -> None:
    """Scripts of the repository that the pages name exist."""
    names = {
        name
        for page in PAGES
        for name in re.findall(r"\bscripts/\w+\.sh", page.read_text())
    }
    assert names

    for name in names:
        assert (ROOT / name).exists(), name


# Links and names.


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links(page: Path) -> None:
    """Links lead to pages and headings that exist."""
    for link in read_links(page):
        if link.startswith("https://"):
            continue

        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link}: there is no {target}"

        if anchor:
            assert anchor in read_anchors(target), f"{link}: no such heading"


def test_every_page_is_listed() -> None:
    """The contents lead to each page."""
    listed = {(DOCS / link).resolve() for link in read_links(DOCS / "README.md")}
    assert set(DOCS.rglob("*.md")) - listed == {DOCS / "README.md"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_nothing_that_is_not_for_users(page: Path) -> None:
    """No paths of a machine, no hosts of registries, no words about how it was made."""
    assert FORBIDDEN.findall(page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_modules_exist(page: Path) -> None:
    """Modules that the prose names are there, in both languages."""
    text = page.read_text()
    erlang = {path.stem for path in ERLANG_SOURCE.rglob("*.erl")}
    named = set(re.findall(r"`(hornbeam_\w+)`", text)) - {"hornbeam_erlang"}
    assert named <= erlang | read_log_fields(), named - erlang

    for module in re.findall(r"`hornbeam\.(_\w+)`", text):
        assert (ROOT / "python" / "hornbeam" / f"{module}.py").exists(), module


def test_supervision() -> None:
    """The tree of the architecture page has the supervisors with their strategies."""
    page = (DOCS / "topics" / "architecture.md").read_text()
    tree = page.split("## Supervision")[1]
    strategies = r"\b(?:simple_)?(?:one_for_one|one_for_all|rest_for_one)\b"
    sources = {path.stem: path.read_text() for path in ERLANG_SOURCE.rglob("*_sup.erl")}
    assert sources

    for module, source in sources.items():
        (strategy,) = re.findall(rf"strategy => ({strategies})", source)
        assert re.search(rf"^ *{module} +{strategy}\b", tree, re.M), (module, strategy)


def read_log_fields() -> set[str]:
    logs = (DOCS / "how-to" / "logs.md").read_text()
    return {
        name
        for row in read_table(logs, "field", "meaning")
        for name in read_code(row["field"])
    }


# Options.


def read_options() -> list[dict[str, str]]:
    columns = ("option", "type", "default", "meaning")
    return list(read_table(OPTIONS.read_text(), *columns))


def read_reserved() -> list[dict[str, str]]:
    return list(read_table(OPTIONS.read_text(), "option", "only value", "for"))


def one_code(cell: str) -> str:
    (code,) = read_code(cell)
    return code


def test_all_options_are_listed(docs_node: Node) -> None:
    """The tables have each option once, in the right one."""
    keys = docs_node.eval("lists:sort(maps:keys(hornbeam_config:defaults()))")
    reserved = docs_node.eval(
        "lists:sort([Key || Key <- hornbeam_config:unsupported(), is_atom(Key)])"
    )
    named = [one_code(row["option"]) for row in read_options()]
    named_reserved = [one_code(row["option"]) for row in read_reserved()]
    assert f"[{','.join(sorted(named_reserved))}]" == reserved
    assert f"[{','.join(sorted(named + named_reserved))}]" == keys


@pytest.mark.parametrize(
    ("option", "default"),
    [(row["option"], row["default"]) for row in read_options()]
    + [(row["option"], row["only value"]) for row in read_reserved()],
)
def test_defaults(option: str, default: str, docs_node: Node) -> None:
    """The default of a table is that of the code."""
    key = one_code(option)

    if key == "workers":
        assert default == "number of cores"
        default = "`erlang:system_info(logical_processors_available)`"

    assert (
        docs_node.eval(
            f"#{{{key} := Default}} = hornbeam_config:defaults(),"
            f" hornbeam_option:check({key}, {one_code(default)}) =:="
            f" hornbeam_option:check({key}, Default)"
        )
        == "true"
    )


@pytest.mark.parametrize("row", read_options(), ids=lambda row: one_code(row["option"]))
def test_types(row: dict[str, str], docs_node: Node) -> None:
    """What the type of a table allows is accepted, and what lies beside it is not."""
    key, kind = one_code(row["option"]), row["type"]
    accepted = [code for code in read_code(kind) if code != "/"]
    refused = ["[[]]", "no_such_value", "-1"]

    if kind.startswith("time"):
        accepted += ["1", "4294967295"]
        refused += ["0", "4294967296", "1.5"]
    elif match := re.match(r"integer (\d+) to (\d+)", kind):
        accepted += [match[1], match[2]]
        refused += [str(int(match[1]) - 1), str(int(match[2]) + 1)]
    elif match := re.match(r"integer from (\d+)", kind):
        accepted += [match[1], "123456789"]
        refused += [str(int(match[1]) - 1)]

    if "infinity" not in kind:
        refused.append("infinity")

    for value in accepted:
        assert (
            docs_node.eval(f"element(1, hornbeam_option:check({key}, {value}))") == "ok"
        )

    for value in refused:
        assert (
            docs_node.eval(f"element(1, hornbeam_option:check({key}, {value}))")
            == "error"
        )


def test_limits_are_those_of_the_options() -> None:
    """The table of limits does not tell other defaults."""
    columns = ("resource", "option", "default", "beyond it")
    page = (DOCS / "topics" / "security.md").read_text()
    defaults = {row["option"]: row["default"] for row in read_options()}

    for row in read_table(page, *columns):
        assert defaults[row["option"]] == row["default"], row


def test_limits_of_http2(docs_node: Node) -> None:
    """The table of limits has the values of the code, for the default options."""
    page = (DOCS / "reference" / "http2.md").read_text()
    rows = list(read_table(page, "limit", "value", "beyond it", "why"))
    assert rows
    options = docs_node.eval(
        '{ok, Config} = hornbeam_config:validate("app:app", #{}),'
        " hornbeam_http2:options(Config)"
    )

    for row in rows:
        key, value = one_code(row["limit"]), one_code(row["value"])
        assert docs_node.eval(f"maps:get({key}, {options}) =:= {value}") == "true", row


def read_proofs(page: Path) -> set[str]:
    """The tests that a page names: `tests/test_x.py::test_y` and `x_SUITE:y`."""
    codes = re.findall(r"`([^`\n]+)`", page.read_text())
    return {code for code in codes if re.search(r"\.py::|_SUITE:", code)}


def test_claims_are_proved() -> None:
    """Each claim of the operations guide names tests, and these exist."""
    text = OPERATIONS.read_text()
    rows = list(read_table(text, "what happens", "what follows", "proved by"))
    assert all(read_code(row["proved by"]) for row in rows)
    proofs = set().union(*(read_proofs(page) for page in PAGES))
    assert {code for row in rows for code in read_code(row["proved by"])} <= proofs

    for proof in proofs:
        if "::" in proof:
            name, function = proof.split("::")
            definition = rf"^(?:async )?def {function}\("
        else:
            suite, case = proof.split(":")
            name, definition = f"test/{suite}.erl", rf"^{case}\("

        assert re.search(definition, (ROOT / name).read_text(), re.M), proof


def test_limits_of_operations() -> None:
    """The guide does not tell other defaults."""
    defaults = {row["option"]: row["default"] for row in read_options()}

    for row in read_table(OPERATIONS.read_text(), "of what", "option", "default"):
        assert defaults[row["option"]] == row["default"], row


def test_variables_of_make_run() -> None:
    """The table of variables is that of the Makefile."""
    given = re.findall(r"^([A-Z_]+) = ?(.*)$", (ROOT / "Makefile").read_text(), re.M)
    internal = {"VENV_PYTHON", "CASES", "UPDATE"}
    # Those of `make bench` have a page of their own.
    internal |= {"JOB", "PEERS", "ROUNDS", "SECONDS", "SCALE", "REPORT", "BENCH_VENV"}
    shown = [
        (one_code(row["variable"]), "".join(read_code(row["default"])))
        for row in read_table(OPTIONS.read_text(), "variable", "default", "meaning")
    ]
    assert sorted(shown) == sorted(pair for pair in given if pair[0] not in internal)


# Erlang.


def read_signatures() -> set[str]:
    """Functions of the reference, as `module:function/arity`."""
    signatures = set()
    heading = ""

    for line in ERLANG.read_text().splitlines():
        if match := re.match(r"## (hornbeam\w*:\w+)$", line):
            heading = match[1]
        elif match := re.match(r"(\w+)\((.*?)\) +->", line):
            arguments = match[2].split(", ") if match[2] else []
            assert heading.endswith(f":{match[1]}"), f"{line!r} stands below {heading}"
            signatures.add(f"{heading}/{len(arguments)}")

    return signatures


def test_all_functions_are_described() -> None:
    """The reference has the public functions of the two modules, and no others."""
    public = set()

    for path in (
        ERLANG_SOURCE / "hornbeam.erl",
        ERLANG_SOURCE / "services/hornbeam_state.erl",
    ):
        exports = path.read_text().split("%% API\n")[1].split("\n\n")[0]
        public |= {
            f"{path.stem}:{name}" for name in re.findall(r"export\(\[(.+)\]\)", exports)
        }

    assert read_signatures() == public


def test_info_is_described(docs_node: Node, run: PageRun, tmp_path: Path) -> None:
    """The tables of `info/0` have its keys; of a worker that was replaced, too."""
    (tmp_path / "app.py").write_text(
        "async def app(scope, receive, send): raise RuntimeError"
    )
    docs_node.eval('ok = hornbeam:start("app:app")')
    docs_node.eval(
        "#{workers := [#{os_pid := Pid}]} = hornbeam:info(),"
        ' os:cmd("kill -KILL " ++ integer_to_list(Pid)),'
        " (fun Wait() -> case hornbeam:info() of"
        "     #{workers := [#{state := ready, restarts := 1}]} -> ok;"
        "     _ -> Wait() end end)()"
    )
    text = ERLANG.read_text().split("## hornbeam:info")[1].split("\n## ")[0]
    server, worker = text.split("Each worker is a map.")
    keys = docs_node.eval("lists:sort(maps:keys(hornbeam:info()))")
    assert shown_keys(server) == keys
    keys = docs_node.eval(
        "lists:sort(maps:keys(hd(maps:get(workers, hornbeam:info()))))"
    )
    assert shown_keys(worker) == keys


def shown_keys(text: str) -> str:
    rows = read_table(text, "key", "type", "meaning")
    return f"[{','.join(sorted(one_code(row['key']) for row in rows))}]"


def test_errors_are_listed() -> None:
    """The table of errors has the names and the facts of the code."""
    source = (ERLANG_SOURCE / "hornbeam_error.erl").read_text()
    names = re.findall(r"\w+", source.split("-type name() ::")[1].split(".\n")[0])
    shown = {
        one_code(row["name"]): set(read_code(row["facts"]))
        for row in read_table(ERRORS.read_text(), "name", "facts", "when")
    }
    assert sorted(shown) == sorted(names)

    for name, facts in shown.items():
        clause = re.search(
            rf"^sentence\({name}, .*?(?=^sentence\()", source, re.M | re.S
        )
        assert clause is not None, name
        used = set(re.findall(r"fact\((\w+), Facts\)", clause[0]))
        used |= {"traceback"} if "on_new_line(Facts)" in clause[0] else set()
        used |= {"errors"} if "errors := Errors" in clause[0] else set()
        assert facts == used, name


def test_events_are_listed() -> None:
    """The table of events has those that the code logs, with their levels."""
    logged = {
        (what, level.lower())
        for path in ERLANG_SOURCE.rglob("*.erl")
        for level, what in re.findall(
            r"\?LOG_(\w+)\(#\{what => (\w+)", path.read_text()
        )
    }
    page = (DOCS / "how-to" / "logs.md").read_text()
    shown = {
        (one_code(row["`what`"]), row["level"])
        for row in read_table(page, "`what`", "level", "meaning")
    }
    assert shown == logged


# Python.


def test_all_names_are_described() -> None:
    """The reference has what the package exports, and no more."""
    headings = re.findall(r"^### (.+)$", PYTHON.read_text(), re.M)
    asgi = {"HTTP scope", "receive", "send", "Lifespan"}
    asgi |= {"WebSocket scope", "WebSocket receive", "WebSocket send"}
    functions = {
        name
        for heading in headings
        if heading not in asgi
        for name in heading.split(", ")
    }
    errors = {
        one_code(row["error"])
        for row in read_table(PYTHON.read_text(), "error", "is also a", "when")
    }
    assert functions | errors == set(hornbeam_erlang.__all__)


@pytest.mark.parametrize(
    "row",
    list(read_table(PYTHON.read_text(), "error", "is also a", "when")),
    ids=lambda row: one_code(row["error"]),
)
def test_errors_have_their_bases(row: dict[str, str]) -> None:
    """An error can be caught as what the table says, and has its attributes."""
    error = getattr(hornbeam_erlang, one_code(row["error"]))
    direct = {
        getattr(hornbeam_erlang, name, None) or getattr(builtins, name)
        for name in read_code(row["is also a"])
    }
    assert all(issubclass(error, base) for base in direct)
    # The table names the narrowest ones, and all of Python's own.
    implied = {base for each in direct for base in each.__mro__[1:]}
    python_bases = {base for base in error.__mro__ if base.__module__ == "builtins"}
    assert python_bases - direct <= implied | set(Exception.__mro__)
    assert not direct & implied

    if "Attribute" in row["when"]:
        for name in read_code(row["when"].split("Attribute")[1]):
            assert any(
                name in base.__annotations__
                for base in error.__mro__[:-1]
                if "__annotations__" in vars(base)
            ), name
