# SPDX-License-Identifier: Apache-2.0
"""The façade: which codec it picks; and what both codecs owe each other."""

from __future__ import annotations

import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given

from etf_support import (
    CODECS,
    TWIN,
    Codec,
    bytes_for_text,
    each_codec,
    needs_both,
    values,
    without_deadline,
)
from hornbeam import _etf, _etf_tags

ROOT = Path(__file__).parents[1]


def test_best_codec_is_picked() -> None:
    assert _etf.load_codec({}).CODEC == CODECS[0].CODEC
    assert _etf.load_codec({"HORNBEAM_CODEC": ""}).CODEC == CODECS[0].CODEC


@each_codec
def test_codec_can_be_asked_for(codec: Codec) -> None:
    assert _etf.load_codec({"HORNBEAM_CODEC": codec.CODEC}) is codec


def test_unknown_codec_is_refused() -> None:
    with pytest.raises(
        ValueError, match="HORNBEAM_CODEC is 'rust'; expected 'c', 'pyt"
    ):
        _etf.load_codec({"HORNBEAM_CODEC": "rust"})


def test_extension_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the twin does the work, unless the extension was asked for."""
    monkeypatch.setitem(sys.modules, "hornbeam._etf_c", None)
    assert _etf.load_codec({}) is TWIN

    with pytest.raises(ImportError, match="HORNBEAM_CODEC is 'c', but the C extension"):
        _etf.load_codec({"HORNBEAM_CODEC": "c"})


@each_codec
def test_environment_is_read_at_import(codec: Codec) -> None:
    environ = {
        **os.environ,
        "HORNBEAM_CODEC": codec.CODEC,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    code = "from hornbeam import _etf; print(_etf.CODEC, _etf.decode(_etf.encode([1])))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, check=True
    )
    assert done.stdout.split() == [codec.CODEC.encode(), b"[1]"]


def test_all_that_the_facade_offers() -> None:
    own = {
        name
        for name, thing in vars(_etf).items()
        if not name.startswith("_")
        and (name == "CODEC" or inspect.isroutine(thing))
        and getattr(thing, "__module__", None) not in ("importlib", "typing")
    }
    assert own == set(_etf.__all__)


@needs_both
def test_limits_of_both_codecs() -> None:
    c_codec = CODECS[0]
    limits = [name for name in vars(c_codec) if name.startswith("MAX_")]
    assert len(limits) == 5

    for name in limits:
        assert getattr(c_codec, name) == getattr(_etf_tags, name), name


@each_codec
def test_codecs_offer_the_same(codec: Codec) -> None:
    for name in ("decode", "decode_packet", "encode", "encode_message", "pack_batch"):
        assert inspect.getdoc(getattr(codec, name))
        assert getattr(_etf, name) is getattr(CODECS[0], name)


@each_codec
@without_deadline
@given(value=values)
def test_values_come_back(codec: Codec, value: object) -> None:
    """Python to Python is lossless."""
    decoded = codec.decode(codec.encode(value))
    assert decoded == value
    # 1, 1.0 and True are equal, and so are 0.0 and -0.0; their texts are not.
    assert repr(decoded) == repr(value)


@each_codec
@without_deadline
@given(value=values)
def test_messages_come_back_with_bytes(codec: Codec, value: object) -> None:
    packet = codec.pack_batch([codec.encode_message(value)] * 2)
    assert packet[:4] == (len(packet) - 4).to_bytes(4, "big")
    decoded = codec.decode_packet(memoryview(packet)[4:])
    assert repr(decoded) == repr([bytes_for_text(value)] * 2)


@needs_both
@without_deadline
@given(value=values)
def test_codecs_write_the_same(value: object) -> None:
    c_codec, twin = CODECS
    assert c_codec.encode(value) == twin.encode(value)
    assert c_codec.encode_message(value) == twin.encode_message(value)


@needs_both
def test_forked_child_can_use_the_codec() -> None:
    """There is no state that a fork would break."""
    code = """
