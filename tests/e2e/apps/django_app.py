# SPDX-License-Identifier: Apache-2.0
"""Django by its ASGI handler; see `django_site.py` for what is usual."""

# Django has no type annotations of its own.
# mypy: disable-error-code="import-untyped, misc, untyped-decorator"

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator

from e2e.apps import django_site

PATIENCE_SECONDS = 10.0

django_site.configure(
    __name__,
    INSTALLED_APPS=["django.contrib.staticfiles"],
    STATICFILES_DIRS=[django_site.STATIC_DIR],
)

# These want the settings above.
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.core.exceptions import PermissionDenied  # noqa: E402
from django.http import (  # noqa: E402
    HttpRequest,
    HttpResponse,
    JsonResponse,
    StreamingHttpResponse,
)
from django.urls import path  # noqa: E402
from django.views.decorators.csrf import csrf_exempt  # noqa: E402
from django.views.decorators.http import require_GET  # noqa: E402

_gates: dict[str, asyncio.Event] = {}


def _gate(name: str) -> asyncio.Event:
    return _gates.setdefault(name, asyncio.Event())


@csrf_exempt
async def gates(request: HttpRequest, name: str) -> HttpResponse:
    """Open a gate (POST), or wait for it."""
    if request.method == "POST":
        _gate(name).set()
    else:
        await asyncio.wait_for(_gate(name).wait(), PATIENCE_SECONDS)

    return HttpResponse(status=204)


async def async_view(request: HttpRequest, number: int) -> HttpResponse:
    await asyncio.sleep(0)
    return JsonResponse(
        {
            "number": number,
            "tags": request.GET.getlist("tag"),
            "url": request.build_absolute_uri(),
            "agent": request.headers["user-agent"],
            "client": request.META["REMOTE_ADDR"],
            "is_main": threading.current_thread() is threading.main_thread(),
        }
    )


@require_GET
def sync_view(request: HttpRequest) -> HttpResponse:
    is_main = threading.current_thread() is threading.main_thread()
    return JsonResponse({"is_main": is_main})


@csrf_exempt
async def body(request: HttpRequest) -> HttpResponse:
    return HttpResponse(hashlib.sha256(request.body).hexdigest())


async def stream(request: HttpRequest, name: str) -> StreamingHttpResponse:
    """Wait after each part at the gate NAME-PART; the end opens NAME-closed."""

    async def parts() -> AsyncIterator[bytes]:
        try:
            for part in range(3):
                yield b"part %d\n" % part
                await asyncio.wait_for(_gate(f"{name}-{part}").wait(), PATIENCE_SECONDS)
        finally:
            _gate(f"{name}-closed").set()

    return StreamingHttpResponse(parts(), content_type="text/plain")


async def broken(request: HttpRequest, mark: str) -> HttpResponse:
    raise RuntimeError(f"django broken on purpose: {mark}")


def forbidden(request: HttpRequest) -> HttpResponse:
    raise PermissionDenied


urlpatterns = [
    path("gates/<name>", gates),
    path("async/<int:number>", async_view),
    path("sync", sync_view),
    *django_site.urlpatterns,
    path("body", body),
    path("stream/<name>", stream),
    path("broken/<mark>", broken),
    path("forbidden", forbidden),
    path("slash/", sync_view),
]

application = ASGIStaticFilesHandler(get_asgi_application())
