# SPDX-License-Identifier: Apache-2.0
"""Find the application, and see which interface it has."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any, Final, Literal, TypeAlias, cast

from hornbeam._asgi import AsgiApp, Receive, Scope, Send
from hornbeam._settings import WorkerClass
from hornbeam._wsgi import WsgiApp

__all__ = ("LoadError", "LoadedApp", "enter_directory", "extend_path", "load_app")

DEFAULT_ATTRIBUTES: Final = ("application", "app")
"""Where the application is looked for if only a module is named, in this order."""

Interface: TypeAlias = Literal["asgi3", "asgi2", "wsgi"]


class LoadError(Exception):
    """The application can't be had.

    Args:
        name: `app_not_found`, `app_import_failed`, `app_not_callable`, `chdir_failed`
            or `worker_class_unsupported`.
        facts: what `docs/protocol.md` lists for that name.
    """

    name: str
    facts: dict[str, str]

    def __init__(self, name: str, facts: dict[str, str]) -> None:
        super().__init__(name, facts)
        self.name = name
        self.facts = facts


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedApp:
    """An application that is ready to be called."""

    call: AsgiApp | WsgiApp
    worker_class: Literal["asgi", "wsgi"]


# Where modules come from.


def enter_directory(path: str) -> None:
    """Make a directory the working directory.

    Raises:
        LoadError: `chdir_failed`.
    """
    try:
        os.chdir(path)
    except (OSError, ValueError) as exc:
        message = getattr(exc, "strerror", None) or str(exc)
        raise LoadError("chdir_failed", {"chdir": path, "message": message}) from exc


def extend_path(pythonpath: Iterable[str]) -> None:
    """Put directories before all others that modules are looked for in."""
    added = list(dict.fromkeys(map(os.path.abspath, pythonpath)))
    sys.path[:] = [*added, *(entry for entry in sys.path if entry not in added)]


# The application.


def load_app(name: str, worker_class: WorkerClass) -> LoadedApp:
    """Import the application.

    Args:
        name: `module:attribute`, the attribute may be dotted; or a module alone.
        worker_class: the interface it is to have; `auto` looks at it.

    Raises:
        LoadError: it is not there, can't be imported, or is no application.
    """
    module_name, colon, attribute = name.partition(":")

    if not module_name or (colon and not attribute):
        message = "expected module:attribute, such as app:application"
        raise LoadError("app_not_found", {"app": name, "message": message})

    module = _import(name, module_name)
    app = _get(name, module, attribute) if colon else _find_default(name, module)

    if not callable(app):
        raise LoadError("app_not_callable", {"app": name, "type": type(app).__name__})

    interface = detect_interface(app)

    # Looks can deceive, so that what the user says counts; but what is called with a
    # coroutine in return is no WSGI.
    if worker_class == "wsgi" and interface == "asgi3":
        raise LoadError("worker_class_unsupported", {"worker_class": "wsgi"})

    if worker_class == "wsgi" or (worker_class == "auto" and interface == "wsgi"):
        return LoadedApp(call=cast("WsgiApp", app), worker_class="wsgi")

    return LoadedApp(
        call=app if interface == "asgi3" else _single_callable(app), worker_class="asgi"
    )


def _import(name: str, module_name: str) -> ModuleType:
    importlib.invalidate_caches()

    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if not _is_missing(module_name, exc):
            raise _import_failed(name, exc) from exc

        where = ", ".join(sys.path[:3])
        message = f"there is no module {exc.name!r} (looked in {where}, ...)"
        raise LoadError("app_not_found", {"app": name, "message": message}) from exc
    except BaseException as exc:
        # SystemExit too: a module that calls sys.exit() is one that can't be imported.
        raise _import_failed(name, exc) from exc


def _is_missing(module_name: str, error: ModuleNotFoundError) -> bool:
    """Tell whether the module itself is missing, and not one that it imports."""
    missing = error.name or ""
    return f"{module_name}.".startswith(f"{missing}.") and not _own_frames(error)


def _find_default(name: str, module: ModuleType) -> object:
    for attribute in DEFAULT_ATTRIBUTES:
        if hasattr(module, attribute):
            return getattr(module, attribute)

    message = f"module {module.__name__!r} has neither 'application' nor 'app'"
    raise LoadError("app_not_found", {"app": name, "message": message})


def _get(name: str, module: ModuleType, dotted: str) -> object:
    value: object = module
    owner = f"module {module.__name__!r}"

    for attribute in dotted.split("."):
        try:
            value = getattr(value, attribute)
        except AttributeError as exc:
            message = f"{owner} has no attribute {attribute!r}"
            raise LoadError("app_not_found", {"app": name, "message": message}) from exc
        except BaseException as exc:
            raise _import_failed(name, exc) from exc

        owner = f"{attribute!r}"

    return value


def _import_failed(name: str, error: BaseException) -> LoadError:
    message = "".join(traceback.format_exception_only(type(error), error)).strip()
    text = "".join(
        traceback.format_exception(type(error), error, _own_frames(error))
    ).strip()
    return LoadError(
        "app_import_failed", {"app": name, "message": message, "traceback": text}
    )


def _own_frames(error: BaseException) -> TracebackType | None:
    """Return the traceback from the first frame on that is the application's."""
    frames = error.__traceback__

    while frames is not None:
        file = frames.tb_frame.f_code.co_filename

        if (
            file not in (__file__, importlib.__file__)
            and "<frozen importlib" not in file
        ):
            return frames

        frames = frames.tb_next

    return None


# Its interface.


def detect_interface(app: Callable[..., object]) -> Interface:
    """Tell the interface of an application by its looks.

    In this order: the markers of asgiref; whether it or its `__call__` is a coroutine
    function; how many arguments it must have. A class is called for each request: with
    the scope (ASGI 2), with all three (awaitable instances), or as WSGI.
    """
    if getattr(app, "_asgi_single_callable", False):
        return "asgi3"

    if getattr(app, "_asgi_double_callable", False):
        return "asgi2"

    if inspect.isclass(app):
        if _is_coroutine_function(app.__call__):
            return "asgi2"

        return "asgi3" if hasattr(app, "__await__") else "wsgi"

    # The type's: an instance has it from there.
    if _is_coroutine_function(app) or _is_coroutine_function(type(app).__call__):
        return "asgi3"

    by_arguments: dict[int | None, Interface] = {1: "asgi2", 3: "asgi3"}
    return by_arguments.get(_count_required(app), "wsgi")


def _is_coroutine_function(function: object) -> bool:
    # The marker is what asyncio.iscoroutinefunction() looks for, and asgiref sets it;
    # functools.partial is looked through.
    return inspect.iscoroutinefunction(function) or hasattr(function, "_is_coroutine")


def _count_required(app: Callable[..., object]) -> int | None:
    try:
        parameters = inspect.signature(app).parameters.values()
    except (TypeError, ValueError):
        return None

    positional = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    return sum(
        parameter.kind in positional and parameter.default is parameter.empty
        for parameter in parameters
    )


def _single_callable(app: Callable[..., Any]) -> AsgiApp:
    """Make an ASGI 3 application of an ASGI 2 one."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        instance = app(scope)
        await instance(receive, send)

    return application
