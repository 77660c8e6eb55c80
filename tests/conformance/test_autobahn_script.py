# SPDX-License-Identifier: Apache-2.0
"""The script that installs Autobahn, with stand-ins for what needs a network."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from node import ROOT

COMMANDS = (
    *("sh", "cat", "cut", "dirname", "grep", "mkdir", "mktemp", "rm", "sha256sum"),
    *("tail", "timeout"),
)

PYTHON27 = "echo True"
"""Enough of a Python for the question whether it is one of 2.7."""

NOT_PYTHON27 = "echo False"

# Makes environments by `-m venv FOLDER` and `-m virtualenv ... FOLDER`; no more.
PYTHON3 = """
for last; do :; done
case "$2" in
    venv|virtualenv) mkdir -p "$last/bin"; cat "$0" > "$last/bin/python"
        chmod +x "$last/bin/python" ;;
esac
"""
NO_NETWORK = PYTHON3 + '[ "$2" != pip ] || { echo "no network" >&2; exit 1; }\n'


class Project:
    """A folder with the project's scripts, and nothing but basic commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.commands = folder / "commands"
        self.commands.mkdir()
        shutil.copytree(ROOT / "scripts", folder / "scripts")
        (folder / "requirements").mkdir()
        shutil.copy(ROOT / "requirements" / "conformance.txt", folder / "requirements")

        for command in (*COMMANDS, "chmod"):
            path = shutil.which(command)
            assert path is not None
            (self.commands / command).symlink_to(path)

    def fake(self, path: str, script: str) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    def run(
        self, script: str = "autobahn.sh", **env: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.folder / "scripts" / script, "python3"],
            env={"PATH": str(self.commands), "HOME": str(self.folder), **env},
            capture_output=True,
            text=True,
            timeout=30,
        )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_without_python27(project: Project) -> None:
    """It says so; for `make conformance` that is no failure."""
    project.fake("commands/python2.7", NOT_PYTHON27)
    message = "autobahn: skipped, there is no Python 2.7 here (PYTHON27=)\n"
    done = project.run()
    assert (done.returncode, done.stdout, done.stderr) == (77, "", message)
    done = project.run("conformance.sh")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", message)


def test_python27_that_is_none(project: Project) -> None:
    """One that was asked for by name is not passed over."""
    project.fake("other", NOT_PYTHON27)
    other = str(project.folder / "other")
    done = project.run("conformance.sh", PYTHON27=other)
    message = f"autobahn: PYTHON27={other} is no Python 2.7\n"
    assert (done.returncode, done.stderr) == (1, message)


@pytest.mark.parametrize(
    ("path", "variable"),
    [
        ("commands/python2.7", None),
        (".pyenv/versions/2.7.18/bin/python2.7", None),
        ("elsewhere/versions/2.7.18/bin/python2.7", "PYENV_ROOT"),
        ("my/python", "PYTHON27"),
    ],
)
def test_installs_once(project: Project, path: str, variable: str | None) -> None:
    """It is found where it is, and what was installed is not looked at again."""
    project.fake("commands/python3", PYTHON3)
    project.fake(path, PYTHON27)
    values = {
        None: {},
        "PYENV_ROOT": {"PYENV_ROOT": str(project.folder / "elsewhere")},
        "PYTHON27": {"PYTHON27": str(project.folder / path)},
    }
    done = project.run(**values[variable])
    assert (done.returncode, done.stdout) == (0, ".venvs/autobahn/bin/wstest\n")
    assert str(project.folder / path) in done.stderr
    (project.folder / path).unlink()
    done = project.run()
    assert (done.returncode, done.stdout) == (0, ".venvs/autobahn/bin/wstest\n")
    assert done.stderr == ""


def test_installation_fails(project: Project) -> None:
    """What pip said is shown, and the next run tries again."""
    project.fake("commands/python3", NO_NETWORK)
    project.fake("commands/python2.7", PYTHON27)

    for _ in range(2):
        done = project.run()
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.endswith("no network\nautobahn: could not install it\n")
