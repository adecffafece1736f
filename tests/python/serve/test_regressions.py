"""`loop-pool serve` where something is in its way: clients, signals, limits, applications."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import socket
import ssl
import sys
import textwrap
import threading
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

import loop_pool

from ..support import HANG, wait_for
from .kinds import on_each_kind
from .support import PLAIN, Client, Serve, get

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.usefixtures("clean_process"),
    pytest.mark.skipif(find_spec("uvicorn") is None, reason="uvicorn is not there"),
]

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: " + base64.b64encode(bytes(16)) + b"\r\n\r\n"
)


# The end


@on_each_kind
def test_it_ends_in_good_order_when_it_is_out_of_descriptors(tmp_path: Path) -> None:
    full = """
            import os, resource
            resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
            app.kept = []
            try:
                while True:
                    app.kept.append(os.dup(0))
            except OSError:
                await answer(send, b"full")
    """
    source = PLAIN.replace(
        'elif scope["path"] == "/state":',
        f'elif scope["path"] == "/full":{full.rstrip()}\n        elif scope["path"] == "/state":',
    )
    notify = {"NOTIFY_SOCKET": str(tmp_path / "nobody")}
    options = ["--port", "0", "--loops", "2"]
    with Serve(tmp_path, *options, source=source, environment=notify) as server:
        with Client(server.port) as filling, Client(server.port) as waiting:
            waiting.ask("/gate")
            server.said("waiting")
            filling.ask("/full")
            assert filling.answer()[2] == "full"
            server.tell()
            server.said("Shutting down")
            server.open_gate()
            assert waiting.answer()[2] == "waited"
        assert server.ended() == 0
    assert server.log.count("lifespan.shutdown") == 2
    assert "Traceback" not in server.log


def test_a_request_that_has_arrived_is_answered_although_nothing_idle_is_waited_for(
    each_http: str,
) -> None:
    import uvicorn

    from loop_pool._serve.loop_server import LoopServer
    from loop_pool._serve.native_http import NativeHTTP
    from loop_pool._serve.plan import HTTPOptions
    from loop_pool._serve.uvicorn_http import UvicornHTTP

    async def serves(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"served"})

    async def main() -> bytes:
        is_native = each_http == "native"
        kind = "auto" if is_native else each_http
        config = uvicorn.Config(serves, http=kind, lifespan="off", log_config=None)
        config.load()
        http: Any = UvicornHTTP(config, serves, access_log=False)
        if is_native:
            http = NativeHTTP(config, serves, serves, HTTPOptions("native"))
        loop_server = LoopServer(config, http, quiet=True)
        assert await loop_server.start()
        ours, client = socket.socketpair()
        with client:
            client.settimeout(HANG)
            loop_server.take(ours, None)
            while not loop_server._connections():  # noqa: ASYNC110
                await asyncio.sleep(0)
            client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert await loop_server.drain(None, 0.0, time.monotonic() + HANG) == []
            await loop_server.stop()
            return client.recv(10_000)

    answer = loop_pool.run(main(), loops=1)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer


@on_each_kind
def test_connections_that_wait_longer_than_the_end_may_take_are_no_error(tmp_path: Path) -> None:
    options = ["--timeout-keep-alive", "1000", "--timeout-graceful-shutdown", "0.2"]
    with Serve(tmp_path, "--port", "0", "--loops", "2", *options) as server:
        with Client(server.port) as client:
            client.ask()
            client.answer()
            server.stop()
            assert client.is_closed()


@on_each_kind
def test_half_a_request_behind_one_that_does_not_end_in_time(tmp_path: Path) -> None:
    options = ["--port", "0", "--loops", "2", "--timeout-graceful-shutdown", "0.2"]
    with Serve(tmp_path, *options) as server:
        with Client(server.port) as client:
            client.ask("/wait?1000")
            server.said("waiting")
            client.sock.sendall(b"GET /second HTTP/1.1\r\nho")
            server.tell()
            assert server.ended() == 0
    assert "timeout graceful shutdown exceeded: loop-pool-" in server.log
    assert "GET /wait from" in server.log
    assert "failed to shut down" not in server.log


@on_each_kind
def test_a_web_socket_whose_client_does_not_read(tmp_path: Path) -> None:
    source = PLAIN.replace(
        "while (message := await receive())",
        """say("flooding")
        while True:
            await send({"type": "websocket.send", "bytes": bytes(1_000_000)})
        while (message := await receive())""",
    )
    options = ["--port", "0", "--loops", "2"]
    options += ["--timeout-drain", "0.1", "--timeout-graceful-shutdown", "0.3"]
    with Serve(tmp_path, *options, source=source) as server:
        with Client(server.port) as client:
            client.sock.sendall(UPGRADE)
            server.said("flooding")
            server.tell()
            assert server.ended() == 0
    assert "WebSocket /ws from" in server.log
    assert "failed to shut down" not in server.log


@on_each_kind
def test_a_client_that_is_silent_in_its_tls_handshake_is_not_waited_for(
    tmp_path: Path, tls: list[str]
) -> None:
    options = ["--port", "0", "--loops", "2", "--timeout-graceful-shutdown", str(2 * HANG)]
    with Serve(tmp_path, *options, *tls) as server:
        with Client(server.port) as silent:
            server.tell(signal.SIGINT)
            assert server.ended() == 0  # long before the deadline
            assert silent.is_closed()


@on_each_kind
def test_a_client_that_does_not_say_goodbye_in_tls_is_not_waited_for(
    tmp_path: Path, tls: list[str]
) -> None:
    options = ["--timeout-keep-alive", "0", "--timeout-graceful-shutdown", str(2 * HANG)]
    with Serve(tmp_path, "--port", "0", "--loops", "2", *options, *tls) as server:
        context = ssl.create_default_context(cafile=tls[1])
        with socket.create_connection(("127.0.0.1", server.port), HANG) as plain:
            with context.wrap_socket(plain, server_hostname="localhost") as sock:
                sock.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                assert sock.recv(1000).startswith(b"HTTP/1.1 200")
                server.stop()  # long before the deadline


@on_each_kind
def test_an_application_that_cancels_all_tasks_of_a_loop_harms_no_other(tmp_path: Path) -> None:
    source = PLAIN.replace(
        'await send({"type": message["type"] + ".complete"})',
        """if message["type"] == "lifespan.shutdown" and name == "loop-pool-1":
                for task in asyncio.all_tasks() - {asyncio.current_task()}:
                    task.cancel()
                await asyncio.sleep(0)
            await send({"type": message["type"] + ".complete"})""",
    )
    with Serve(tmp_path, "--port", "0", "--loops", "2", source=source) as server:
        server.tell()
        assert server.ended() == 0
    assert "loop-pool-1 failed to shut down" in server.log
    assert "Finished server process" in server.log


def test_a_loop_that_is_stuck_listens_no_more_once_the_server_ends(tmp_path: Path) -> None:
    source = PLAIN.replace(
        'elif scope["path"] == "/state":',
        """elif scope["path"] == "/stick":
            if where() == b"loop-pool-1":
                say("stuck")
                time.sleep(1000)
            await answer(send, where())
        elif scope["path"] == "/state":""",
    )
    options = ["--port", "0", "--loops", "2", "--timeout-graceful-shutdown", str(2 * HANG)]
    with Serve(tmp_path, *options, source=source) as server:
        clients = []

        def is_stuck() -> bool:
            clients.append(Client(server.port))
            clients[-1].ask("/stick")
            return "stuck" in server.log

        wait_for(is_stuck, "no request came to loop 1")
        server.tell()
        server.said("Shutting down")

        def is_refused() -> bool:
            try:
                socket.create_connection(("127.0.0.1", server.port), HANG).close()
            except ConnectionRefusedError:
                return True
            return False

        wait_for(is_refused, "it still listens")
        for client in clients:
            client.close()
    assert "ERROR" not in server.log


def test_a_second_signal_ends_a_start_in_which_a_loop_is_stuck(tmp_path: Path) -> None:
    source = PLAIN.replace(
        'if message["type"] == "lifespan.startup":',
        """if message["type"] == "lifespan.startup" and name == "loop-pool-1":
                say("stuck")
                time.sleep(1000)
            if message["type"] == "lifespan.startup":""",
    )
    options = ["--port", "0", "--loops", "2"]
    with Serve(tmp_path, *options, source=source, wait="(stuck)") as server:
        server.tell()

        def told_again() -> bool:
            server.tell()
            return "Second signal" in server.log

        wait_for(told_again, "it took the second signal for one")
        server.said("Finished server process")


@pytest.mark.parametrize("timeout", [float("inf"), 1e300])
def test_an_end_without_a_deadline(timeout: float) -> None:
    runner = loop_pool.Runner(loops=2, shutdown_timeout=timeout)
    runner.get_pool()
    runner.close()
    assert threading.active_count() == 1


# Places


def test_reload_leaves_the_socket_and_its_queue_to_the_next_process(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    source = PLAIN.replace("await answer(send, where())", 'await answer(send, b"before")')
    options = ["--uds", path, "--loops", "2", "--reload", "--reload-delay", "0.05"]
    options += ["--reload-dir", str(tmp_path)]
    answers: list[str] = []

    def ask_until_it_has_changed() -> None:
        deadline = time.monotonic() + HANG
        while time.monotonic() < deadline:
            with Client(0, path) as client:
                client.ask()
                text = client.answer()[2]
            if text == "after":
                answers.append(text)
                return

    with Serve(tmp_path, *options, source=source, wait=r"(on 2 loops)") as server:
        clients = [threading.Thread(target=ask_until_it_has_changed) for _ in range(4)]
        for client in clients:
            client.start()
        file = tmp_path / "served.py"
        file.write_text(file.read_text().replace('b"before"', 'b"after"'))
        for client in clients:
            client.join(HANG)
        assert answers == ["after"] * 4
        server.tell()
        assert server.ended() == 0
    assert not os.path.exists(path)


def test_a_place_and_a_folder_may_be_path_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "socket"
    (tmp_path / "found_by_a_path_object.py").write_text(textwrap.dedent(PLAIN))
    monkeypatch.setattr(sys, "path", [*sys.path])
    answers: list[bytes] = []

    def is_answered() -> bool:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(HANG)
            try:
                sock.connect(str(place))
            except OSError:
                return False
            sock.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            answers.append(sock.recv(1000))
        return True

    client = threading.Thread(target=wait_for, args=(is_answered, "nobody listens"))
    client.start()
    loop_pool.serve(
        "found_by_a_path_object:app",
        uds=place,
        app_dir=tmp_path,
        loops=2,
        limit_max_requests=1,
        log_config=None,
        lifespan="off",
    )
    client.join()
    assert answers[0].startswith(b"HTTP/1.1 200")


def test_a_number_is_not_taken_for_the_path_of_a_file(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        with pytest.raises(TypeError):
            loop_pool.serve("no_such_module:app", env_file=file.fileno())
        os.fstat(file.fileno())


def test_hanging_up_on_reload_ends_both_processes(tmp_path: Path) -> None:
    options = ["--port", "0", "--loops", "2", "--reload", "--reload-dir", str(tmp_path)]
    with Serve(tmp_path, *options, wait=r"running on (\S+) on 2 loops") as server:
        server.tell(signal.SIGHUP)
        assert server.ended() == 0
        with pytest.raises(ConnectionRefusedError):
            Client(server.port)
    assert server.log.count("lifespan.shutdown") == 2


def test_a_descriptor_that_is_no_socket_is_not_kept(tmp_path: Path) -> None:
    from loop_pool._serve.sockets import Place, bound

    with (tmp_path / "file").open("w") as file:
        before = os.listdir("/proc/self/fd")
        with pytest.raises(OSError, match=f"fd {file.fileno()} is not a socket"):
            bound(Place("", 0, None, file.fileno(), False), 1)
        assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--uds", "/tmp/" + "x" * 200], "path too long"),
        (["--ssl-certfile", "/no/cert", "--ssl-keyfile", "/no/key"], "'/no/cert'"),
    ],
)
def test_the_error_says_what_is_wrong(tmp_path: Path, options: list[str], said: str) -> None:
    with Serve(tmp_path, "--loops", "2", *options, wait=None) as server:
        assert server.ended() == 3
    assert said in server.log
    assert "None" not in server.log
    assert "Traceback" not in server.log


# The application


@pytest.mark.parametrize("error", ["ValueError('x')", "KeyError(3)", "int(None)"])
def test_an_error_of_the_application_tells_where_it_is(tmp_path: Path, error: str) -> None:
    source = f"""
        made = 0
        def make():
            global made
            made += 1
            if made == 2:
                raise {error}
            return serves

        async def serves(scope, receive, send):
            pass
    """
    options = ["--port", "0", "--loops", "3", "--factory"]
    with Serve(tmp_path, *options, source=source, target="served:make", wait=None) as server:
        assert server.ended() == 3
    assert f"""File "{tmp_path}/served.py", line 7, in make""" in server.log


@pytest.mark.parametrize("phase", ["startup", "shutdown"])
def test_an_error_in_the_lifespan_of_one_loop_is_told(tmp_path: Path, phase: str) -> None:
    source = PLAIN.replace(
        'if message["type"] == "lifespan.startup":',
        f"""if message["type"] == "lifespan.{phase}" and name == "loop-pool-1":
                raise RuntimeError("told")
            if message["type"] == "lifespan.startup":""",
    )
    wait = "running on" if phase == "shutdown" else "Started"
    with Serve(tmp_path, "--port", "0", "--loops", "2", source=source, wait=f"({wait})") as server:
        if phase == "shutdown":
            server.tell()
        assert server.ended() == (0 if phase == "shutdown" else 3)
    assert "RuntimeError: told" in server.log
    assert "lifespan.shutdown loop-pool-0" in server.log


@on_each_kind
def test_the_paths_of_health_do_not_include_the_root_path(tmp_path: Path) -> None:
    options = ["--root-path", "/api", "--readiness-path", "/ready"]
    with Serve(tmp_path, "--port", "0", "--loops", "2", *options) as server:
        assert get(server.port, "/ready") == (200, "ready\n")
        server.stop()
