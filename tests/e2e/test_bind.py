# SPDX-License-Identifier: Apache-2.0
"""Where a server listens, from outside: several addresses, IPv6, unix sockets."""

from __future__ import annotations

import socket
import stat
import subprocess
import threading
from ast import literal_eval
from pathlib import Path

import pytest

from e2e.observe import TESTS_DIR, Server, serving
from e2e.raw import Connection, request, wait_until
from node import Node, StartError, literal
from ports import free_port


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def bound(path: Path, more: str = "") -> str:
    """Text of a map for a server on a unix socket."""
    return f"#{{bind => {literal(f'unix:{path}')}{more}}}"


def listeners(server: Server) -> list[str]:
    """URLs of all addresses."""
    urls = node_text(server, "[[maps:get(url, L), 32] || L <- maps:get(listeners, I)]")
    return urls.split()


def node_text(server: Server, expression: str) -> str:
    return server.node.eval_text(f"I = hornbeam:info({server.name}), {expression}")


def refusal(node: Node, path: Path) -> StartError:
    """The error of a server that wants a path and does not get it."""
    with pytest.raises(StartError) as caught:
        node.start_server(
            "e2e.raw_apps.contract", bound(path), name="refused", app_dir=TESTS_DIR
        )

    return caught.value


def curl(*words: str | Path) -> str:
    done = subprocess.run(
        ["curl", "-sS", "--max-time", "10", *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_several_addresses(node: Node, tmp_path: Path) -> None:
    """Each serves, and two ports of the system's choice are two."""
    path = tmp_path / "s"
    options = f'#{{bind => ["127.0.0.1:0", "127.0.0.1:0", "unix:{path}"]}}'

    with serving(node, "contract", options) as server:
        first, second, unix = listeners(server)
        assert first != second
        assert unix == f"unix:{path}"
        assert server.url == first
        assert curl(f"{first}/hello") == curl(f"{second}/hello") == "hello"
        assert curl("--unix-socket", path, "http://shop/hello") == "hello"


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
def test_ipv6_beside_ipv4(node: Node) -> None:
    """An address of IPv6 takes nothing of IPv4, so one port can have both."""
    port = free_port()
    options = f'#{{bind => ["127.0.0.1:{port}", "[::]:{port}"]}}'

    with serving(node, "contract", options) as server:
        assert listeners(server) == [
            f"http://127.0.0.1:{port}",
            f"http://[::]:{port}",
        ]
        for host, plain in (("127.0.0.1", "127.0.0.1"), ("[::1]", "::1")):
            scope = literal_eval(curl(f"http://{host}:{port}/scope"))
            assert scope["server"] == (plain, port)
            assert scope["client"][0] == plain


def test_unix_socket_with_curl(node: Node, tmp_path: Path) -> None:
    path = tmp_path / "s"

    with serving(node, "contract", bound(path)):
        scope = literal_eval(curl("--unix-socket", path, "http://shop.example/scope"))
        assert (scope["client"], scope["server"]) == (None, (str(path), None))
        assert [b"host", b"shop.example"] in map(list, scope["headers"])

    assert not path.exists()


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_mode(node: Node, tmp_path: Path, mode: int) -> None:
    path = tmp_path / "s"

    with serving(node, "contract", bound(path, f", socket_mode => 8#{mode:o}")):
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert curl("--unix-socket", path, "http://shop/hello") == "hello"


def test_mode_of_the_umask(node: Node, tmp_path: Path) -> None:
    """Without the option it is as any other program's would be."""
    path, other = tmp_path / "s", tmp_path / "other"

    with (
        serving(node, "contract", bound(path)),
        socket.socket(socket.AF_UNIX) as compared,
    ):
        compared.bind(str(other))
        assert path.stat().st_mode == other.stat().st_mode


def test_stale_file_of_a_killed_server(fresh_node: Node, tmp_path: Path) -> None:
    path = tmp_path / "s"

    with serving(fresh_node, "contract", bound(path)):
        fresh_node.kill()

    assert path.exists()

    with Node() as successor, serving(successor, "contract", bound(path)):
        assert curl("--unix-socket", path, "http://shop/hello") == "hello"

    assert not path.exists()


def test_successor_keeps_its_socket(node: Node, tmp_path: Path) -> None:
    """One that begins while the other lets its requests finish has the path."""
    path = tmp_path / "s"

    with (
        serving(node, "contract", bound(path)) as first,
        Connection(first.url) as client,
    ):
        client.send(request("POST", "/echo", [("Content-Length", "2")], b"a"))
        wait_until(lambda: first.in_flight() == 1, "the request is there")
        stop = f"hornbeam:stop({first.name})"
        stopping = threading.Thread(target=node.eval, args=(stop,))
        stopping.start()

        try:
            wait_until(lambda: not path.exists(), "the first has closed its socket")

            with serving(node, "contract", bound(path)):
                client.send(b"b")
                assert client.read_response("POST").body == b"ab"
                stopping.join()
                assert curl("--unix-socket", path, "http://shop/hello") == "hello"
        finally:
            client.close()
            stopping.join()


def test_foreign_file_is_left_alone(node: Node, tmp_path: Path) -> None:
    """Neither at the start nor at the end, whatever it is."""
    path = tmp_path / "s"
    path.write_text("precious")

    assert "file already exists" in str(refusal(node, path))

    assert path.read_text() == "precious"
    path.unlink()
    path.mkdir()

    assert "file already exists" in str(refusal(node, path))

    path.rmdir()

    with serving(node, "contract", bound(path)):
        path.unlink()
        path.write_text("precious")

    assert path.read_text() == "precious"


def test_socket_in_use(node: Node, tmp_path: Path) -> None:
    """It stays as it is, and its owner in charge."""
    path = tmp_path / "s"

    with serving(node, "contract", bound(path)):
        inode = path.stat().st_ino

        assert refusal(node, path).reason.startswith("{address_in_use,")
        assert path.stat().st_ino == inode
        assert curl("--unix-socket", path, "http://shop/hello") == "hello"


def test_path_that_cannot_be(node: Node, tmp_path: Path) -> None:
    longest = tmp_path / "x"
    longest = Path(str(longest) + "x" * (107 - len(str(longest))))

    with serving(node, "contract", bound(longest)):
        assert curl("--unix-socket", longest, "http://shop/hello") == "hello"

    assert "a socket path of at most 107 bytes" in str(
        refusal(node, Path(f"{longest}x"))
    )

    assert "no such file or directory" in str(refusal(node, tmp_path / "nowhere" / "s"))

    assert "an absolute socket path" in str(refusal(node, Path("s")))


def test_restart_on_the_same_port(node: Node) -> None:
    """Also while connections of the former server linger in the system."""
    address = f"127.0.0.1:{free_port()}"
    options = f'#{{bind => "{address}"}}'

    with serving(node, "contract", options) as server:
        with Connection(server.url) as client:
            assert client.get("/hello").text == "hello"

    with serving(node, "contract", options) as server:
        assert server.url == f"http://{address}"
        assert curl(f"{server.url}/hello") == "hello"
