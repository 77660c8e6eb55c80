# SPDX-License-Identifier: Apache-2.0
"""What encoding and decoding cost: the C codec, its Python twin, erlang-py, ErlPort.

    python bench/codec.py

Prints microseconds for each operation, the best of several runs. The Python needs the
packages of requirements/test.txt; what is not there is left out.
"""

from __future__ import annotations

import sys
import timeit
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "python"))

from hornbeam._terms import Atom

SECONDS_PER_RUN = 0.1
RUNS = 5

HEADERS = [
    (b"host", b"127.0.0.1:8000"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101"),
    (b"accept", b"text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"),
    (b"accept-encoding", b"gzip, deflate, br"),
    (b"accept-language", b"en-GB,en;q=0.9"),
    (b"cookie", b"session=0123456789abcdef; theme=dark"),
    (b"cache-control", b"no-cache"),
    (b"x-request-id", b"f2e9c0a1b7d84e12"),
]
SCOPE: tuple[Any, ...] = (
    b"GET",
    b"http",
    b"1.1",
    b"/items/3",
    b"q=1",
    HEADERS,
    (b"127.0.0.1", 51234),
    (b"127.0.0.1", 8000),
    {},
)
REQUEST = (Atom("request"), 17, SCOPE, b"", False)
RESPONSE = (
    Atom("response"),
    17,
    200,
    [(b"content-type", b"application/json"), (b"content-length", b"27")],
    b'{"hello":"world","count":1}',
)
PART = (Atom("data"), 17, bytes(65536))
VALUE = {
    "user": {
        "id": 12345,
        "name": "Zoë",
        "roles": ["admin", "editor"],
        "token": b"\xff",
    },
    "items": [{"sku": f"A-{number}", "price": number * 1.25} for number in range(20)],
    "seen": None,
}

Operations = dict[str, Callable[[], object]]


def our_operations(module_name: str) -> Operations:
    codec = import_module(module_name)
    packet = codec.pack_batch([codec.encode_message(REQUEST)])[4:]
    batch = codec.pack_batch([codec.encode_message(REQUEST)] * 16)[4:]
    encoded = codec.encode_message(RESPONSE)
    value = codec.encode(VALUE)
    return {
        "decode a request": lambda: codec.decode_packet(packet),
        "decode a batch of 16": lambda: codec.decode_packet(batch),
        "encode a response": lambda: codec.encode_message(RESPONSE),
        "encode 64 KiB of body": lambda: codec.encode_message(PART),
        "pack a batch of 16": lambda: codec.pack_batch([encoded] * 16),
        "encode a value": lambda: codec.encode(VALUE),
        "decode a value": lambda: codec.decode(value),
    }


def erlang_py_operations(_: str) -> Operations:
    erlang = import_module("erlang")

    def term(value: Any) -> Any:
        match value:
            case Atom(name):
                return erlang.OtpErlangAtom(name)
            case bytes():
                return erlang.OtpErlangBinary(value)
            case list():
                return [term(part) for part in value]
            case tuple():
                return tuple(term(part) for part in value)
            case _:
                return value

    request, response, part = [term(REQUEST)], term(RESPONSE), term(PART)
    packet = erlang.term_to_binary(request)
    batch = erlang.term_to_binary(request * 16)
    return {
        "decode a request": lambda: erlang.binary_to_term(packet),
        "decode a batch of 16": lambda: erlang.binary_to_term(batch),
        "encode a response": lambda: erlang.term_to_binary(response),
        "encode 64 KiB of body": lambda: erlang.term_to_binary(part),
    }


def erlport_operations(_: str) -> Operations:
    erlterms = import_module("emqx.erlport.erlterms")

    def term(value: Any) -> Any:
        match value:
            case Atom(name):
                return erlterms.Atom(name.encode())
            case list():
                return [term(part) for part in value]
            case tuple():
                return tuple(term(part) for part in value)
            case _:
                return value

    request, response, part = [term(REQUEST)], term(RESPONSE), term(PART)
    packet = erlterms.encode(request)
    batch = erlterms.encode(request * 16)
    return {
        "decode a request": lambda: erlterms.decode(packet),
        "decode a batch of 16": lambda: erlterms.decode(batch),
        "encode a response": lambda: erlterms.encode(response),
        "encode 64 KiB of body": lambda: erlterms.encode(part),
    }


CANDIDATES: dict[str, tuple[Callable[[str], Operations], str]] = {
    "C": (our_operations, "hornbeam._etf_c"),
    "Python": (our_operations, "hornbeam._etf_python"),
    "erlang-py": (erlang_py_operations, "erlang"),
    "ErlPort": (erlport_operations, "emqx.erlport"),
}


def measure_us(operation: Callable[[], object]) -> float:
    timer = timeit.Timer(operation)
    number, seconds = timer.autorange()
    number = max(1, int(number * SECONDS_PER_RUN / seconds))
    return min(timer.repeat(RUNS, number)) / number * 1e6


def main() -> None:
    results: dict[str, dict[str, float]] = {}

    for name, (make_operations, module_name) in CANDIDATES.items():
        try:
            operations = make_operations(module_name)
        except ImportError as error:
            print(f"without {name}: {error}", file=sys.stderr)
            continue

        results[name] = {what: measure_us(do) for what, do in operations.items()}

    rows = list(dict.fromkeys(row for columns in results.values() for row in columns))
    print(f"{'microseconds':24}", *(f"{name:>10}" for name in results))

    for row in rows:
        figures = (columns.get(row) for columns in results.values())
        texts = (f"{'-' if us is None else f'{us:.2f}':>10}" for us in figures)
        print(f"{row:24}", *texts)


if __name__ == "__main__":
    main()
