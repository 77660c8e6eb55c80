# SPDX-License-Identifier: Apache-2.0
"""Django by its WSGI handler, in one file, its static files by whitenoise."""

# Django has no type annotations of its own.
# mypy: disable-error-code="import-untyped, misc, untyped-decorator"

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import django
from django.conf import settings

STATIC_DIR = Path(__file__).resolve().parent.parent / "static"

settings.configure(
    DEBUG=False,
    SECRET_KEY="only for tests",
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "whitenoise.middleware.WhiteNoiseMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
    ],
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    STATIC_URL="/static/",
    WHITENOISE_ROOT=STATIC_DIR,
    USE_TZ=True,
)
django.setup()

# These want the settings above.
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import (  # noqa: E402
    FileResponse,
    HttpRequest,
    HttpResponse,
    JsonResponse,
    StreamingHttpResponse,
)
from django.middleware.csrf import get_token  # noqa: E402
from django.urls import path  # noqa: E402
from django.views.decorators.csrf import csrf_exempt  # noqa: E402

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


def visits(request: HttpRequest) -> HttpResponse:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JsonResponse({"visits": request.session["visits"]})


def token(request: HttpRequest) -> HttpResponse:
    return HttpResponse(get_token(request), content_type="text/plain")


def guarded(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"posted": request.POST.dict()})


@csrf_exempt
def upload(request: HttpRequest) -> HttpResponse:
    file = request.FILES["file"]
    digest = hashlib.sha256()

    for chunk in file.chunks():
        digest.update(chunk)

    return JsonResponse(
        {"name": file.name, "size": file.size, "sha256": digest.hexdigest()}
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
    path("visits", visits),
    path("token", token),
    path("guarded", guarded),
    path("upload", upload),
    path("stream", stream),
    path("file", file),
    path("broken/<mark>", broken),
    path("slash/", views, {"name": "slash"}),
]

application = get_wsgi_application()
