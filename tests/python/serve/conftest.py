"""Certificates for the servers."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from ..services import program

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    """The files of a certificate for `localhost`, and of its key."""
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    command = [program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command, "-out", cert, "-keyout", key], check=True, capture_output=True)
    return cert, key


@pytest.fixture
def tls(certificate: tuple[str, str]) -> list[str]:
    """The options of a server that uses it."""
    return ["--ssl-certfile", certificate[0], "--ssl-keyfile", certificate[1]]
