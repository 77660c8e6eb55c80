# SPDX-License-Identifier: Apache-2.0
"""Certificates: what is wrong with them, whose they are, and their renewal."""

from __future__ import annotations

import os
import re
import ssl
from ast import literal_eval
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from e2e.certificates import PASSWORD, Authority, Identity
from e2e.observe import Server, python_processes, serving
from e2e.raw import Connection, Cut, request, wait_until
from node import Node, StartError, literal


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("files"))


@pytest.fixture
def identity(authority: Authority, tmp_path: Path) -> Identity:
    return authority.issue("server", folder=tmp_path)


def scope_of(url: str, context: ssl.SSLContext, name: str = "localhost") -> Any:
    with Connection(url, tls=context, server_name=name) as client:
        return literal_eval(client.get("/scope").text)


def shown_certificate(url: str, name: str | None = "localhost") -> bytes:
    """What the server shows to whoever asks for a name, as DER."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    with Connection(url, tls=context, server_name=name) as client:
        assert isinstance(client.socket, ssl.SSLSocket)
        shown = client.socket.getpeercert(binary_form=True)

    assert shown is not None
    return shown


# What is wrong at the start.


def garbage(kind: str) -> bytes:
    return b"-----BEGIN %b-----\nAAEC\n-----END %b-----\n" % (2 * (kind.encode(),))


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


FAULTS: dict[str, tuple[Callable[[Identity], object], str, str]] = {
    "no certificate file": (
        lambda own: own.cert.unlink(),
        "certfile",
        "no such file or directory",
    ),
    "no key file": (
        lambda own: own.key.unlink(),
        "keyfile",
        "no such file or directory",
    ),
    "a folder": (
        lambda own: make_directory(own.cert),
        "certfile",
        "illegal operation on a directory",
    ),
    "empty": (
        lambda own: own.cert.write_bytes(b""),
        "certfile",
        "it holds no certificate in PEM form",
    ),
    "not pem": (
        lambda own: own.cert.write_bytes(own.der),
        "certfile",
        "it holds no certificate in PEM form",
    ),
    "swapped": (
        lambda own: own.cert.write_bytes(own.key.read_bytes()),
        "certfile",
        "it holds no certificate in PEM form",
    ),
    "garbage in a certificate": (
        lambda own: own.cert.write_bytes(garbage("CERTIFICATE")),
        "certfile",
        "it holds a certificate that cannot be read",
    ),
    "garbage below a certificate": (
        lambda own: own.cert.write_bytes(
            own.cert.read_bytes() + garbage("CERTIFICATE")
        ),
        "certfile",
        "it holds a certificate that cannot be read",
    ),
    "cut certificate": (
        lambda own: own.cert.write_text(own.pem[:200]),
        "certfile",
        "it holds a certificate that cannot be read",
    ),
    "no base64": (
        lambda own: own.cert.write_text(own.pem.replace("MII", "!!!")),
        "certfile",
        "it holds a certificate that cannot be read",
    ),
    "garbage in a key": (
        lambda own: own.key.write_bytes(garbage("PRIVATE KEY")),
        "keyfile",
        "it holds a private key that cannot be read",
    ),
    "certificate as key": (
        lambda own: own.key.write_text(own.pem),
        "keyfile",
        "it holds no private key in PEM form",
    ),
    "no password": (
        lambda own: own.encrypt_key(),
        "keyfile",
        "the private key is encrypted, and the option password is not set",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(node: Node, identity: Identity, fault: str) -> None:
    """Each is an error that names option, file and reason, and nothing runs."""
    break_it, option, message = FAULTS[fault]
    break_it(identity)
    check_fault(node, identity, option, message)


def test_key_of_another_certificate(
    node: Node, authority: Authority, identity: Identity
) -> None:
    for is_rsa in (False, True):
        other = authority.issue(f"other-{is_rsa}", is_rsa=is_rsa)
        identity.key.write_bytes(other.key.read_bytes())
        wrong = "the private key is not that of the certificate"
        check_fault(node, identity, "keyfile", wrong)


def test_wrong_password(node: Node, identity: Identity) -> None:
    identity.encrypt_key()
    wrong = "the password does not decrypt the private key"
    check_fault(node, identity, "keyfile", wrong, 'password => "guess"')


@pytest.mark.parametrize("text", [None, "", "no PEM"])
def test_bad_authorities(node: Node, identity: Identity, text: str | None) -> None:
    path = identity.cert.with_name("authorities.pem")
    more = f"verify => verify_peer, cacertfile => {literal(str(path))}"
    wrong = "no such file or directory"

    if text is not None:
        path.write_text(text)
        wrong = "it holds no certificate in PEM form"

    check_fault(node, identity, "cacertfile", wrong, more)


def test_bad_file_of_a_host(node: Node, identity: Identity) -> None:
    more = 'sni => [{"a.example", #{certfile => "/nowhere.pem"}}]'

    with pytest.raises(StartError) as caught:
        node.start_server("app:app", identity.options(more), name="faulty")

    assert str(caught.value) == (
        "setting up TLS failed: certfile of a.example /nowhere.pem:"
        " no such file or directory"
    )


def check_fault(
    node: Node, identity: Identity, option: str, message: str, more: str = ""
) -> None:
    before = set(python_processes(node))

    with pytest.raises(StartError) as caught:
        node.start_server("app:app", identity.options(more), name="faulty")

    assert caught.value.reason.startswith("{tls_failed,")
    assert re.fullmatch(
        rf"setting up TLS failed: {option} .*\.pem: {re.escape(message)}",
        str(caught.value),
    ), str(caught.value)
    assert set(python_processes(node)) <= before
    assert node.eval("hornbeam:info(faulty)").startswith("{error,{not_started,")


# What is well.


@pytest.mark.parametrize("is_rsa", [False, True])
def test_key_in_the_certificate_file(
    node: Node, authority: Authority, tmp_path: Path, is_rsa: bool
) -> None:
    own = authority.issue("both", folder=tmp_path, is_rsa=is_rsa)
    own.cert.write_bytes(own.key.read_bytes() + own.cert.read_bytes())
    options = f"#{{ssl => true, certfile => {literal(str(own.cert))}}}"

    with serving(node, "contract", options) as server:
        assert shown_certificate(server.url) == own.der


def test_encrypted_key_and_masks(
    node: Node, authority: Authority, identity: Identity
) -> None:
    """Neither info nor the state of processes tells the password."""
    identity.encrypt_key()
    host = f"#{{certfile => {literal(str(identity.cert))},"
    host += f" keyfile => {literal(str(identity.key))}, password => <<{PASSWORD!r}>>}}"
    more = f'password => "{PASSWORD}", sni => [{{"a.example", {host}}}]'.replace(
        "'", '"'
    )

    with serving(node, "contract", identity.options(more)) as server:
        assert scope_of(server.url, authority.context())["scheme"] == "https"
        info = node.eval(f"hornbeam:info({server.name})")
        assert PASSWORD not in info
        assert info.count('password => <<"***">>') == 2
        assert server.url.startswith("https://")


def test_expired_certificate_is_warned_of(
    node: Node, authority: Authority, tmp_path: Path
) -> None:
    """It is the owner's business, who may have reasons."""
    past = datetime(2001, 1, 1, tzinfo=timezone.utc)
    own = authority.issue("old", folder=tmp_path, not_after=past)
    before = len(node.logged())

    with serving(node, "contract", own.options()) as server:
        assert shown_certificate(server.url) == own.der

    log = node.logged()[before:]
    assert re.search(r"what: certificate_doubtful\s+why: expired", log)


