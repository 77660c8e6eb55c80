# SPDX-License-Identifier: Apache-2.0
"""How the application is found, what is said where it can't be, and its interface."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asgiref.compatibility
import fastapi
import flask
import pytest
import quart
import starlette.applications
from asgiref.wsgi import WsgiToAsgi
from django.core.handlers.asgi import ASGIHandler  # type: ignore[import-untyped]  # so
from django.core.handlers.wsgi import WSGIHandler  # type: ignore[import-untyped]  # so

from hornbeam._asgi import Receive, Scope, Send
from hornbeam._loader import (
    LoadError,
    detect_interface,
    enter_directory,
    extend_path,
    load_app,
)

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    """Write a module that can be imported; it is forgotten after the test."""
    path, modules = sys.path[:], set(sys.modules)
    sys.path.insert(0, str(tmp_path))

    def write_module(name: str, text: str) -> None:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    yield write_module
    sys.path[:] = path

    for name in set(sys.modules) - modules:
        del sys.modules[name]


def failure(app: str, worker_class: Any = "auto") -> LoadError:
    with pytest.raises(LoadError) as caught:
        load_app(app, worker_class)

    return caught.value


ASYNC_APP = "async def {}(scope, receive, send): pass\n"


# Finding it.


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("mod:application", "application"),
        ("mod:app", "app"),
        ("mod", "application"),
        ("mod:holder.inner.app", "inner"),
        ("pkg.sub:app", "sub"),
        ("pkg.only_app", "only_app"),
    ],
)
def test_found(write: Write, name: str, found: str) -> None:
    write(
        "mod.py",
        ASYNC_APP.format("application")
        + ASYNC_APP.format("app")
        + "class holder:\n    class inner:\n"
        + "        async def app(scope, receive, send): pass\n",
    )
    write("pkg/__init__.py", "")
    write("pkg/sub.py", ASYNC_APP.format("app"))
    write("pkg/only_app.py", ASYNC_APP.format("app"))
    loaded = load_app(name, "auto")
    assert loaded.worker_class == "asgi"
    code: Any = loaded.call
    assert found in f"{code.__module__}.{code.__qualname__}"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:app", "there is no module 'nowhere' (looked in "),
        ("nowhere.sub:app", "there is no module 'nowhere' (looked in "),
        ("pkg.nowhere:app", "there is no module 'pkg.nowhere' (looked in "),
        ("mod.sub:app", "there is no module 'mod.sub' (looked in "),
        ("mod:nothing", "module 'mod' has no attribute 'nothing'"),
        ("mod:value.nothing", "'value' has no attribute 'nothing'"),
        ("mod", "module 'mod' has neither 'application' nor 'app'"),
        ("mod:", "expected module:attribute, such as app:application"),
        (":app", "expected module:attribute, such as app:application"),
        ("", "expected module:attribute, such as app:application"),
    ],
)
def test_not_found(write: Write, name: str, message: str) -> None:
    write("mod.py", "value = 5")
    write("pkg/__init__.py", "")
    error = failure(name)
    assert error.name == "app_not_found"
    assert error.facts["app"] == name
    assert error.facts["message"].startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("import broken.sub", "ModuleNotFoundError: No module named 'broken.sub'"),
        ("from os import nothing", "ImportError: cannot import name 'nothing'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def (", "SyntaxError"),
        ("import sys; sys.exit('no config')", "SystemExit: no config"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise ModuleNotFoundError('mine', name='broken')", "ModuleNotFoundError"),
        (
            "def __getattr__(name): raise OSError('late')",
            "OSError: late",
        ),
    ],
)
def test_import_fails(write: Write, text: str, message: str) -> None:
    """What fails inside the module is told apart from a module that is not there."""
    write("broken.py", f"# first line\n{text}\n")
    error = failure("broken:app")
    assert error.name == "app_import_failed"
    assert error.facts["app"] == "broken:app"
    assert message in error.facts["message"]
    assert message in error.facts["traceback"]
    assert "broken.py" in error.facts["traceback"]
    assert "importlib" not in error.facts["traceback"]
    assert "_loader.py" not in error.facts["traceback"]


def test_missing_module_in_a_submodule(write: Write) -> None:
    write("pkg/__init__.py", "import pkg.sub")
    write("pkg/sub.py", "import nowhere")
    error = failure("pkg:app")
    assert error.name == "app_import_failed"
    assert "pkg/sub.py" in error.facts["traceback"]


def test_not_callable(write: Write) -> None:
    write("mod.py", "app = {}")
    error = failure("mod:app")
    assert (error.name, error.facts) == (
        "app_not_callable",
        {"app": "mod:app", "type": "dict"},
    )


@pytest.mark.parametrize(
    ("text", "worker_class", "loaded"),
    [
        ("async def app(scope, receive, send): pass", "auto", "asgi"),
        ("async def app(scope, receive, send): pass", "asgi", "asgi"),
        ("async def app(scope, receive, send): pass", "wsgi", None),
        ("def app(environ, start_response): pass", "auto", "wsgi"),
        ("def app(environ, start_response): pass", "wsgi", "wsgi"),
        # What the user says counts: there may be a decorator that shows no arguments.
        ("def app(*args): pass", "asgi", "asgi"),
        ("def app(*args): pass", "wsgi", "wsgi"),
        ("def app(scope): pass", "wsgi", "wsgi"),
    ],
)
def test_worker_class(
    write: Write, text: str, worker_class: str, loaded: str | None
) -> None:
    write("mod.py", text)

    if loaded:
        assert load_app("mod:app", worker_class).worker_class == loaded  # type: ignore[arg-type]  # one of them
    else:
        error = failure("mod:app", worker_class)
        assert error.name == "worker_class_unsupported"
        assert error.facts == {"worker_class": "wsgi"}


# Where from.


def test_path_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/before", str(tmp_path / "b"), "/after"])
    extend_path([".", "b", "/c", "b"])
    assert sys.path == [
        str(tmp_path),
        str(tmp_path / "b"),
        "/c",
        "/before",
        "/after",
    ]


def test_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir("/")
    enter_directory(str(tmp_path))
    assert Path(os.getcwd()) == tmp_path


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/nowhere/at/all", "No such file or directory"),
        (__file__, "Not a directory"),
        ("a\0b", "embedded null"),
    ],
)
def test_bad_directory(path: str, message: str) -> None:
    with pytest.raises(LoadError) as caught:
        enter_directory(path)

    assert caught.value.name == "chdir_failed"
    assert caught.value.facts["chdir"] == path
    assert message in caught.value.facts["message"]


# Interfaces.


async def coroutine_app(scope: Scope, receive: Receive, send: Send) -> None:
    pass


def wsgi_app(environ: object, start_response: object) -> None:
    pass


def wsgi_app_with_default(
    environ: object, start_response: object, *, x: int = 1
) -> None:
    pass


def double_callable(scope: Scope) -> object:
    async def instance(receive: Receive, send: Send) -> None:
        pass

    return instance


def plain_with_three(scope: Scope, receive: Receive, send: Send) -> object:
    return coroutine_app(scope, receive, send)


def any_arguments(*args: object) -> None:
    pass


class AsyncCall:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pass


class PlainCall:
    def __call__(self, scope: Scope, receive: Receive, send: Send) -> object:
        return coroutine_app(scope, receive, send)


class WsgiCall:
    def __call__(self, environ: object, start_response: object) -> None:
        pass


class DoubleCallable:
    def __init__(self, scope: Scope) -> None:
        pass

    async def __call__(self, receive: Receive, send: Send) -> None:
        pass


class Awaitable:
    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pass

    def __await__(self) -> Iterator[None]:
        yield


class WsgiClass:
    def __init__(self, environ: object, start_response: object) -> None:
        pass

    def __iter__(self) -> Iterator[bytes]:
        yield b""


class Methods:
    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        pass

    def wsgi(self, environ: object, start_response: object) -> None:
        pass


def marked(**markers: object) -> Callable[..., None]:
    def app(environ: object, start_response: object) -> None:
        pass

    vars(app).update(markers)
    return app


def middleware(app: Any) -> Any:
    @functools.wraps(app)
    def wrapper(*args: object) -> object:
        return app(*args)

    return wrapper


def asgiref_app() -> object:
    make: Any = WsgiToAsgi
    return make(wsgi_app)


@pytest.mark.parametrize(
    ("app", "interface"),
    [
        (coroutine_app, "asgi3"),
        (functools.partial(coroutine_app), "asgi3"),
        (AsyncCall(), "asgi3"),
        (AsyncCall().__call__, "asgi3"),
        (Methods().app, "asgi3"),
        (plain_with_three, "asgi3"),
        (PlainCall(), "asgi3"),
        (middleware(coroutine_app), "asgi3"),
        (Awaitable, "asgi3"),
        (double_callable, "asgi2"),
        (DoubleCallable, "asgi2"),
        (wsgi_app, "wsgi"),
        (wsgi_app_with_default, "wsgi"),
        (functools.partial(wsgi_app), "wsgi"),
        (WsgiCall(), "wsgi"),
        (WsgiClass, "wsgi"),
        (Methods().wsgi, "wsgi"),
        (any_arguments, "wsgi"),
        (dict, "wsgi"),
        # Has no signature on some versions.
        (min, "wsgi"),
        (marked(_asgi_single_callable=True), "asgi3"),
        (marked(_asgi_double_callable=True), "asgi2"),
        (marked(_is_coroutine=object()), "asgi3"),
        (fastapi.FastAPI(), "asgi3"),
        (starlette.applications.Starlette(), "asgi3"),
        (quart.Quart("x"), "asgi3"),
        (ASGIHandler.__new__(ASGIHandler), "asgi3"),
        (asgiref_app(), "asgi3"),
        (flask.Flask("x"), "wsgi"),
        (WSGIHandler.__new__(WSGIHandler), "wsgi"),
    ],
)
def test_interface(app: Any, interface: str) -> None:
    assert detect_interface(app) == interface


@pytest.mark.parametrize("app", [double_callable, DoubleCallable, coroutine_app])
def test_agrees_with_asgiref(app: Any) -> None:
    is_double_callable: Any = asgiref.compatibility.is_double_callable
    assert is_double_callable(app) == (detect_interface(app) == "asgi2")


def test_double_callable_is_called_as_asgi_3(write: Write) -> None:
    write(
        "mod.py",
        "calls = []\n"
        "class App:\n"
        "    def __init__(self, scope): self.scope = scope\n"
        "    async def __call__(self, receive, send):\n"
        "        calls.append((self.scope, receive, send))\n",
    )
    loaded = load_app("mod:App", "asgi")
    call: Any = loaded.call
    asyncio.run(call("scope", "receive", "send"))
    module: types.ModuleType = sys.modules["mod"]
    assert module.calls == [("scope", "receive", "send")]
