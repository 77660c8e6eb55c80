# SPDX-License-Identifier: Apache-2.0
"""What the applications with Django's usual middleware share: settings and views."""

# Django has no type annotations of its own.
# mypy: disable-error-code="import-untyped, misc, untyped-decorator"

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.middleware.csrf import get_token
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

STATIC_DIR = Path(__file__).resolve().parent.parent / "static"


def configure(urls: str, *, middleware: tuple[str, ...] = (), **others: Any) -> None:
    """Set Django up, before anything is imported that wants its settings.

    Args:
        urls: the module that has the URLs.
        middleware: what comes before sessions.
        others: settings of that application alone.
    """
    settings.configure(
        DEBUG=False,
        SECRET_KEY="only for tests",
        ALLOWED_HOSTS=["127.0.0.1"],
        ROOT_URLCONF=urls,
        MIDDLEWARE=[
            "django.middleware.security.SecurityMiddleware",
            *middleware,
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
        ],
        SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
        STATIC_URL="/static/",
        USE_TZ=True,
        **others,
    )
    django.setup()


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


urlpatterns = [
    path("visits", visits),
    path("token", token),
    path("guarded", guarded),
    path("upload", upload),
]
