"""`loop-pool serve` ends: what libraries look for at uvicorn, signals, listeners, TLS."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import ssl
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest
import test

from ..support import HANG, Threads, certificate
from .kinds import on_each_kind
from .support import PLAIN, Client, Serve, get

pytestmark = [
    pytest.mark.usefixtures("clean_process"),
    pytest.mark.skipif(find_spec("uvicorn") is None, reason="uvicorn is not there"),
]


def with_path(path: str, body: str) -> str:
    """The plain application with one more path; `body` is what it does there."""
    indented = "\n".join(f"            {line}" for line in body.strip().splitlines())
    return PLAIN.replace(
        'elif scope["path"] == "/state":',
        f'elif scope["path"] == "{path}":\n{indented}\n        elif scope["path"] == "/state":',
    )


# What looks for uvicorn's server

STREAM = """
import signal
await send({"type": "http.response.start", "status": 200, "headers": []})
while not signal.getsignal(signal.SIGTERM).__self__.should_exit:
    await send({"type": "http.response.body", "body": b"on", "more_body": True})
    await asyncio.sleep(0.01)
await send({"type": "http.response.body", "body": b"end"})
"""
"""Events without an end, which ends them by the server that handles the signal."""

HOOK = """
    from uvicorn import Server
    original = Server.handle_exit
    def handle_exit(self, sig, frame):
        say("told of", sig)
        original(self, sig, frame)
    Server.handle_exit = handle_exit
"""


@on_each_kind
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_event_streams_see_the_end_where_they_look_for_it(
    tmp_path: Path, number: signal.Signals
) -> None:
    source = with_path("/stream", STREAM) + HOOK
    options = ["--port", "0", "--loops", "2", "--timeout-graceful-shutdown", str(2 * HANG)]
    with Serve(tmp_path, *options, source=source) as server:
        clients = [Client(server.port) for _ in range(4)]
        for client in clients:
            client.ask("/stream")
            assert client.sock.recv(1).startswith(b"H")
        server.tell(number)
        for client in clients:
            assert b"end" in client._file.read()
            client.close()
        assert server.ended() == 0
    assert server.log.count(f"told of {int(number)}\n") == 1
    assert "ERROR" not in server.log


@on_each_kind
def test_streams_go_on_while_connections_are_still_taken(tmp_path: Path) -> None:
    source = with_path("/stream", STREAM)
    options = ["--port", "0", "--loops", "2", "--readiness-path", "/ready"]
    options += ["--shutdown-delay", str(HANG)]
    with Serve(tmp_path, *options, source=source) as server:
        server.tell()
        server.said("Shutting down")
        assert get(server.port, "/ready")[0] == 503
        with Client(server.port) as client:
            client.ask("/stream")
            seen = b""
            while seen.count(b"on") < 5:
                seen += client.sock.recv(1000)
            assert b"end" not in seen


@on_each_kind
def test_who_sets_should_exit_ends_the_server(tmp_path: Path) -> None:
    body = """
import signal
await answer(send, b"ending")
signal.getsignal(signal.SIGTERM).__self__.should_exit = True
"""
    with Serve(tmp_path, "--port", "0", "--loops", "3", source=with_path("/exit", body)) as server:
        assert get(server.port, "/exit") == (200, "ending")
        assert server.ended() == 0
    assert server.log.count("lifespan.shutdown") == 3
    assert "ERROR" not in server.log


def test_a_handle_exit_that_fails_does_not_keep_the_server(tmp_path: Path) -> None:
    source = PLAIN + HOOK.replace("original(self, sig, frame)", "1 / 0")
    with Serve(tmp_path, "--port", "0", "--loops", "2", source=source) as server:
        server.tell()
        assert server.ended() == 0
    assert "ZeroDivisionError" in server.log
    assert server.log.count("lifespan.shutdown") == 2


# Signals of the application


def test_a_lifespan_has_a_handler_on_each_loop(tmp_path: Path) -> None:
    source = PLAIN.replace(
        'if message["type"] == "lifespan.startup":',
        """if message["type"] == "lifespan.startup":
                import signal
                loop = asyncio.get_running_loop()
                loop.add_signal_handler(signal.SIGUSR1, say, "handled on", name)
            else:
                assert loop.remove_signal_handler(signal.SIGUSR1)
            if message["type"] == "lifespan.startup":""",
    )
    with Serve(tmp_path, "--port", "0", "--loops", "3", source=source) as server:
        server.tell(signal.SIGUSR1)
        for number in range(3):
            server.said(f"handled on loop-pool-{number}\n")
        server.stop()
    assert server.log.count("handled on") == 3


def test_an_application_that_takes_a_signal_over_has_it(tmp_path: Path) -> None:
    """As under uvicorn: who sets another handler decides whether the server hears of it."""
    source = PLAIN.replace(
        'if message["type"] == "lifespan.startup":',
        """if message["type"] == "lifespan.startup" and name == "loop-pool-0":
                import signal
                before = signal.getsignal(signal.SIGTERM)
                def handler(sig, frame):
                    handler.calls += 1
                    say("call", handler.calls)
                    if handler.calls == 2:
                        before(sig, frame)
                handler.calls = 0
                signal.signal(signal.SIGTERM, handler)
            if message["type"] == "lifespan.startup":""",
    )
    with Serve(tmp_path, "--port", "0", "--loops", "2", source=source) as server:
        server.tell()
        server.said("call 1\n")
        assert get(server.port)[0] == 200
        assert "Shutting down" not in server.log
        server.tell()
        assert server.ended() == 0


# Listeners


def listener_of(kind: str, tmp_path: Path) -> tuple[socket.socket, socket.socket, object]:
    """A listener, a socket to connect to it with, and where."""
    family = {"tcp": socket.AF_INET, "tcp6": socket.AF_INET6, "unix": socket.AF_UNIX}[kind]
    where = {"tcp": ("127.0.0.1", 0), "tcp6": ("::1", 0), "unix": str(tmp_path / "socket")}[kind]
    listener = socket.socket(family)
    listener.bind(where)  # type: ignore[arg-type]
    listener.listen()
    client = socket.socket(family)
    client.setblocking(False)
    return listener, client, listener.getsockname()


@on_each_kind
@pytest.mark.parametrize("kind", ["tcp", "tcp6", "unix"])
def test_nobody_comes_between_the_last_look_at_the_queue_and_its_end(
    tmp_path: Path, kind: str
) -> None:
    from loop_pool._serve import sockets as serve_sockets

    listener, late, address = listener_of(kind, tmp_path)
    with socket.socket(listener.family) as early, late:
        early.connect(address)  # type: ignore[arg-type]
        serve_sockets.let_nobody_in(listener)
        if kind == "unix":
            with pytest.raises(ConnectionRefusedError):
                late.connect(address)  # type: ignore[arg-type]
        elif sys.platform == "linux":
            assert late.connect_ex(address) == errno.EINPROGRESS
            assert select.select([], [late], [], 0) == ([], [], [])  # on loopback it is at once
        (taken,) = serve_sockets.emptied(listener)
        serve_sockets.close(listener)
        with taken:
            early.sendall(b"there")
            assert taken.recv(10) == b"there"
            taken.sendall(b"back")
            assert early.recv(10) == b"back"


def test_a_server_that_takes_a_path_over_refuses_nobody(tmp_path: Path) -> None:
    from loop_pool._serve.sockets import Place, bound, emptied

    path = str(tmp_path / "socket")
    place = Place("", 0, path, None, False)
    listeners = [bound(place, 4096)]
    os.chmod(path, 0o600)
    done, permits = threading.Event(), threading.Semaphore(0)

    def connect_all_the_time() -> None:
        while permits.acquire() and not done.is_set():
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(HANG)
                sock.connect(path)

    def take_over() -> None:
        try:
            for _ in range(50):
                permits.release(100)  # no more than what a queue takes
                listeners.append(bound(place, 4096))
                for conn in emptied(listeners[-2]):
                    conn.close()
        finally:
            done.set()
            permits.release(100)

    try:
        with Threads(connect_all_the_time, connect_all_the_time, take_over):
            pass
    finally:
        for listener in listeners:
            listener.close()
    assert os.listdir(tmp_path) == ["socket"]
    assert os.stat(path).st_mode & 0o777 == 0o600


# TLS

CERTIFICATE = ["--ssl-certfile", str(Path(test.__path__[0], "certdata", "keycert.pem"))]
"""The self-signed one of CPython's own test package."""


