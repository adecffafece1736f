"""`curl` at the other end of `loop-pool serve`."""

from __future__ import annotations

import asyncio
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ..serve.support import Serve
from ..services import program
from ..support import HANG
from .authority import Authority, Identity

pytestmark = [
    pytest.mark.usefixtures("clean_process"),
    pytest.mark.skipif(find_spec("uvicorn") is None, reason="uvicorn is not there"),
]

ECHO = """
    async def app(scope, receive, send):
        body = b""
        while True:
            message = await receive()
            body += message["body"]
            if not message["more_body"]:
                break
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
"""
"""An application that sends back the body of a request."""
OPTIONS = ("--port", "0", "--loops", "2", "--lifespan", "off", "--no-access-log")
NOT_VERIFIED = 60
"""curl's exit status where the server's certificate is not accepted."""


class Https(Serve):
    """The application above over HTTPS, by rustls or OpenSSL as the test's contexts are."""

    def __init__(self, folder: Path, contexts: Any, identity: Identity, *options: object) -> None:
        certificate, key = identity
        given = ["--ssl-certfile", certificate, "--ssl-keyfile", key, *options]
        if contexts.__name__ == "ssl":
            # Ciphers are what rustls lets nobody choose.
            given += ["--ssl-ciphers", "ECDHE+AESGCM"]
        super().__init__(folder, *OPTIONS, *map(str, given), source=ECHO)

    def curl(
        self, authority: Authority, *options: object, host: str = "localhost", times: int = 1
    ) -> subprocess.CompletedProcess[bytes]:
        """Ask with curl, as often as it is said, over as few connections as it can."""
        url = f"https://{host}:{self.port}/"
        trust = ("--cacert", authority.certificate, "--resolve", f"{host}:{self.port}:127.0.0.1")
        how = ("--silent", "--show-error", "--fail", "--max-time", HANG)
        command = [program("curl"), *how, *trust, *options, *(url for _ in range(times))]
        return subprocess.run([*map(str, command)], capture_output=True, check=False)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_bodies_go_both_ways(
    tmp_path: Path, contexts: Any, authority: Authority, version: str
) -> None:
    body = tmp_path / "body"
    body.write_bytes(bytes(range(256)) * 4_000)
    only = ("--tls-max", version, f"--tlsv{version}")
    with Https(tmp_path, contexts, authority.good) as server:
        done = server.curl(authority, *only, "--data-binary", f"@{body}")
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == body.read_bytes()
        shown = ("--write-out", "%{num_connects} %{http_code}\n", "--data", "x")
        done = server.curl(authority, *only, *shown, times=3)
        assert done.stdout.split()[1:] == [b"200", b"x0", b"200", b"x0", b"200"], done
        server.stop()


def test_a_certificate_is_refused(tmp_path: Path, contexts: Any, authority: Authority) -> None:
    with Https(tmp_path, contexts, authority.good) as server:
        assert server.curl(authority, host="other.example").returncode == NOT_VERIFIED
        assert server.curl(authority, "--crlfile", authority.revoked_list).returncode == 0
        server.stop()
    for identity in (authority.expired, authority.self_signed):
        with Https(tmp_path, contexts, identity) as server:
            assert server.curl(authority).returncode == NOT_VERIFIED
            server.stop()
    with Https(tmp_path, contexts, authority.revoked) as server:
        assert server.curl(authority).returncode == 0
        assert server.curl(authority, "--crlfile", authority.revoked_list).returncode
        server.stop()


def test_clients_need_a_certificate(tmp_path: Path, contexts: Any, authority: Authority) -> None:
    # `ssl.CERT_REQUIRED`
    options = ("--ssl-ca-certs", authority.certificate, "--ssl-cert-reqs", "2")
    with Https(tmp_path, contexts, authority.good, *options) as server:

        def status(identity: Identity | None) -> int:
            files = () if identity is None else ("--cert", identity[0], "--key", identity[1])
            return server.curl(authority, *files).returncode

        assert status(authority.other_name) == 0
        assert status(None)
        assert status(authority.self_signed)
        assert status(authority.expired)
        assert status(authority.good) == 0
        server.stop()


def test_many_clients_at_once(tmp_path: Path, contexts: Any, authority: Authority) -> None:
    async def main() -> None:
        asked = (asyncio.to_thread(server.curl, authority, "--data", f"{n}") for n in range(12))
        done = await asyncio.gather(*asked)
        assert [each.stdout for each in done] == [b"%d" % number for number in range(12)], done

    with Https(tmp_path, contexts, authority.good) as server:
        asyncio.run(main())
        server.stop()