def test_intermediate_authorities_are_shown(
    node: Node, authority: Authority, tmp_path: Path
) -> None:
    """All of `certfile` goes to the client."""
    own = authority.below().issue("leaf", folder=tmp_path)
    assert own.pem.count("BEGIN CERTIFICATE") == 2

    with serving(node, "contract", own.options()) as server:
        assert scope_of(server.url, authority.context())["scheme"] == "https"


# By name.


@pytest.fixture(scope="module")
def named(node: Node, authority: Authority) -> Iterator[Server]:
    hosts = {
        "a.example": authority.issue("a", "a.example"),
        "*.example": authority.issue("wild", "*.example"),
    }
    entries = ", ".join(
        f'{{"{host}", #{{certfile => {literal(str(own.cert))},'
        f" keyfile => {literal(str(own.key))}}}}}"
        for host, own in hosts.items()
    )
    default = authority.issue("default")

    with serving(node, "contract", default.options(f"sni => [{entries}]")) as running:
        yield running


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a.example", "a"),
        ("A.EXAMPLE", "a"),
        ("b.example", "wild"),
        ("b.c.example", "default"),
        ("example", "default"),
        ("a.example.org", "default"),
        ("localhost", "default"),
        ("127.0.0.1", "default"),
        (None, "default"),
    ],
)
def test_names(
    named: Server, authority: Authority, name: str | None, file: str
) -> None:
    expected = Identity(authority.folder, file)
    assert shown_certificate(named.url, name) == expected.der

    # Also in TLS 1.2, and the application sees the one that was shown.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    with Connection(named.url, tls=context, server_name=name) as client:
        scope = literal_eval(client.get("/scope").text)

    assert scope["extensions"]["tls"]["server_cert"] == expected.pem