def connect(port: int) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    plain = socket.create_connection(("127.0.0.1", port), HANG)
    return context.wrap_socket(plain)


@pytest.mark.parametrize("close", [True, False])
def test_only_what_is_under_way_in_tls_is_named(tmp_path: Path, http: str, close: bool) -> None:
    options = ["--port", "0", "--loops", "2", "--timeout-graceful-shutdown", "0.3", "--http", http]
    with Serve(tmp_path, *options, *CERTIFICATE) as server:
        answered = [connect(server.port) for _ in range(4)]
        for client in answered:  # they keep their side open, and say no goodbye
            how = "close" if close else "keep-alive"
            client.sendall(f"GET / HTTP/1.1\r\nhost: x\r\nconnection: {how}\r\n\r\n".encode())
            assert client.recv(1000)
        late = connect(server.port)
        late.sendall(b"GET /wait?1000 HTTP/1.1\r\nhost: x\r\n\r\n")
        server.said("waiting")
        server.tell()
        assert server.ended() == 0
        for client in [*answered, late]:
            client.close()
    assert server.log.count("Cancelled, timeout graceful shutdown exceeded") == 1, server.log
    assert "timeout graceful shutdown exceeded: loop-pool-" in server.log
    assert "GET /wait from" in server.log


@on_each_kind
def test_a_client_of_tls_that_does_not_read_its_answer_is_named(tmp_path: Path) -> None:
    body = 'await answer(send, bytes(64 << 20))\nsay("answered")'
    options = ["--port", "0", "--loops", "1", "--timeout-graceful-shutdown", "0.3"]
    with Serve(tmp_path, *options, *CERTIFICATE, source=with_path("/much", body)) as server:
        with connect(server.port) as client:
            client.sendall(b"GET /much HTTP/1.1\r\nhost: x\r\n\r\n")
            assert client.recv(1000)
            server.tell()
            assert server.ended() == 0
    assert "GET /much from" in server.log


@on_each_kind
@pytest.mark.parametrize("renewed", ["keycert3.pem", "keycertecc.pem"], ids=["rsa", "ecdsa"])
def test_a_certificate_is_renewed_and_open_connections_stay(tmp_path: Path, renewed: str) -> None:
    chain, other = (certificate(name).read_bytes() for name in ("keycert.pem", renewed))
    path = tmp_path / "server.pem"
    path.write_bytes(chain)
    options = ["--port", "0", "--loops", "2", "--ssl-certfile", str(path)]
    with Serve(tmp_path, *options) as server:

        def ask(client: ssl.SSLSocket) -> bytes | None:
            client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert client.recv(1000)
            return client.getpeercert(True)

        with connect(server.port) as before:
            first = ask(before)
            for content, said in ((b"nothing", "Cannot reload"), (other, "Reloaded")):
                path.write_bytes(content)
                server.tell(signal.SIGHUP)
                server.said(said)
                with connect(server.port) as after:
                    assert (ask(after) == first) == (content != other)
                assert ask(before) == first
        server.tell()
        assert server.ended() == 0
