# SPDX-License-Identifier: Apache-2.0
"""Which files are watched, and what counts as a change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hornbeam._watch import Patterns, Tree, changed_paths, fingerprint


def write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")


def found(folder: Path, patterns: Patterns | None = None) -> set[str]:
    tree = Tree([str(folder)], patterns or Patterns())
    return {os.path.relpath(path, folder) for path in tree.scan()}


def test_python_files_of_all_folders(tmp_path: Path) -> None:
    write(tmp_path, "app.py", "shop/__init__.py", "shop/a/b.py", "README.md", "py")
    assert found(tmp_path) == {"app.py", "shop/__init__.py", "shop/a/b.py"}


def test_what_is_left_out(tmp_path: Path) -> None:
    """Caches, hidden files and folders, environments, and what editors put there."""
    write(
        tmp_path,
        *("__pycache__/a.py", ".git/a.py", ".hidden.py", ".#app.py", "app.py~"),
        *("node_modules/x/a.py", "lib/site-packages/a.py", "flycheck_app.py"),
        *("env/pyvenv.cfg", "env/bin/a.py", "shop/.venv/a.py", "app.py"),
    )
    assert found(tmp_path) == {"app.py"}


def test_a_folder_that_is_named_is_watched(tmp_path: Path) -> None:
    """Also where it would be left out as a part of another one."""
    folder = tmp_path / ".hidden"
    write(folder, "app.py", "pyvenv.cfg")
    assert found(folder) == {"app.py"}
    assert found(tmp_path) == set()


def test_patterns(tmp_path: Path) -> None:
    """Names, paths where there is a slash, folders; what is excluded is out."""
    write(
        tmp_path,
        *("app.py", "a.html", "templates/b.html", "templates/old/c.html", ".env"),
        *("tests/t.py", "shop/migrations/m.py", "shop/tests/u.py"),
    )
    assert found(tmp_path, Patterns(("templates/*.html", ".env"), ("shop/tests",))) == {
        *("app.py", "templates/b.html", "templates/old/c.html", ".env"),
        *("tests/t.py", "shop/migrations/m.py"),
    }
    assert found(tmp_path, Patterns(("*.html",), ("tests/", "migrations", "old"))) == {
        *("app.py", "a.html", "templates/b.html")
    }
    assert found(tmp_path, Patterns((), ("*.py",))) == set()
    assert ".env" not in found(tmp_path, Patterns(("*",), ()))


@pytest.mark.parametrize(
    ("path", "concerns"),
    [
        ("app.py", True),
        ("gone.py", True),
        ("notes.txt", False),
        ("shop", True),
        ("a_folder_that_is_gone", True),
        (".git/index", False),
        (".git/gone", False),
        ("shop/__pycache__/gone", False),
        ("shop/node_modules/a.py", False),
    ],
)
def test_reasons_to_look(tmp_path: Path, path: str, concerns: bool) -> None:
    write(tmp_path, "app.py", "notes.txt", "shop/a.py", ".git/index")
    tree = Tree([str(tmp_path)], Patterns())
    assert tree.may_concern(str(tmp_path.resolve() / path)) is concerns
    assert tree.may_concern(str(tmp_path.resolve()))
    assert not tree.may_concern("/elsewhere/app.py")


def test_changes(tmp_path: Path) -> None:
    """Written, replaced by another of that size and time, added, removed."""
    write(tmp_path, "a.py", "b.py", "c.py", "same.py")
    tree = Tree([str(tmp_path)], Patterns())
    before = tree.scan()
    assert changed_paths(before, tree.scan()) == []
    assert fingerprint(before) == fingerprint(tree.scan())
    (tmp_path / "a.py").write_text("yy")
    other = tmp_path / "other.txt"
    other.write_text("y")
    facts = (tmp_path / "b.py").stat()
    os.utime(other, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    other.replace(tmp_path / "b.py")
    (tmp_path / "c.py").unlink()
    write(tmp_path, "d/new.py")
    now = tree.scan()
    names = [os.path.relpath(path, tmp_path) for path in changed_paths(before, now)]
    assert names == ["a.py", "b.py", "c.py", "d/new.py"]
    assert fingerprint(before) != fingerprint(now)


def test_links(tmp_path: Path) -> None:
    """They are followed; one that leads upwards, or nowhere, does no harm."""
    write(tmp_path, "elsewhere/a.py", "app/b.py")
    (tmp_path / "app" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "app" / "up").symlink_to(tmp_path / "app")
    (tmp_path / "app" / "gone.py").symlink_to(tmp_path / "nowhere")
    assert found(tmp_path / "app") == {"b.py", "linked/a.py"}


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    """It is empty until it comes."""
    tree = Tree([str(tmp_path / "later")], Patterns())
    assert tree.scan() == {}
    write(tmp_path, "later/a.py")
    assert len(tree.scan()) == 1


def test_names_that_are_no_text(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/\xff.py", "wb"):
        pass

    snapshot = Tree([str(tmp_path)], Patterns()).scan()
    assert len(snapshot) == 1
    assert fingerprint(snapshot)
