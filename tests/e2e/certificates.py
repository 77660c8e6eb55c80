# SPDX-License-Identifier: Apache-2.0
"""Certificates for tests, made anew for each run."""

from __future__ import annotations

import ssl
from datetime import datetime
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from node import literal

PASSWORD = "swordfish"


class Authority:
    """One who signs certificates, and the folder in which they lie."""

    def __init__(self, folder: Path, ca: trustme.CA | None = None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._ca = ca or trustme.CA()
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.file)

    def issue(
        self,
        name: str,
        *hosts: str,
        folder: Path | None = None,
        is_rsa: bool = False,
        not_after: datetime | None = None,
        common_name: str | None = None,
        organization: str | None = None,
    ) -> Identity:
        """Write NAME.pem and NAME.key.pem."""
        issued = self._ca.issue_cert(
            *(hosts or ("localhost", "127.0.0.1")),
            key_type=trustme.KeyType.RSA if is_rsa else trustme.KeyType.ECDSA,
            not_after=not_after,
            common_name=common_name,
            organization_name=organization,
        )
        identity = Identity(folder or self.folder, name)
        identity.cert.write_bytes(b"".join(p.bytes() for p in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(identity.key)
        return identity

    def below(self) -> Authority:
        """Another authority, which this one has signed."""
        return Authority(self.folder / "below", self._ca.create_child_ca())

    def context(self, client: Identity | None = None) -> ssl.SSLContext:
        """A client that trusts this authority."""
        context = ssl.create_default_context(cafile=self.file)

        if client is not None:
            context.load_cert_chain(client.cert, client.key)

        return context


class Identity:
    """A certificate and its key, each in a file."""

    def __init__(self, folder: Path, name: str) -> None:
        self.cert = folder / f"{name}.pem"
        self.key = folder / f"{name}.key.pem"

    @property
    def pem(self) -> str:
        """The certificate as the file has it."""
        return self.cert.read_text()

    @property
    def der(self) -> bytes:
        """The owner's certificate."""
        return self.parsed.public_bytes(Encoding.DER)

    @property
    def parsed(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.cert.read_bytes())

    def encrypt_key(self) -> None:
        """Lock the key with PASSWORD."""
        key = load_pem_private_key(self.key.read_bytes(), None)
        self.key.write_bytes(
            key.private_bytes(
                Encoding.PEM,
                PrivateFormat.PKCS8,
                BestAvailableEncryption(PASSWORD.encode()),
            )
        )

    def options(self, more: str = "") -> str:
        """Text of a map for a server with this identity."""
        return (
            f"#{{ssl => true, certfile => {literal(str(self.cert))},"
            f" keyfile => {literal(str(self.key))}{', ' if more else ''}{more}}}"
        )
