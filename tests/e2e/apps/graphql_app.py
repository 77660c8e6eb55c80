# SPDX-License-Identifier: Apache-2.0
"""GraphQL with subscriptions: strawberry in a Starlette application."""

# What decorators of strawberry make is opaque to mypy.
# mypy: disable-error-code="misc, untyped-decorator"

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import strawberry
from starlette.applications import Starlette
from starlette.routing import Mount
from strawberry.asgi import GraphQL

from e2e.apps import gates


@strawberry.type
class Query:
    @strawberry.field
    def hello(self, name: str = "world") -> str:
        return f"hello {name}"


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def count(self, to: int) -> AsyncGenerator[int, None]:
        for number in range(to):
            yield number

    @strawberry.subscription
    async def endless(self, name: str) -> AsyncGenerator[str, None]:
        """Goes on until nobody listens, which opens the gate NAME."""
        try:
            while True:
                yield name
                await asyncio.sleep(0.01)
        finally:
            gates.open_gate(name)

    @strawberry.subscription
    async def failing(self) -> AsyncGenerator[int, None]:
        yield 1
        raise RuntimeError("on purpose")


schema = strawberry.Schema(query=Query, subscription=Subscription)
graphql = GraphQL(schema)
app = Starlette(routes=[gates.route, Mount("/graphql", graphql)])
