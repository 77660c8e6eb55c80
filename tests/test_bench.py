# SPDX-License-Identifier: Apache-2.0
"""The bench: what it reads and reckons, and a short run of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import xml.etree.ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import clients, measure, plots, report, targets
from bench.figures import Sample
from bench.job import Case, Costs, Job, Options
from bench.jobs import JOBS
from bench.load import Done, Request, lua, parse_h2load, parse_wrk
from bench.run import Outcome, Result, run_job
from bench.servers import COMMANDS, Failed, Server, Setup, Skip, spawned
from bench.transfer import dechunk, is_right
from docs_pages import DOCS, read_table
from node import ROOT

PAGE = DOCS / "benchmarks.md"
SHORT = Options(seconds=0.1)

WRK = """\
Running 2s test @ http://127.0.0.1:8000/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     2.10ms    1.21ms  30.11ms   86.04%
    Req/Sec    30.55k     1.92k   33.15k    70.00%
  Latency Distribution
     50%  910.00us
     75%    2.31ms
     90%    3.02ms
     99%    1.02s
  60874 requests in 2.10s, 8.24MB read
Requests/sec:  30312.12
Transfer/sec:      4.10MB
"""
WRK_ERRORS = """\
  Socket errors: connect 1, read 20, write 3, timeout 4
  Non-2xx or 3xx responses: 500
"""
H2LOAD = """\
starting benchmark...
Warm-up phase is over for thread #0.
finished in 2.00s, 12000.50 req/s, 1.20MB/s
requests: 24001 total, 24401 started, 24001 done, 23990 succeeded, 4 failed, 5 errored, 2 timeout
status codes: 23990 2xx, 0 3xx, 1 4xx, 3 5xx
traffic: 2.40MB (2516582) total, 100B (100) headers (space savings 97.00%), 300B (300) data
                     min         max         mean         sd        +/- sd
