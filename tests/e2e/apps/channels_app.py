# SPDX-License-Identifier: Apache-2.0
"""Django with Channels: a chat of groups, sessions, subprotocols, refusals."""

# Django and Channels have no type annotations of their own.
# mypy: disable-error-code="import-untyped, misc"

from __future__ import annotations

import asyncio
from typing import Any

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="only for tests",
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    INSTALLED_APPS=["channels"],
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
    USE_TZ=True,
)
django.setup()

# These want the settings above.
from channels.generic.websocket import (  # noqa: E402
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    WebsocketConsumer,
)
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from channels.sessions import SessionMiddlewareStack  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.http import HttpRequest, JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402

_codes: dict[str, asyncio.Future[int]] = {}


def _code(name: str) -> asyncio.Future[int]:
    loop = asyncio.get_running_loop()
    return _codes.setdefault(name, loop.create_future())


async def remember(request: HttpRequest, name: str) -> JsonResponse:
    request.session["name"] = name
    return JsonResponse({"name": name})


async def close_code(request: HttpRequest, name: str) -> JsonResponse:
    """Wait until the session of that name is over."""
    code = await asyncio.wait_for(asyncio.shield(_code(name)), 10)
    return JsonResponse({"code": code})


class Chat(AsyncWebsocketConsumer):
    """Tells all that is said to the group of its room."""

    async def connect(self) -> None:
        self.room = self.scope["url_route"]["kwargs"]["room"]
        await self.channel_layer.group_add(self.room, self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.room, self.channel_name)
        _code(self.room).set_result(code)

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        event = {"type": "chat.said", "text": text_data, "bytes": bytes_data}
        await self.channel_layer.group_send(self.room, event)

    async def chat_said(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["text"], bytes_data=event["bytes"])


class Session(AsyncJsonWebsocketConsumer):
    """Says what the session of Django knows, and what it was asked with."""

    async def connect(self) -> None:
        await self.accept()
        await self.send_json(
            {
                "name": self.scope["session"].get("name"),
                "cookies": sorted(self.scope["cookies"]),
                "path": self.scope["path"],
                "query": self.scope["query_string"].decode(),
            }
        )

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await self.send_json({"echo": content})


class Protocols(AsyncWebsocketConsumer):
    """Takes `second`, else nobody."""

    async def connect(self) -> None:
        if "second" in self.scope["subprotocols"]:
            await self.accept("second")
            await self.close(4002, reason="that was all")
        else:
            await self.close()


class InThread(WebsocketConsumer):
    """The synchronous kind: Channels runs it in a thread."""

    def connect(self) -> None:
        self.accept()

    def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        self.send(text_data=f"heard {text_data}")


class Failing(AsyncWebsocketConsumer):
    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        raise RuntimeError("on purpose")


urlpatterns = [path("remember/<name>", remember), path("close-code/<name>", close_code)]

_sockets = URLRouter(
    [
        path("chat/<room>", Chat.as_asgi()),
        path("session", Session.as_asgi()),
        path("protocols", Protocols.as_asgi()),
        path("in-thread", InThread.as_asgi()),
        path("failing", Failing.as_asgi()),
    ]
)

app = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": AllowedHostsOriginValidator(SessionMiddlewareStack(_sockets)),
    }
)