# Clients with certificates.


@pytest.fixture(scope="module")
def mutual(node: Node, authority: Authority) -> Iterator[Server]:
    more = f"verify => verify_peer, cacertfile => {literal(str(authority.file))}"
    own = authority.issue("mutual")

    with serving(node, "contract", own.options(more)) as running:
        yield running


VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("common_name", "organization"),
    [
        ("Joe", "Shop"),
        ('#1, "Joe" <joe+x>;\\', " leading and trailing "),
        ("Zoë 日本", "Größe"),
        (None, None),
    ],
)
def test_client_is_known(
    mutual: Server,
    authority: Authority,
    version: ssl.TLSVersion,
    common_name: str | None,
    organization: str | None,
) -> None:
    joe = authority.issue(
        "joe", "joe@example", common_name=common_name, organization=organization
    )
    context = authority.context(joe)
    context.minimum_version = context.maximum_version = version
    tls = scope_of(mutual.url, context)["extensions"]["tls"]
    assert tls["client_cert_chain"] == [joe.pem]
    assert tls["client_cert_name"] == joe.parsed.subject.rfc4514_string()
    assert tls["client_cert_error"] is None


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["none", "stranger's", "expired"])
def test_client_is_refused(
    mutual: Server,
    authority: Authority,
    tmp_path: Path,
    version: ssl.TLSVersion,
    kind: str,
) -> None:
    """With TLS 1.3 it learns that after it has done its part."""
    past = datetime(2001, 1, 1, tzinfo=timezone.utc)
    client = None

    if kind == "stranger's":
        client = Authority(tmp_path).issue("stranger")
    elif kind == "expired":
        client = authority.issue("late", not_after=past)

    context = authority.context(client)
    context.minimum_version = context.maximum_version = version

    with pytest.raises((ssl.SSLError, Cut), match="(?i)alert|True"):
        with Connection(mutual.url, tls=context) as connection:
            connection.send(request(target="/hello"))
            connection.read_response()


# Renewal.