time for request:     1.00ms     50.00ms     8.00ms      2.00ms    70.00%
"""  # noqa: E501


# Reading what loads print.


def test_wrk_is_read_with_all_its_units() -> None:
    assert parse_wrk(WRK) == Done(
        requests=60874, seconds=2.1, wrong=0, p50_ms=0.91, p99_ms=1020.0
    )


def test_wrk_pads_units_of_one_letter() -> None:
    assert parse_wrk(WRK.replace("1.02s\n", "1.02s \n")) == parse_wrk(WRK)


def test_wrk_errors_of_all_kinds_are_wrong_answers() -> None:
    assert parse_wrk(WRK + WRK_ERRORS).wrong == 1 + 20 + 3 + 4 + 500


def test_wrk_without_an_answer_is_a_failure() -> None:
    silent = re.sub(r"^ +\d+% .*\n", "", WRK, flags=re.MULTILINE)

    with pytest.raises(Failed, match="wrk had no answer; 528 errors"):
        parse_wrk(silent + WRK_ERRORS)


def test_text_that_is_not_wrks_is_refused() -> None:
    with pytest.raises(ValueError, match="unable to connect"):
        parse_wrk("unable to connect to 127.0.0.1:1 Connection refused")


def test_h2load_is_read_with_its_log() -> None:
    log = [f"1700000000000000\t200\t{1000 * (n + 1)}" for n in range(100)]
    assert parse_h2load(H2LOAD, log) == Done(
        requests=23990, seconds=2.0, wrong=4 + 4 + 5 + 2, p50_ms=50.0, p99_ms=99.0
    )


def test_h2load_without_an_answer_is_a_failure() -> None:
    with pytest.raises(Failed, match="h2load had no answer"):
        parse_h2load(H2LOAD, [])


def test_wrk_is_told_bodies_in_a_file_and_headers_with_quotes(tmp_path: Path) -> None:
    body = tmp_path / "body"
    request = Request("/p", "POST", {"a": 'q"]]'}, b"\0\n", b"")
    script = lua(request, body)
    assert 'wrk.headers["a"] = [==[q"]]]==]' in script
    assert f'io.open("{body}", "rb")' in script
    assert body.read_bytes() == b"\0\n"


# Chunked bodies and frames.


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (b"0\r\n\r\n", b""),
        (b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n", b"abc0123456789"),
        (b"3\r\nabc\r\n", None),
        (b"3\r\nabcd\r\n0\r\n\r\n", None),
        (b"x\r\nabc\r\n0\r\n\r\n", None),
        (b"-1\r\n\r\n0\r\n\r\n", None),
        (b"0\r\n\r\nmore", None),
        (b"", None),
    ],
)
def test_chunked_bodies_are_compared_to_the_byte(
    data: bytes, body: bytes | None
) -> None:
    assert dechunk(data) == body


def test_a_response_is_right_by_status_and_body() -> None:
    chunks = b"\r\n\r\n2\r\nab\r\n0\r\n\r\n"
    assert is_right(b"HTTP/1.1 200 OK" + chunks, b"ab")
    assert not is_right(b"HTTP/1.1 500 Oh" + chunks, b"ab")
    assert not is_right(b"HTTP/1.1 200 OK" + chunks, b"abc")


def test_frames_are_those_of_rfc_6455() -> None:
    assert clients.text_frame(b"Hello", from_client=False) == b"\x81\x05Hello"
    masked = clients.text_frame(b"Hello", from_client=True)
    assert masked == b"\x81\x85\0\0\0\0Hello"

    with pytest.raises(ValueError, match="126 bytes, expected at most 125"):
        clients.text_frame(bytes(126), from_client=True)


# Reckoning.


@pytest.mark.parametrize(
    ("percent", "value"), [(0, 1), (50, 50), (99, 99), (99.5, 100), (100, 100)]
)
def test_percentiles(percent: float, value: float) -> None:
    assert measure.percentile(range(100, 0, -1), percent) == value


def test_there_is_no_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="no percentile of no values"):
        measure.percentile([], 50)


def test_medians_are_of_those_rounds_that_have_the_figure() -> None:
    samples = [{"rate": 1.0, "p50_ms": 3.0}, {"rate": 9.0}, {"rate": 2.0}]
    assert measure.median_of(samples) == {"rate": 2.0, "p50_ms": 3.0}


@pytest.mark.parametrize(
    ("program", "part"),
    [
        ("beam.smp", "node"),
        ("erl_child_setup", "node"),
        ("python3.11", "python"),
        ("redis-server", "redis"),
        ("gunicorn: maste", "python"),
    ],
)
def test_programs_are_parts_of_a_server(program: str, part: str) -> None:
    assert measure.part_of(program) == part


def test_cpu_and_memory_are_of_all_descendants(tmp_path: Path) -> None:
    """A child's child counts, with 0.2 s of CPU time that it says it has used."""
    busy = (
        "import time\nwhile time.process_time() < 0.2: pass\n"
        "print('done', flush=True); time.sleep(60)"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    log = tmp_path / "log"

    with spawned([sys.executable, "-c", parent], log) as process:
        await_text(log, r"^done$")
        pids = measure.tree(process.pid)
        assert len(pids) == 2
        assert measure.cpu_us(pids)["python"] >= 190_000
        assert measure.memory_bytes(pids, "Pss")["python"] > 1_000_000
        peak = measure.memory_bytes(pids, "VmHWM")["python"]
        assert peak > measure.memory_bytes(pids[:1], "VmHWM")["python"]


def test_costs_are_for_each_and_in_parts() -> None:
    server = Server("x", os.getpid(), 0, 0.0, Path())
    costs = Costs(server)
    began = time.process_time()

    while time.process_time() - began < 0.1:
        pass

    assert costs.sample(10)["cpu_us"] >= 8_000
    assert set(costs.sample(0)) == {"peak_mib"}


# Servers.


def test_all_that_a_server_has_started_ends_with_it(tmp_path: Path) -> None:
    """Even what made a session of its own and ignores signals."""
    child = (
        "import os, signal, time; os.setsid(); signal.signal(signal.SIGTERM,"
        " signal.SIG_IGN); print('pid', os.getpid(), flush=True); time.sleep(60)"
    )
    parent = (
        "import subprocess, sys, time;"
        f" subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    )
    log = tmp_path / "log"

    with spawned([sys.executable, "-c", parent], log):
        pid = int(await_text(log, r"^pid (\d+)$"))
        assert measure.start_time(pid) is not None

    await_gone(pid)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "hornbeam"])
