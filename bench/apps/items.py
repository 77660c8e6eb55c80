# SPDX-License-Identifier: Apache-2.0
"""FastAPI: JSON in and out, both validated; a file; a page for the first request."""

import os

from fastapi import FastAPI
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field

FILE_VARIABLE = "BENCH_FILE"


class Line(BaseModel):
    """What is ordered, and how many."""

    name: str = Field(min_length=1, max_length=80)
    price: float = Field(gt=0)
    count: int = Field(ge=1, le=1000)


class Order(BaseModel):
    """A request."""

    customer: str
    lines: list[Line]
    note: str | None = None


class Receipt(BaseModel):
    """A response."""

    customer: str
    count: int
    total: float


app = FastAPI()


@app.get("/")
async def index() -> dict[str, bool]:
    return {"ready": True}


@app.post("/orders")
async def order(order: Order) -> Receipt:
    return Receipt(
        customer=order.customer,
        count=sum(line.count for line in order.lines),
        total=sum(line.price * line.count for line in order.lines),
    )


@app.get("/file")
async def file() -> FileResponse:
    return FileResponse(os.environ[FILE_VARIABLE])
