# SPDX-License-Identifier: Apache-2.0
"""Files as frameworks send them: whole, in ranges, conditional, large, many."""

from __future__ import annotations

import asyncio
import email.message
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import BytesParser
from pathlib import Path

import httpx
import pytest

from e2e.support import env_option, make_async_client, make_client, serving
from node import Node

FRAMEWORKS = ("starlette", "fastapi", "django", "quart")
WITH_RANGES = ("starlette", "fastapi", "quart")
WITH_MANY_RANGES = ("starlette", "fastapi")

MEBIBYTE = 1 << 20
LARGE_BYTES = 50 * MEBIBYTE
MIDDLE_BYTES = 3 * MEBIBYTE + 5
DOWNLOADS = 20

FILES = {"empty": 0, "small": 1000, "middle": MIDDLE_BYTES, "large": LARGE_BYTES}


@dataclass
class Site:
    """A framework that serves the folder."""

    name: str
    url: str
    folder: Path
    client: httpx.Client

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")

    for name, size in FILES.items():
        (folder / name).write_bytes(os.urandom(size))

    return folder


@pytest.fixture(scope="module", params=FRAMEWORKS)
def site(request: pytest.FixtureRequest, node: Node, folder: Path) -> Iterator[Site]:
    name = str(request.param)
    options = f"#{{env => {env_option({'FILES_FOLDER': str(folder)})}}}"

    with (
        serving(node, f"files_{name}:app", options) as url,
        make_client(url) as client,
    ):
        yield Site(name, url, folder, client)


def need(site: Site, names: tuple[str, ...], what: str) -> None:
    if site.name not in names:
        pytest.skip(f"{site.name} has no {what}")


PLACES = pytest.mark.parametrize("place", ["file", "static"])


@PLACES
@pytest.mark.parametrize("name", ["empty", "small", "middle"])
def test_whole(site: Site, place: str, name: str) -> None:
    response = site.client.get(f"/{place}/{name}")
    assert response.status_code == 200
    assert response.headers["content-length"] == str(FILES[name])
    assert response.content == site.read(name)


@PLACES
def test_large(site: Site, place: str) -> None:
    """50 MB, compared by a checksum."""
    digest = hashlib.sha256()

    with site.client.stream("GET", f"/{place}/large") as response:
        for part in response.iter_raw():
            digest.update(part)

    assert digest.digest() == hashlib.sha256(site.read("large")).digest()


@PLACES
def test_head(site: Site, place: str) -> None:
    for name in ("small", "middle"):
        response = site.client.head(f"/{place}/{name}")
        assert response.status_code in (200, 405)
        assert response.content == b""

        if response.status_code == 200:
            assert response.headers["content-length"] == str(FILES[name])

    assert site.client.get(f"/{place}/small").content == site.read("small")


def test_unchanged(site: Site) -> None:
    """304 where the client has it already."""
    first = site.client.get("/static/middle")
    conditions = {"if-modified-since": first.headers["last-modified"]}

    if "etag" in first.headers:
        conditions["if-none-match"] = first.headers["etag"]

    for name, value in conditions.items():
        again = site.client.get("/static/middle", headers={name: value})
        assert (again.status_code, again.content) == (304, b"")

    old = {"if-modified-since": "Thu, 01 Jan 1970 00:00:01 GMT"}
    assert site.client.get("/static/middle", headers=old).status_code == 200


def test_missing(site: Site) -> None:
    assert site.client.get("/static/nothing").status_code == 404
    assert site.client.get("/static/../files_x").status_code == 404
    above = site.client.get("/static/%2e%2e/conftest.py").status_code
    assert above in (400, 404)


# Ranges.


@PLACES
@pytest.mark.parametrize(
    ("asked", "begin", "end"),
    [
        ("0-0", 0, 1),
        ("10-99", 10, 100),
        (f"{MIDDLE_BYTES - 1}-", MIDDLE_BYTES - 1, MIDDLE_BYTES),
        ("1000000-", 1_000_000, MIDDLE_BYTES),
        ("-7", MIDDLE_BYTES - 7, MIDDLE_BYTES),
        ("65535-131073", 65_535, 131_074),
        (f"5-{MIDDLE_BYTES * 2}", 5, MIDDLE_BYTES),
    ],
)
def test_range(site: Site, place: str, asked: str, begin: int, end: int) -> None:
    need(site, WITH_RANGES, "ranges")

    if (site.name, place) == ("quart", "static"):
        pytest.skip("quart's static route has no ranges")

    if (site.name, asked) == ("quart", "-7"):
        pytest.skip("quart itself fails at a range that counts from the end")

    response = site.client.get(f"/{place}/middle", headers={"range": f"bytes={asked}"})
    assert response.status_code == 206
    assert response.content == site.read("middle")[begin:end]
    assert response.headers["content-length"] == str(end - begin)
    assert (
        response.headers["content-range"] == f"bytes {begin}-{end - 1}/{MIDDLE_BYTES}"
    )