def test_renewal(node: Node, authority: Authority, identity: Identity) -> None:
    """Files written over the old ones: new handshakes see them, old ones live on."""
    old = identity.der

    with (
        serving(node, "contract", identity.options()) as server,
        Connection(server.url, tls=authority.context()) as standing,
    ):
        assert standing.get("/hello").text == "hello"
        new = authority.issue("server", folder=identity.cert.parent).der
        assert new != old
        wait_until(lambda: shown_certificate(server.url) == new, "it is renewed")
        assert standing.get("/hello").text == "hello"
        tls = scope_of(server.url, authority.context())["extensions"]["tls"]
        assert tls["server_cert"] == identity.pem


def test_renewal_by_links(node: Node, authority: Authority, tmp_path: Path) -> None:
    """As certbot and Kubernetes do it; of names as of the default."""
    for number in ("1", "2"):
        authority.issue("x", "a.example", folder=folder(tmp_path / number))

    live = tmp_path / "live"
    live.symlink_to("1")
    own = Identity(live, "x")
    entry = f"#{{certfile => {literal(str(own.cert))},"
    entry += f" keyfile => {literal(str(own.key))}}}"
    default = authority.issue("fixed", folder=tmp_path)

    with serving(
        node, "contract", default.options(f'sni => [{{"a.example", {entry}}}]')
    ) as server:
        assert shown_certificate(server.url, "a.example") == own.der
        (tmp_path / "next").symlink_to("2")
        os.replace(tmp_path / "next", live)
        new = own.der
        wait_until(
            lambda: shown_certificate(server.url, "a.example") == new, "it is renewed"
        )
        assert shown_certificate(server.url) == default.der


def test_failed_renewal(node: Node, authority: Authority, identity: Identity) -> None:
    """What is not in order is logged, once, and the old one stays; then it is well."""
    old, before = identity.der, len(node.logged())

    with serving(node, "contract", identity.options()) as server:
        identity.cert.write_text("not a certificate")
        node.wait_for_output(r"server\.pem: it holds no[^=]*certificates_not_reloaded")
        assert shown_certificate(server.url) == old
        identity.cert.unlink()
        node.wait_for_output(r"server\.pem: no such file[^=]*certificates_not_reloaded")
        assert shown_certificate(server.url) == old
        new = authority.issue("server", folder=identity.cert.parent).der
        wait_until(lambda: shown_certificate(server.url) == new, "it is renewed")

    assert node.logged()[before:].count("certificates_not_reloaded") == 2


def test_authorities_are_renewed(
    node: Node, authority: Authority, identity: Identity, tmp_path: Path
) -> None:
    """Whom a client is known by follows its file as well."""
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(authority.file.read_bytes())
    other = Authority(tmp_path / "other")
    more = f"verify => verify_peer, cacertfile => {literal(str(trusted))}"
    newcomer = authority.context(other.issue("newcomer"))

    with serving(node, "contract", identity.options(more)) as server:
        assert not gets_in(server, newcomer)
        trusted.write_bytes(other.file.read_bytes())
        wait_until(lambda: gets_in(server, newcomer), "the newcomer gets in")
        assert not gets_in(server, authority.context(authority.issue("former")))


def test_certificates_outlive_their_reader(
    node: Node, authority: Authority, identity: Identity
) -> None:
    """The process that follows the files may crash: they are in force, and followed."""
    with serving(node, "contract", identity.options()) as server:
        old = shown_certificate(server.url)
        node.eval(
            "[exit(P, kill) || P <- processes(),"
            " {dictionary, D} <- [process_info(P, dictionary)],"
            " {_, {hornbeam_tls_store, init, 1}} <-"
            "     [lists:keyfind('$initial_call', 1, D)]]"
        )
        assert shown_certificate(server.url) == old
        new = authority.issue("server", folder=identity.cert.parent).der
        wait_until(lambda: shown_certificate(server.url) == new, "it is renewed")


def gets_in(server: Server, context: ssl.SSLContext) -> bool:
    try:
        with Connection(server.url, tls=context) as client:
            return client.get("/hello").status == 200
    except (ssl.SSLError, Cut):
        return False