def test_peers_refuse_what_they_cannot_do(name: str) -> None:
    """Or else they are started for it: none is asked for what it would ignore."""
    wanted = {
        "wsgi": {"gunicorn", "granian"},
        "http2": {"hypercorn", "granian"},
        "reloads": {"uvicorn", "granian", "gunicorn"},
    }

    for option, able in wanted.items():
        setup = Setup("x:app", workers=2, **{option: True})  # type: ignore[arg-type]

        if name in able:
            assert "x:app" in COMMANDS[name](setup, 1)
        else:
            with pytest.raises(Skip):
                COMMANDS[name](setup, 1)


# Runs of jobs.


def make_job(run: Case, *peers: str) -> Job:
    return Job("job", "A job", "request", (run,), peers)


def test_rounds_are_interleaved(tmp_path: Path) -> None:
    order: list[str] = []

    def run(name: str, options: Options, log: Path) -> Sample:
        order.append(name)
        return {"rate": float(len(order))}

    job = make_job(Case(run), "uvicorn", "granian")
    result = run_job(job, ["granian"], 2, SHORT, tmp_path, order.append)
    names = [word for word in order if " " not in word]
    assert names == ["hornbeam", "granian"] * 2
    assert [len(outcome.samples) for outcome in result.outcomes] == [2, 2]


@pytest.mark.parametrize(
    ("error", "skipped"),
    [(Skip("cannot"), True), (Failed("broke"), False), (OSError("cut off"), False)],
)
def test_a_peer_that_fails_stops_nobody(
    error: Exception, skipped: bool, tmp_path: Path
) -> None:
    asked: list[str] = []

    def run(name: str, options: Options, log: Path) -> Sample:
        asked.append(name)

        if name == "uvicorn":
            raise error

        return {"rate": 1.0}

    job = make_job(Case(run), "uvicorn")
    result = run_job(job, ["uvicorn"], 3, SHORT, tmp_path, lambda line: None)
    assert asked.count("uvicorn") == 1
    assert asked.count("hornbeam") == 3
    outcome = result.outcomes[1]
    assert (outcome.problem, outcome.skipped) == (str(error), skipped)
    assert f"uvicorn: {error}." in report.table(result)


def test_a_server_that_answers_wrongly_has_no_throughput() -> None:
    """One wrong round is enough."""
    good, bad = {"rate": 9.0, "wrong": 0.0}, {"rate": 99.0, "wrong": 3.0}
    assert Outcome("x", samples=[good, good]).figures["rate"] == 9.0
    figures = Outcome("x", samples=[good, bad, good]).figures
    assert "rate" not in figures
    assert figures["wrong"] == 3.0


# Reports.


def make_result(name: str = "hello", **rates: float) -> Result:
    outcomes = [
        Outcome(server, samples=[{"rate": rate, "cpu_us": 1e6 / rate}])
        for server, rate in rates.items()
    ]
    return Result(name, "Says <hello> & more", "request", outcomes)


def test_tables_have_a_row_for_each_server() -> None:
    table = report.table(make_result(hornbeam=12345.6, uvicorn=1000))
    assert table.splitlines()[-4:] == [
        "| each request | per second | CPU µs each |",
        "|---|---|---|",
        "| hornbeam | 12,346 | 81.0 |",
        "| uvicorn | 1,000 | 1,000.0 |",
    ]


def test_plots_are_svg_with_a_bar_for_each_server() -> None:
    charts = plots.of_result(make_result(hornbeam=200, uvicorn=100))
    assert set(charts) == {"hello-rate", "hello-cpu_us"}
    root = xml.etree.ElementTree.fromstring(charts["hello-rate"])
    _, *bars = root.iter("{http://www.w3.org/2000/svg}rect")
    ours, theirs = (float(bar.attrib["width"]) for bar in bars)
    assert ours == pytest.approx(2 * theirs)


def test_targets_tell_the_ratio_and_whether_it_is_met() -> None:
    result = make_result(hornbeam=170, uvicorn=100, granian=400)
    text = "\n".join(targets.section([result]))
    assert "| hello | per second | uvicorn | at least 1.60 | 1.70 | yes |" in text
    assert "| hello | per second | granian | at least 0.80 | 0.42 | no |" in text
    assert "cowboy" not in text


