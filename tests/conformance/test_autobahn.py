# SPDX-License-Identifier: Apache-2.0
"""Autobahn's fuzzing client against an echo application, and what judges it."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from conformance.autobahn import (
    SHORT_CASES,
    AutobahnError,
    Outcome,
    Report,
    parse_index,
    run,
)
from conformance.server import echo_server
from node import ROOT, Node

NO_PYTHON27 = 77
"""Exit status of the script that installs the client."""

OK = Outcome("1.1.1", "OK", "OK")


@pytest.fixture(scope="module")
def wstest() -> Path:
    """The client, installed where that has not been done before."""
    done = subprocess.run(
        [ROOT / "scripts" / "autobahn.sh", sys.executable],
        capture_output=True,
        text=True,
    )

    if done.returncode == NO_PYTHON27:
        pytest.skip(done.stderr.strip())

    assert done.returncode == 0, done.stderr
    return ROOT / done.stdout.strip()


# The first time it is installed, which takes a download.
@pytest.mark.timeout(400)
def test_short_selection_is_strictly_ok(
    wstest: Path, node: Node, tmp_path: Path
) -> None:
    """Every case of the selection is OK, none NON-STRICT or UNIMPLEMENTED."""
    with echo_server(node) as url:
        report = run(wstest, url, tmp_path, cases=SHORT_CASES, timeout=300)

    assert report.faults() == []
    assert report.announced > 250


@pytest.mark.parametrize("verdict", ["OK", "INFORMATIONAL"])
def test_good_verdicts(verdict: str) -> None:
    """Both, of what came back and of how it was closed, may be one of these."""
    assert Report(1, (Outcome("1.1.1", verdict, "OK"),)).faults() == []
    assert Report(1, (Outcome("1.1.1", "OK", verdict),)).faults() == []


@pytest.mark.parametrize(
    "verdict",
    ["NON-STRICT", "UNIMPLEMENTED", "FAILED", "WRONG CODE", "UNCLEAN", "", "ok"],
)
def test_bad_verdicts(verdict: str) -> None:
    """Any other verdict fails, be it on the behaviour or the closing, and is listed."""
    bad = Outcome("6.4.1", verdict, "OK")
    bad_close = Outcome("7.1.1", "OK", verdict)
    assert Report(3, (OK, bad, bad_close)).faults() == [
        f"6.4.1: {verdict}, closing OK",
        f"7.1.1: OK, closing {verdict}",
    ]


def test_missing_cases() -> None:
    """A server that went away half-way is no success, nor is a run of nothing."""
    assert Report(2, (OK,)).faults() == ["1 of 2 cases were run"]
    assert Report(0, ()).faults() == ["0 of 0 cases were run"]


def test_parse_index() -> None:
    """Outcomes come in the order of the numbers, not of their digits."""
    facts = {"behavior": "OK", "behaviorClose": "OK", "duration": 1}
    text = json.dumps({"hornbeam": {"12.1.10": facts, "12.1.9": facts, "2.1": facts}})
    outcomes = parse_index(text)
    assert [outcome.case for outcome in outcomes] == ["2.1", "12.1.9", "12.1.10"]


@pytest.mark.parametrize(
    ("program", "complaint"),
    [
        ("echo broken; exit 1", "no report.*broken"),
        ("echo Ok, will run 5 test cases", "no report.*will run 5"),
        ("exec sleep 100", "not done within 1 s"),
    ],
)
def test_client_that_fails(tmp_path: Path, program: str, complaint: str) -> None:
    """A client that crashes or hangs is an error, an old report notwithstanding."""
    fake = tmp_path / "wstest"
    fake.write_text(f"#!/bin/sh\n{program}\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "index.json").write_text('{"hornbeam": {}}')

    with pytest.raises(AutobahnError, match=f"(?s){complaint}"):
        run(fake, "ws://127.0.0.1:1", folder, timeout=1)


def test_report_of_a_client(tmp_path: Path) -> None:
    """The client gets its specification, and its index and its cases are read."""
    fake = tmp_path / "wstest"
    fake.write_text(
        """#!/bin/sh
        echo 'Ok, will run 1 test cases against 1 servers'
        echo 'Running test case ID 1.1.1 for agent hornbeam from peer x'
        grep -q '"cases": \\["1.*"\\]' "$4" && grep -q ws://127.0.0.1:1 "$4" || exit 1
        echo '{"hornbeam": {"1.1.1": {"behavior": "OK", "behaviorClose": "OK"}}}' \\
            > "$(dirname "$4")/index.json"
        """
    )
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    seen: list[str] = []
    report = run(
        fake,
        "ws://127.0.0.1:1",
        tmp_path / "report",
        cases=["1.*"],
        timeout=10,
        on_case=seen.append,
    )
    assert report == Report(1, (OK,))
    assert seen == ["1.1.1"]
