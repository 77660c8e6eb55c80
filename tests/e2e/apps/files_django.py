# SPDX-License-Identifier: Apache-2.0
"""Django: the files of a folder, by its static view and by `FileResponse`."""

# Django has no type annotations of its own.
# mypy: disable-error-code="import-untyped, misc"

from __future__ import annotations

import os
from pathlib import Path

import django
from django.conf import settings

FOLDER = Path(os.environ["FILES_FOLDER"])

settings.configure(
    SECRET_KEY="only for tests", ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF=__name__
)
django.setup()

# These want the settings above.
from django.core.asgi import get_asgi_application  # noqa: E402
from django.http import FileResponse, HttpRequest  # noqa: E402
from django.urls import path  # noqa: E402
from django.views.static import serve  # noqa: E402


def file(request: HttpRequest, name: str) -> FileResponse:
    return FileResponse((FOLDER / name).open("rb"))


urlpatterns = [
    path("file/<name>", file),
    path("static/<path:path>", serve, {"document_root": FOLDER}),
]

app = get_asgi_application()
