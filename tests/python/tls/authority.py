"""Certificates of an authority of the tests' own, good and bad ones, by the `openssl` program."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from ..services import program

CONFIGURATION = """
[req]
distinguished_name = name
x509_extensions = authority
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[ca]
default_ca = own
[own]
new_certs_dir = {folder}
database = {folder}/index
rand_serial = yes
crlnumber = {folder}/crlnumber
certificate = {folder}/ca.pem
private_key = {folder}/ca.key
default_md = sha256
default_days = 2
default_crl_days = 2
policy = any
copy_extensions = copy
unique_subject = no
x509_extensions = leaf
crl_extensions = list
[any]
commonName = supplied
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[list]
authorityKeyIdentifier = keyid
"""

EXPIRED = ("-startdate", "20200101000000Z", "-enddate", "20200102000000Z")


class Identity(NamedTuple):
    """The files of a certificate and of its key."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates (ECDSA, P-256) in a folder, which only its own program uses."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._program = program("openssl")
        self._configuration = folder / "configuration"
        self._configuration.write_text(CONFIGURATION.format(folder=folder))
        (folder / "index").touch()
        (folder / "crlnumber").write_text("01\n")
        self.certificate = folder / "ca.pem"
        """What those have to trust who are to accept what it signs."""
        self._make_key("ca", "tests", "-x509", "-days", "2", "-out", str(self.certificate))
        self.good = self._sign("good", "localhost")
        self.other_name = self._sign("other_name", "other.example")
        self.expired = self._sign("expired", "localhost", *EXPIRED)
        self.revoked = self._sign("revoked", "localhost")
        self._call("ca", "-revoke", str(self.revoked.certificate))
        self.revoked_list = folder / "list.pem"
        """A list of revoked certificates that names `revoked`."""
        self._call("ca", "-gencrl", "-out", str(self.revoked_list))
        self.self_signed = Identity(folder / "alone.pem", folder / "alone.key")
        """Of no authority."""
        self._make_key("alone", "localhost", "-x509", "-out", str(self.self_signed.certificate))

    def server_context(self, module: Any, identity: Identity | None = None) -> ssl.SSLContext:
        """A server's context of `ssl` or `loop_pool.tls`; its certificate is `good` by default."""
        context: ssl.SSLContext = module.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*(identity or self.good))
        return context

    def client_context(self, module: Any, *, verifies: bool = True) -> ssl.SSLContext:
        """A client's; one that verifies nothing is made by rustls in `loop_pool.tls`."""
        context: ssl.SSLContext = module.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if verifies:
            context.load_verify_locations(self.certificate)
        else:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    def _sign(self, name: str, host: str, *options: str) -> Identity:
        request, certificate = self._folder / f"{name}.csr", self._folder / f"{name}.pem"
        names = f"subjectAltName=DNS:{host}" + (",IP:127.0.0.1" if host == "localhost" else "")
        self._make_key(name, host, "-addext", names, "-out", str(request))
        files = ("-in", str(request), "-out", str(certificate))
        self._call("ca", "-batch", "-notext", *files, *options)
        return Identity(certificate, self._folder / f"{name}.key")

    def _make_key(self, name: str, subject: str, *options: str) -> None:
        key = str(self._folder / f"{name}.key")
        kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key)
        self._call("req", "-new", *kind, "-subj", f"/CN={subject}", *options)

    def _call(self, command: str, *options: str) -> None:
        where = ("-config", str(self._configuration))
        done = subprocess.run(
            [self._program, command, *where, *options], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
