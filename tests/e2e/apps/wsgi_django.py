# SPDX-License-Identifier: Apache-2.0
"""Django by its WSGI handler, its static files by whitenoise."""

# Django has no type annotations of its own.
# mypy: disable-error-code="import-untyped, misc, untyped-decorator"

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from e2e.apps import django_site

django_site.configure(
    __name__,
    middleware=("whitenoise.middleware.WhiteNoiseMiddleware",),
    WHITENOISE_ROOT=django_site.STATIC_DIR,
)

# These want the settings above.
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import (  # noqa: E402
    FileResponse,
    HttpRequest,
    HttpResponse,
    JsonResponse,
    StreamingHttpResponse,
)
from django.urls import path  # noqa: E402

from e2e.apps.wsgi_raw import wait_for  # noqa: E402
from hornbeam_erlang import state_incr  # noqa: E402


def views(request: HttpRequest, name: str) -> HttpResponse:
    return JsonResponse({"views": state_incr(f"django:{name}")})


def about(request: HttpRequest) -> HttpResponse:
    return JsonResponse(
        {
            "url": request.build_absolute_uri(),
            "tags": request.GET.getlist("tag"),
            "agent": request.headers["user-agent"],
            "client": request.META["REMOTE_ADDR"],
        }
    )


def stream(request: HttpRequest) -> HttpResponse:
    """Two parts, with the file that the query names between them."""

    def parts() -> Iterator[str]:
        yield "first\n"
        wait_for(request.GET["until"])
        yield "second\n"

    return StreamingHttpResponse(parts(), content_type="text/plain")


def file(request: HttpRequest) -> HttpResponse:
    # By wsgi.file_wrapper.
    return FileResponse(Path(request.GET["path"]).open("rb"))


def broken(request: HttpRequest, mark: str) -> HttpResponse:
    raise RuntimeError(f"django broken on purpose: {mark}")


urlpatterns = [
    path("views/<name>", views),
    path("about", about),
    *django_site.urlpatterns,
    path("stream", stream),
    path("file", file),
    path("broken/<mark>", broken),
    path("slash/", views, {"name": "slash"}),
]

application = get_wsgi_application()