def folder(path: Path) -> Path:
    path.mkdir()
    return path


# Plain HTTP is sent over.


@pytest.fixture(scope="module")
def redirecting(node: Node, authority: Authority) -> Iterator[tuple[str, int]]:
    """URL of the plain listener, and port of the one with TLS."""
    # A worker that gets no time to run is no matter of the log here.
    options = authority.issue("redirecting").options(
        'ssl_redirect => "127.0.0.1:0", heartbeat => 60000, stall_timeout => infinity'
    )

    with serving(node, "contract", options) as server:
        listeners = f"maps:get(listeners, hornbeam:info({server.name}))"
        plain = node.eval_text(f"maps:get(url, lists:nth(2, {listeners}))")
        port = urlsplit(server.url).port
        assert plain.startswith("http://") and port is not None
        yield plain, port


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
def test_redirect(redirecting: tuple[str, int], method: str) -> None:
    """To the same place, whatever the method; a body is not wanted."""
    plain, port = redirecting

    with Connection(plain) as client:
        body = b"x" * 100_000 if method == "POST" else None
        host = ("Host", "shop.example:8080")
        answer = client.exchange(method, "/a%20b/?x=%0d&y=1", [host], body)
        assert answer.status == 308
        location = f"https://shop.example:{port}/a%20b/?x=%0d&y=1"
        assert answer.one("location") == location.encode()
        client.read_eof()


@pytest.mark.parametrize(
    ("host", "target", "location"),
    [
        ("[::1]:80", "/", "[::1]"),
        ("UPPER.example", "/", "upper.example"),
        ("a.example", "//evil.example/", None),
        ("a.example", '/\xe9<">', "/%E9%3C%22%3E"),
        ("a.example", "/?", "/"),
    ],
)
def test_redirect_keeps_what_can_be_kept(
    redirecting: tuple[str, int], host: str, target: str, location: str | None
) -> None:
    plain, port = redirecting

    with Connection(plain) as client:
        answer = client.get(target, ("Host", host))

    sent = answer.one("location")
    assert sent is not None and answer.status == 308

    if location is None:
        assert sent == f"https://a.example:{port}{target}".encode()
    elif location.startswith("/"):
        assert sent == f"https://a.example:{port}{location}".encode()
    else:
        assert sent == f"https://{location}:{port}/".encode()


@pytest.mark.parametrize(
    "host",
    ["", "a b", "a/b", "a@b", "a\tb", "a\x01b", "a:b", "a?b", "a#b", "a%0d%0ab", "é"],
)
def test_redirect_repeats_no_nonsense(redirecting: tuple[str, int], host: str) -> None:
    with Connection(redirecting[0]) as client:
        client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1"))
        answer = client.read_response()

    assert answer.status == 400
    assert answer.one("location") is None


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"\x16\x03\x01\x00\x04\x01\x00\x00\x00\r\n\r\n",
    ],
)
def test_redirect_refuses_what_is_no_request(
    node: Node, redirecting: tuple[str, int], head: bytes
) -> None:
    before = len(node.logged())

    with Connection(redirecting[0]) as client:
        client.send(head)
        answer = client.read_response()

    assert answer.status in (400, 505)
    assert answer.one("location") is None
    assert "REPORT" not in node.logged()[before:]


def test_redirect_to_another_port(
    node: Node, authority: Authority, tmp_path: Path
) -> None:
    options = authority.issue("mapped").options(
        f'bind => "unix:{tmp_path}/s", ssl_redirect => {{["127.0.0.1:0"], 443}}'
    )

    with serving(node, "contract", options) as server:
        listeners = f"maps:get(listeners, hornbeam:info({server.name}))"
        plain = node.eval_text(f"maps:get(url, lists:last({listeners}))")

        with Connection(plain) as client:
            answer = client.get("/x", ("Host", "shop.example"))

    assert answer.one("location") == b"https://shop.example/x"
