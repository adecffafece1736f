"""Certificates for the servers, and what speaks HTTP."""

from __future__ import annotations

import functools
import ssl
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from loop_pool.tls import SSLContext

from .. import support
from ..services import program
from .kinds import KINDS, PROCESSES, is_there
from .server import Server
from .websocket import Messages

if TYPE_CHECKING:
    from collections.abc import Callable
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


@pytest.fixture(params=KINDS)
def http(request: pytest.FixtureRequest) -> str:
    """What speaks HTTP."""
    if not is_there(request.param):
        pytest.skip(f"{request.param} is not there")
    return str(request.param)


@pytest.fixture(params=PROCESSES)
def each_http(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What speaks HTTP in the servers that are started, where their command does not say it."""
    if not is_there(request.param):
        pytest.skip(f"{request.param} is not there")
    monkeypatch.setenv("UVICORN_HTTP", request.param)
    return str(request.param)


@pytest.fixture
def served(http: str, clean_process: None) -> Callable[..., Server]:
    """Makes a server of an application, with options, for each kind of HTTP."""
    return functools.partial(Server, http=http)


@pytest.fixture
def sending(served: Callable[..., Server], http: str) -> Callable[..., Server]:
    """As `served`, for each kind that sends files."""
    if http != "native":
        pytest.skip("it sends no files")
    return served


@pytest.fixture(params=["plain", "TLS"])
def transport(request: pytest.FixtureRequest) -> tuple[dict[str, Any], ssl.SSLContext | None]:
    """The options of a server, and what its clients trust."""
    if request.param == "plain":
        return {}, None
    path = str(support.certificate("keycert.pem"))
    context = SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    if not context.native:
        pytest.skip("this build has no TLS of its own")
    return {"ssl_certfile": path}, ssl.create_default_context(cafile=path)


@pytest.fixture
def messages() -> Messages:
    """Accepts a WebSocket, keeps what it receives, and sends messages back."""
    return Messages()