import os
from hornbeam import _etf_c as codec
from hornbeam._terms import Atom

data = codec.encode([Atom("a"), {"k": b"v"}])
child = os.fork()

if child == 0:
    good = codec.decode(data) == [Atom("a"), {"k": b"v"}]
    good = good and codec.decode(b"\\x83w\\1b") == Atom("b")
    os._exit(0 if good else 1)

_, status = os.waitpid(child, 0)
raise SystemExit(status)
"""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", code], env=environ, check=True)


# The build.


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of the script and the sources, without anything built."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "build_ext.sh", tmp_path / "scripts")
    shutil.copytree(
        ROOT / "python" / "hornbeam",
        tmp_path / "python" / "hornbeam",
        ignore=shutil.ignore_patterns("*.so", "__pycache__"),
    )
    return tmp_path


def build(
    sources: Path, *arguments: str, **environ: str
) -> tuple[int, str, list[Path]]:
    """Run the build script; return its status, what it says, and what is built."""
    done = subprocess.run(
        [sources / "scripts" / "build_ext.sh", *arguments],
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        cwd=sources,
    )
    built = sorted((sources / "python" / "hornbeam").glob("*_c*.so*"))
    return done.returncode, done.stdout, built


@needs_both
def test_extensions_are_built_once(sources: Path) -> None:
    status, said, built = build(sources, sys.executable)
    assert (status, len(built)) == (0, 2)
    lines = [f"build_ext: built {extension.name}\n" for extension in built]
    assert said == "".join(lines)
    made, other = built[0].stat(), built[1].stat()

    assert build(sources, sys.executable) == (0, "", built)
    assert built[0].stat() == made

    os.utime(sources / "python" / "hornbeam" / "_etf_c.h", (2**31, 2**31))
    assert build(sources, sys.executable)[1] == lines[0]
    assert built[1].stat() == other
    # Not the inode: the number of the one that was replaced may be given again.
    assert built[0].stat().st_mtime_ns > made.st_mtime_ns


def test_build_without_a_compiler(sources: Path) -> None:
    """The twin is used, and one line says so; what was built before is not left."""
    status, said, built = build(sources, sys.executable, CC="/no/such/cc")
    assert (status, built) == (0, [])
    assert said.splitlines()[-1] == (
        "build_ext: there is no C compiler /no/such/cc;"
        " the pure Python codec will be used"
    )


def test_build_without_headers(sources: Path, tmp_path: Path) -> None:
    """A Python whose headers are not installed."""
    python = tmp_path / "python_without_headers"
    python.write_text(
        f'#!/bin/sh\n"{sys.executable}" "$@" | sed "s|^/.*include.*|/no/such/folder|"\n'
    )
    python.chmod(0o755)
    status, said, built = build(sources, str(python))
    assert (status, built) == (0, [])
    assert said == (
        "build_ext: no Python.h in /no/such/folder;"
        " the pure Python codec will be used\n"
    )


@needs_both
def test_build_of_broken_sources(sources: Path) -> None:
    """The compiler's words are shown, and nothing half-built is left."""
    (sources / "python" / "hornbeam" / "_etf_c_decode.c").write_text("int broken(")
    status, said, built = build(sources, sys.executable)
    assert (status, built) == (0, [])
    assert "error:" in said
    assert said.endswith("; the pure Python codec will be used\n")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ((), 2, "usage: scripts/build_ext.sh PYTHON\n"),
        (("no/such/python",), 1, "build_ext: there is no no/such/python\n"),
        (("/bin/false",), 1, "build_ext: /bin/false is not a Python that runs\n"),
    ],
)
def test_wrong_use_of_the_build(
    sources: Path, arguments: tuple[str, ...], status: int, said: str
) -> None:
    assert build(sources, *arguments) == (status, said, [])