def test_a_target_may_be_the_best_of_all_peers() -> None:
    outcomes = [
        Outcome(server, samples=[{"p99_ms": p99}])
        for server, p99 in {"hornbeam": 5.0, "uvicorn": 100.0, "granian": 80.0}.items()
    ]
    text = "\n".join(targets.section([Result("mixed", "", "request", outcomes)]))
    assert "| mixed | p99 ms | best | at most 0.10 | 0.06 | yes |" in text


def test_targets_are_of_jobs_and_servers_that_there_are() -> None:
    for target in targets.TARGETS:
        assert target.peer in {*JOBS[target.job].peers, "best"}


def test_a_report_is_kept_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.keep(page, {"cores": "2"}, [make_result(hornbeam=1)])
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "| cores | 2 |" in text

    report.keep(page, {"cores": "2"}, [make_result(hornbeam=1)])
    assert page.read_text() == text


def test_a_page_without_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("text\n")

    with pytest.raises(ValueError, match="lacks a line"):
        report.keep(page, {}, [])

    assert page.read_text() == "text\n"


def test_the_page_tells_all_jobs_and_can_keep_a_report() -> None:
    text = PAGE.read_text()
    rows = read_table(text, "job", "what")
    assert [row["job"].strip("`") for row in rows] == list(JOBS)
    assert text.index(report.BEGIN) < text.index(report.END)


# The command line.


def bench(*words: str) -> list[str]:
    return [sys.executable, "-m", "bench", *words]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--job", "hello,nonesuch"), "nonesuch: expected some of hello, headers"),
        (("--peers", "apache"), "apache: expected some of uvicorn, granian"),
        (("--rounds", "0"), "expected at least 1"),
        (("--seconds", "soon"), "invalid float value: 'soon'"),
    ],
)
def test_wrong_arguments_are_refused(words: tuple[str, str], message: str) -> None:
    done = subprocess.run(bench(*words), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_short_run_with_hornbeam_alone(tmp_path: Path) -> None:
    """Each kind of load once; `hello` where there is wrk."""
    words = ["--job", "hello,ws-echo", "--peers", "none", "--rounds", "1"]
    short = ["--seconds", "0.5", "--scale", "0.05", "--results", str(tmp_path)]
    done = subprocess.run(
        bench(*words, *short), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    folder = next(tmp_path.iterdir())
    jobs = json.loads((folder / "results.json").read_text())["jobs"]
    medians = {job["name"]: job["medians"][0] for job in jobs}
    expected = ["ws-echo", "hello"] if shutil.which("wrk") else ["ws-echo"]

    for name in expected:
        assert medians[name]["rate"] > 0
        assert medians[name]["wrong"] == 0
        parts = medians[name]["cpu_node_us"] + medians[name]["cpu_python_us"]
        assert medians[name]["cpu_us"] == pytest.approx(parts)

    assert "### ws-echo" in (folder / "results.md").read_text()
    assert (folder / "ws-echo-rate.svg").exists()
    assert not answers(folder / "logs" / "ws-echo-hornbeam.log")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_leaves_no_server(
    number: signal.Signals, tmp_path: Path
) -> None:
    words = ["--job", "sse", "--peers", "none", "--seconds", "60", "--scale", "0.01"]
    process = subprocess.Popen(
        bench(*words, "--results", str(tmp_path)),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A test in the background would hand down that SIGINT is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )

    try:
        log = await_file(tmp_path, "*/logs/sse-hornbeam.log")
        await_true(lambda: answers(log))
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()

    assert process.returncode == 130
    assert said == "stopped\n"
    assert not answers(log)


# Waiting.


def await_true(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s

    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def await_text(path: Path, pattern: str) -> str:
    found: list[str] = []

    def is_there() -> bool:
        found[:] = re.findall(pattern, path.read_text(), re.MULTILINE)
        return bool(found)

    await_true(is_there)
    return found[0]


def await_file(folder: Path, pattern: str) -> Path:
    await_true(lambda: any(folder.glob(pattern)))
    return next(folder.glob(pattern))


def await_gone(pid: int) -> None:
    await_true(lambda: measure.start_time(pid) is None)


def answers(log: Path) -> bool:
    """Whether somebody listens where the server of that log was told to."""
    port = re.search(r'"127\.0\.0\.1:(\d+)"', log.read_text())

    if port is None:
        return False

    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", int(port[1]))) == 0
