# SPDX-License-Identifier: Apache-2.0
"""FastAPI: parameters, bodies, responses, errors, middleware."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Cookie, FastAPI, Header, HTTPException, Query, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse
from fastapi.responses import Response as PlainResponse
from pydantic import BaseModel, Field

app = FastAPI()
app.add_middleware(GZipMiddleware, minimum_size=1000)
app.add_middleware(
    CORSMiddleware,
    allow_origins=["https://shop.example"],
    allow_methods=["GET", "PUT"],
    allow_headers=["x-token"],
    allow_credentials=True,
)


class Item(BaseModel):
    """What the body of a request must be."""

    name: str = Field(min_length=1)
    price: float = Field(gt=0)
    tags: list[str] = []


class User(BaseModel):
    """What of a user may be seen."""

    name: str


class UnknownColour(Exception):
    """For a handler of the application's own."""


@app.get("/path/{number}/{rest:path}")
async def path(number: int, rest: str) -> dict[str, Any]:
    return {"number": number, "rest": rest}


@app.get("/query")
async def query(
    q: str,
    tag: Annotated[list[str], Query(default_factory=list)],
    limit: Annotated[int, Query(ge=1)] = 10,
) -> dict[str, Any]:
    return {"q": q, "limit": limit, "tag": tag}


@app.get("/header")
async def header(
    x_token: Annotated[str, Header()],
    x_many: Annotated[list[str] | None, Header()] = None,
) -> dict[str, Any]:
    return {"x_token": x_token, "x_many": x_many}


@app.get("/cookie")
async def cookie(
    session: Annotated[str, Cookie()], theme: Annotated[str, Cookie()] = "light"
) -> dict[str, str]:
    return {"session": session, "theme": theme}


@app.post("/items")
async def create_item(item: Item) -> Item:
    return item


@app.get("/user", response_model=User)
async def user() -> dict[str, str]:
    return {"name": "Ada", "password": "secret"}


@app.get("/set-cookies")
async def set_cookies(response: PlainResponse) -> dict[str, str]:
    response.set_cookie("first", "1", httponly=True)
    response.set_cookie("second", "2", max_age=60)
    response.set_cookie("third", "a, b")
    return {}


@app.get("/redirect")
async def redirect() -> RedirectResponse:
    return RedirectResponse("/user", status_code=303)


@app.get("/slash/")
async def slash() -> dict[str, str]:
    return {}


@app.api_route("/text", methods=["GET", "HEAD"])
async def text() -> PlainTextResponse:
    return PlainTextResponse("some text")


@app.get("/not-modified")
async def not_modified() -> PlainResponse:
    return PlainResponse(status_code=304, headers={"etag": '"v1"'})


@app.delete("/items/{item_id}", status_code=204)
async def delete_item(item_id: int) -> None:
    pass


@app.get("/large")
async def large() -> PlainTextResponse:
    return PlainTextResponse("large " * 1000)


@app.get("/who")
async def who(request: Request) -> dict[str, Any]:
    return {
        "url": str(request.url),
        "client": request.client and request.client.host,
        "user": str(request.url_for("user")),
        "raw_path": request.scope["raw_path"].decode(),
        "path": request.scope["path"],
    }


@app.get("/teapot")
async def teapot() -> None:
    raise HTTPException(418, detail="short and stout", headers={"x-kind": "teapot"})


@app.get("/colour")
async def colour() -> None:
    raise UnknownColour("mauve")


@app.exception_handler(UnknownColour)
async def handle_unknown_colour(request: Request, exc: UnknownColour) -> JSONResponse:
    return JSONResponse({"colour": str(exc)}, status_code=422)


@app.get("/broken/{mark}")
async def broken(mark: str) -> None:
    raise RuntimeError(f"broken on purpose: {mark}")


@app.get("/sleep")
async def sleep() -> dict[str, bool]:
    await asyncio.sleep(0.05)
    return {"slept": True}


router = APIRouter(prefix="/api/v1", tags=["routed"])


@router.put("/things/{thing_id}")
async def put_thing(thing_id: int, item: Item) -> dict[str, Any]:
    return {"thing_id": thing_id, "name": item.name}


app.include_router(router)