def test_head_of_a_range(site: Site) -> None:
    need(site, WITH_RANGES, "ranges")
    response = site.client.head("/file/middle", headers={"range": "bytes=10-19"})
    assert response.content == b""
    assert response.status_code == 206
    assert response.headers["content-length"] == "10"
    assert site.client.get("/file/small").content == site.read("small")


def test_range_that_is_not_there(site: Site) -> None:
    need(site, WITH_RANGES, "ranges")
    asked = {"range": f"bytes={MIDDLE_BYTES}-"}
    assert site.client.get("/file/middle", headers=asked).status_code == 416


def test_range_of_what_has_changed(site: Site) -> None:
    """If-Range: the part where it is still the same file, else the whole."""
    need(site, WITH_RANGES, "ranges")
    etag = site.client.get("/file/middle").headers["etag"]
    whole = site.read("middle")

    for condition, status, content in (
        (etag, 206, whole[10:20]),
        ('"another"', 200, whole),
    ):
        asked = {"range": "bytes=10-19", "if-range": condition}
        response = site.client.get("/file/middle", headers=asked)
        assert response.status_code == status
        assert response.content == content


def test_many_ranges(site: Site) -> None:
    """A part for each, of the type multipart/byteranges."""
    need(site, WITH_MANY_RANGES, "responses of several ranges")
    asked = {"range": "bytes=0-9,100000-199999,-5"}
    response = site.client.get("/file/middle", headers=asked)
    assert response.status_code == 206
    kind = response.headers["content-type"].encode()
    parts = parse_parts(kind, response.content)
    whole = site.read("middle")
    assert [part["content-range"] for part in parts] == [
        f"bytes {begin}-{end}/{MIDDLE_BYTES}"
        for begin, end in (
            (0, 9),
            (100_000, 199_999),
            (MIDDLE_BYTES - 5, MIDDLE_BYTES - 1),
        )
    ]
    assert whole[:10] in response.content
    assert whole[100_000:200_000] in response.content
    assert int(response.headers["content-length"]) == len(response.content)


def parse_parts(kind: bytes, body: bytes) -> list[email.message.Message]:
    """The parts' headers; text mode spoils bodies of bytes."""
    message = BytesParser().parsebytes(b"Content-Type: " + kind + b"\r\n\r\n" + body)
    parts = message.get_payload()
    assert isinstance(parts, list)
    return [part for part in parts if isinstance(part, email.message.Message)]


# Many, and those who leave.


def test_many_at_once(site: Site) -> None:
    expected = hashlib.sha256(site.read("middle")).hexdigest()

    async def download(client: httpx.AsyncClient) -> str:
        response = await client.get("/file/middle")
        return hashlib.sha256(response.content).hexdigest()

    async def main() -> list[str]:
        async with make_async_client(site.url, connections=DOWNLOADS) as client:
            return await asyncio.gather(*(download(client) for _ in range(DOWNLOADS)))

    assert asyncio.run(main()) == [expected] * DOWNLOADS


@PLACES
def test_clients_that_leave(site: Site, place: str) -> None:
    """Midway, again and again; the next one gets all of it."""
    for _ in range(5):
        with (
            make_client(site.url) as client,
            client.stream("GET", f"/{place}/large") as response,
        ):
            assert len(next(response.iter_raw()))

    assert site.client.get(f"/{place}/middle").content == site.read("middle")


def test_file_that_is_gone_when_it_was_sent(site: Site) -> None:
    """Starlette runs its background task once the file is handed over."""
    need(site, ("starlette",), "such task")

    for size in (1000, 20 * MEBIBYTE):
        content = os.urandom(size)
        path = site.folder / "once"
        path.write_bytes(content)
        assert site.client.get("/once/once").content == content
        assert site.client.get("/once/once").status_code == 500
        assert not path.exists()
