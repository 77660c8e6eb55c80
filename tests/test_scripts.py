# SPDX-License-Identifier: Apache-2.0
"""The scripts behind `make deps`, with stand-ins for programs that need a network."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from node import ROOT

APPS = ("ranch", "cowlib", "cowboy")

NO_HEX = "exit 1"
HEX = """
for app in ranch cowlib cowboy; do
    mkdir -p _build/default/lib/$app/ebin
    [ "$1" != compile ] || : > _build/default/lib/$app/ebin/$app.app
done
"""
NO_MIRROR = "exit 0"
DEAD_MIRROR = """
case "$1" in
    indextargets) echo http://mirror.invalid/debian/ ;;
    *) echo "E: could not resolve" >&2; exit 100 ;;
esac
"""
# Answers everything, but with a tarball that is not the right one.
WRONG_TARBALL = """
case "$*" in
    *indextargets*) echo http://mirror.invalid/debian/ ;;
    *source*) echo changed > rabbitmq-server_4.0.5.orig.tar.xz ;;
esac
"""
# As a machine without any of the programs that are looked for.
BASIC_COMMANDS = ("sh", "cat", "rm", "mktemp", "env", "id", "echo")


class Project:
    """A folder with the project's scripts, and the commands that they shall find."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.commands = folder / "commands"
        self.commands.mkdir()
        shutil.copytree(ROOT / "scripts", folder / "scripts")
        shutil.copy(ROOT / "rebar.config", folder)

    def fake(self, command: str, script: str) -> None:
        path = self.commands / command
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def link(self, command: str) -> None:
        path = shutil.which(command)
        assert path is not None
        (self.commands / command).symlink_to(path)

    def run(
        self, script: str, *arguments: str, alone: bool = False
    ) -> subprocess.CompletedProcess[str]:
        path = str(self.commands)
        return subprocess.run(
            [self.folder / "scripts" / script, *arguments],
            env={
                **os.environ,
                "PATH": path if alone else f"{path}:{os.environ['PATH']}",
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_deps_in_checkouts_are_left_alone(project: Project) -> None:
    """With everything there, no program is asked for anything."""
    project.fake("rebar3", "exit 1")
    project.fake("apt-get", "exit 1")

    for app in APPS:
        ebin = project.folder / "_checkouts" / app / "ebin"
        ebin.mkdir(parents=True)
        (ebin / f"{app}.app").touch()

    done = project.run("deps.sh")
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "deps: ranch cowlib cowboy are in _checkouts\n",
        "",
    )


def test_deps_from_hex(project: Project) -> None:
    """Where Hex answers, Debian is not asked, and a second run asks neither."""
    project.fake("rebar3", HEX)
    project.fake("apt-get", "exit 1")
    first = project.run("deps.sh")
    assert first.stdout.endswith("deps: ranch cowlib cowboy taken from Hex\n")
    assert first.returncode == 0
    project.fake("rebar3", "exit 1")
    second = project.run("deps.sh")
    assert second.stdout == "deps: ranch cowlib cowboy are there, from Hex\n"
    assert second.returncode == 0


@pytest.mark.parametrize(
    ("apt", "message"),
    [
        (NO_MIRROR, "deps: Hex does not answer, and apt knows no Debian archive"),
        (DEAD_MIRROR, "deps: Hex does not answer, and neither does the Debian archive"),
        (
            WRONG_TARBALL,
            "deps: rabbitmq-server_4.0.5.orig.tar.xz does not have the SHA-256",
        ),
    ],
)
def test_deps_from_nowhere(project: Project, apt: str, message: str) -> None:
    """The last line says what is wrong, and nothing half done stays."""
    project.fake("rebar3", NO_HEX)
    project.fake("apt-get", apt)
    done = project.run("deps.sh")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(message)
    assert not (project.folder / "_checkouts").exists()
    assert list((project.folder / "build").glob("*")) == []


def test_system_has_everything(project: Project) -> None:
    """Nothing is installed where nothing is missing."""
    project.fake("apt-get", "echo asked; exit 1")
    done = project.run("system.sh", "test", "python3")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_system_names_what_it_installs(project: Project) -> None:
    """The packages are named before apt is asked for them."""
    for command in BASIC_COMMANDS:
        project.link(command)

    project.fake("sudo", 'exec "$@"')
    project.fake("apt-get", 'echo "apt-get $*" >&2; exit 100')
    done = project.run("system.sh", "run", "python3", alone=True)
    packages = (
        "erlang-base erlang-dev erlang-crypto erlang-ssl erlang-inets rebar3 python3"
        " python3-venv python3-dev gcc libc6-dev make xz-utils util-linux"
    )
    assert done.stdout == f"system: installing Debian packages: {packages}\n"
    assert done.stderr.splitlines() == [
        "apt-get -qq update",
        f"system: apt-get could not install: {packages}",
    ]
    assert done.returncode == 1


def test_system_without_apt(project: Project) -> None:
    """On other systems the message says what to look for."""
    for command in BASIC_COMMANDS:
        project.link(command)

    done = project.run("system.sh", "run", "python3", alone=True)
    assert done.returncode == 1
    assert done.stderr.startswith("system: missing, and there is no apt-get to install")


def test_python_that_is_not_there(project: Project) -> None:
    """A Python asked for by name is not replaced by another one."""
    done = project.run("system.sh", "run", "python3.0")
    assert done.returncode == 1
    assert done.stderr == "system: there is no python3.0 here (PYTHON=)\n"


def test_old_python_is_refused(project: Project) -> None:
    """The oldest version is named."""
    project.fake("python3.0", '[ "$2" = "${2#import sys; sys.exit}" ]')
    done = project.run("system.sh", "run", "python3.0")
    assert done.returncode == 1
    assert done.stderr == "system: python3.0 is older than Python 3.10\n"


def test_requirements_are_installed_once(project: Project) -> None:
    """A requirement file is installed again only after it has changed."""
    project.fake(
        "python3",
        'mkdir -p .venv/bin && cp "$0" .venv/bin/python\necho "$@" >> calls',
    )
    requirements = project.folder / "requirements.txt"
    requirements.write_text("# Why.\nsomething>=1\n")
    calls = project.folder / "calls"

    for expected in (["-m venv", "-m pip"], []):
        calls.write_text("")
        done = project.run("venv.sh", "python3", "requirements.txt")
        assert done.returncode == 0
        found = [" ".join(line.split()[:2]) for line in calls.read_text().splitlines()]
        assert [call for call in found if call != "--version"] == expected

    requirements.write_text("something>=2\n")
    calls.write_text("")
    done = project.run("venv.sh", "python3", "requirements.txt")
    assert done.stdout == "venv: installing something>=2\n"
    assert "-r requirements.txt" in calls.read_text()
