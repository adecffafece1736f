"""`loop-pool serve`: one application on all loops of a process, as a new user would start it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from ..services import free_port
from ..support import HANG, wait_for
from .kinds import SERVERS, on_each_kind
from .support import PLAIN, Client, Serve, get

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.usefixtures("clean_process"),
    pytest.mark.skipif(find_spec("uvicorn") is None, reason="uvicorn is not there"),
]


def names(count: int) -> set[str]:
    return {f"loop-pool-{number}" for number in range(count)}


# On all loops


@on_each_kind
def test_every_loop_answers_with_a_lifespan_of_its_own(
    tmp_path: Path, count: int, each_http: str
) -> None:
    with Serve(tmp_path, "--port", "0", "--loops", str(count)) as server:
        clients = [Client(server.port) for _ in range(8 * count)]
        seen = set()
        for client in clients:
            client.ask("/state")
            status, headers, state = client.answer()
            client.ask("/")
            assert client.answer()[2] == state
            assert (status, headers["server"]) == (200, SERVERS.get(each_http, "uvicorn"))
            seen.add(state)
        for client in clients:
            client.close()
        assert seen == names(count)
        log = server.stop()
    for name in names(count):
        assert f"lifespan.startup {name}\n" in log
        assert f"lifespan.shutdown {name}\n" in log
        assert f"{name} 127.0.0.1:" in log  # the access log
    assert log.count("Application startup complete.") == 1
    assert log.count("Application shutdown complete.") == 1
    assert f"on {count} loop" in log


def test_loop_0_starts_the_application_before_the_others(tmp_path: Path) -> None:
    source = PLAIN.replace(
        'say(message["type"], name)',
        'say(message["type"], name); await asyncio.sleep(0.05); say("up", name)',
    )
    with Serve(tmp_path, "--port", "0", "--loops", "3", source=source) as server:
        log = server.stop()
    first = log.index("up loop-pool-0\n")
    assert all(first < log.index(f"lifespan.startup loop-pool-{number}\n") for number in (1, 2))


@on_each_kind
def test_a_factory_makes_an_application_for_each_loop(tmp_path: Path) -> None:
    source = """
        import asyncio, sys
        def make():
            own = asyncio.get_running_loop()
            async def app(scope, receive, send):
                assert scope["type"] == "http"
                body = b"mine" if asyncio.get_running_loop() is own else b"not mine"
                await send({"type": "http.response.start", "status": 200,
                            "headers": [(b"content-length", str(len(body)).encode())]})
                await send({"type": "http.response.body", "body": body})
            sys.stdout.write(f"made on {own._name()}\\n")  # in one piece: several loops do it
            sys.stdout.flush()
            return app
    """
    options = ["--factory", "--port", "0", "--loops", "3", "--lifespan", "off"]
    with Serve(tmp_path, *options, source=source, target="served:make") as server:
        assert {get(server.port) for _ in range(30)} == {(200, "mine")}
        log = server.stop()
    assert sorted(line for line in log.splitlines() if line.startswith("made on")) == [
        f"made on {name}" for name in sorted(names(3))
    ]


@on_each_kind
def test_web_sockets_stay_on_their_loop(tmp_path: Path) -> None:
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosedError

    with Serve(tmp_path, "--port", "0", "--loops", "2") as server:

        async def main() -> set[str]:
            clients = [await connect(f"ws://127.0.0.1:{server.port}/") for _ in range(8)]
            seen = set()
            for client in clients:
                answers = []
                for text in ("one", "x" * 100_000):
                    await client.send(text)
                    name, _, echoed = str(await client.recv()).partition(" ")
                    assert echoed == text
                    answers.append(name)
                assert len(set(answers)) == 1
                seen.add(answers[0])
            server.tell()
            for client in clients:
                with pytest.raises(ConnectionClosedError) as closed:
                    await client.recv()
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 1012
            return seen

        assert asyncio.run(asyncio.wait_for(main(), HANG)) == names(2)
        assert server.ended() == 0
        assert server.log.count("websocket ended 1012") == 8
        assert "ERROR" not in server.log


# The end


LEAVES = """
    from loop_pool._serve import native_http, run, uvicorn_http

    left = set()

    def noting(leave):
        def leaves(self):
            leave(self)
            left.add(asyncio.get_running_loop())
        return leaves

    for kind in (native_http.NativeHTTP, uvicorn_http.UvicornHTTP):
        kind.leave = noting(kind.leave)
"""
"""Notes the loops on which each response closes its connection."""


@on_each_kind
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_when_what_is_under_way_is_answered(
    tmp_path: Path, number: signal.Signals
) -> None:
    # The answer waits until its loop knows that it is the last one.
    opened = "is_open():\n                await"
    told = opened.replace(":", " or asyncio.get_running_loop() not in left:")
    assert opened in PLAIN
    source = PLAIN.replace(opened, told) + LEAVES + f"\n    run.ECHO = {HANG}"
    with Serve(tmp_path, "--port", "0", "--loops", "2", source=source) as server:
        with Client(server.port) as client:
            client.ask("/gate")
            server.said("waiting")
            server.tell(number)
            server.said("Shutting down")
            server.tell(number)  # the second one comes at once, as from a parent process
            server.open_gate()
            status, headers, body = client.answer()
            assert (status, headers["connection"], body) == (200, "close", "waited")
            assert client.is_closed()
        log = server.good_end()
    assert "Finished server process" in log
    assert "Second signal" not in log
    with pytest.raises(ConnectionRefusedError):
        get(server.port)


@on_each_kind
def test_connections_that_wait_for_a_request_may_send_one_more(tmp_path: Path) -> None:
    options = ["--timeout-keep-alive", "1000", "--timeout-drain", "2"]
    with Serve(tmp_path, "--port", "0", "--loops", "2", *options) as server:
        with Client(server.port) as used, Client(server.port) as fresh, Client(server.port) as idle:
            used.ask()
            assert used.answer()[1].get("connection") != "close"
            # Whatever has been accepted before this answer has come to its loop.
            assert get(server.port)[0] == 200
            server.tell()
            server.said("Shutting down")
            wait_for(lambda: _refused(server.port), "the listeners are closed")
            for client in (used, fresh):
                client.ask()
                status, headers, _ = client.answer()
                assert (status, headers["connection"]) == (200, "close")
                assert client.is_closed()
            assert idle.is_closed()
        assert server.ended() == 0


def _refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), HANG).close()
    except ConnectionRefusedError:
        return True
    return False


@on_each_kind
def test_after_ctrl_c_nothing_idle_is_waited_for(tmp_path: Path) -> None:
    with Serve(tmp_path, "--port", "0", "--timeout-keep-alive", "1000") as server:
        with Client(server.port) as client:
            client.ask()
            client.answer()
            server.tell(signal.SIGINT)
            assert client.is_closed()
        assert server.ended() == 0


@on_each_kind
@pytest.mark.parametrize("loops", ["1", "2"])
def test_what_the_kernel_had_accepted_is_served(tmp_path: Path, loops: str) -> None:
    """Connections that wait in the queue when the signal comes, too many for a few turns."""
    with Serve(tmp_path, "--port", "0", "--loops", loops, "--no-access-log") as server:
        server.tell(signal.SIGSTOP)
        waiting = [Client(server.port) for _ in range(900)]
        for client in waiting:
            client.ask(close=True)
        server.tell()
        server.tell(signal.SIGCONT)
        assert [client.answer()[0] for client in waiting] == [200] * 900
        for client in waiting:
            client.close()
        assert server.ended() == 0
        assert "ERROR" not in server.log


@on_each_kind
def test_what_does_not_end_in_time_is_named_and_cancelled(tmp_path: Path) -> None:
    options = ["--port", "0", "--loops", "2", "--timeout-graceful-shutdown", "0.2"]
    with Serve(tmp_path, *options) as server:
        with Client(server.port) as client:
            client.ask("/wait?1000")
            server.said("waiting")
            server.tell()
            assert server.ended() == 0
    named = (
        r"Cancelled, timeout graceful shutdown exceeded: loop-pool-\d: "
        r"GET /wait from \('127.0.0.1', \d+"
    )
    server.said(named)
    for name in names(2):
        assert f"lifespan.shutdown {name}" in server.log


@on_each_kind
def test_a_loop_that_is_stuck_is_named_and_holds_nobody_up(tmp_path: Path) -> None:
    options = ["--port", "0", "--loops", "3", "--timeout-graceful-shutdown", "0.1"]
    with Serve(tmp_path, *options) as server:
        with Client(server.port) as client:
            while "blocking" not in server.log:
                with Client(server.port) as asking:
                    asking.ask("/")
                    name = asking.answer()[2]
                    if name != "loop-pool-0":
                        asking.ask("/block")
                        server.said("blocking")
                        server.tell()
                        server.ended()
            client.close()
    assert f"{name} did not shut down in time" in server.log
    for other in names(3) - {name}:
        assert f"lifespan.shutdown {other}" in server.log


@on_each_kind
def test_a_second_signal_ends_it_without_waiting(tmp_path: Path) -> None:
    with Serve(tmp_path, "--port", "0", "--loops", "2") as server:
        with Client(server.port) as client:
            client.ask("/wait?1000")
            server.said("waiting")
            server.tell()
            server.said("Shutting down")
            wait_for(lambda: _told_again(server), "it took the second signal for one")
            assert server.ended() == 0
    assert "Cancelled" in server.log


def _told_again(server: Serve) -> bool:
    server.tell()
    return "Second signal" in server.log


@on_each_kind
def test_the_limit_of_requests_ends_it(tmp_path: Path) -> None:
    with Serve(tmp_path, "--port", "0", "--loops", "2", "--limit-max-requests", "20") as server:
        for _ in range(20):
            assert get(server.port)[0] == 200
        assert server.ended() == 0
    assert "Maximum request limit of 20 exceeded" in server.log


@on_each_kind
def test_the_limit_of_connections_is_that_of_all_loops(tmp_path: Path) -> None:
    with Serve(tmp_path, "--port", "0", "--loops", "2", "--limit-concurrency", "8") as server:
        clients, statuses = [], []
        for _ in range(40):
            # One after the other: a loop may take many connections before it looks at a request.
            clients.append(client := Client(server.port))
            client.ask()
            statuses.append(client.answer()[0])
        for client in clients:
            client.close()
        assert set(statuses) == {200, 503}
        # uvicorn refuses the one that reaches the limit: three of four on each loop are served.
        assert statuses.count(200) <= 8
        server.stop()


# Health


@on_each_kind
def test_readiness_ends_with_the_signal_and_connections_are_still_taken(tmp_path: Path) -> None:
    options = ["--port", "0", "--loops", "2", "--readiness-path", "/ready"]
    with Serve(tmp_path, *options, "--shutdown-delay", str(HANG)) as server:
        assert get(server.port, "/ready") == (200, "ready\n")
        assert get(server.port, "/other") != (200, "ready\n")
        server.tell()
        server.said("Shutting down")
        assert get(server.port, "/ready") == (503, "not ready\n")
        assert get(server.port, "/")[0] == 200
        wait_for(lambda: _told_again(server), "it took the second signal for one")
        assert server.ended() == 0


@on_each_kind
def test_liveness_names_the_loop_that_does_not_answer(tmp_path: Path) -> None:
    options = ["--port", "0", "--loops", "2", "--liveness-path", "/live"]
    with Serve(tmp_path, *options, "--liveness-timeout", "0.3") as server:

        def says(status: int, text: str) -> None:
            # On a machine that has much else to do a loop may be slow.
            wait_for(lambda: get(server.port, "/live") == (status, f"{text}\n"), text)

        says(200, "alive")
        with Client(server.port) as stuck:
            stuck.ask("/")
            name = stuck.answer()[2]
            stuck.ask("/block")
            server.said("blocking")
            says(503, f"no response within 0.3 s from {name}")
            server.open_gate()
            stuck.answer()
            says(200, "alive")
        server.stop()


def test_a_service_manager_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(HANG)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        with Serve(tmp_path, "--port", "0", environment=environment) as server:
            assert manager.recv(100) == b"READY=1"
            server.tell()
            assert manager.recv(100) == b"STOPPING=1"
            assert server.ended() == 0


# Places


@on_each_kind
def test_tls_from_files(tmp_path: Path, certificate: tuple[str, str]) -> None:
    cert, key = certificate
    options = ["--ssl-certfile", cert, "--ssl-keyfile", key]
    with Serve(tmp_path, "--port", "0", "--loops", "2", *options) as server:
        assert server.where.startswith("https://")
        context = ssl.create_default_context(cafile=cert)
        for _ in range(4):
            with socket.create_connection(("127.0.0.1", server.port), HANG) as plain:
                with context.wrap_socket(plain, server_hostname="localhost") as sock:
                    sock.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                    assert sock.recv(1000).startswith(b"HTTP/1.1 200")
        server.stop()


def test_a_unix_socket_is_removed_unless_another_server_has_taken_its_place(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with Serve(tmp_path, "--uds", path, "--loops", "2") as server:
        for _ in range(5):
            with Client(0, path) as client:
                client.ask()
                assert client.answer()[0] == 200
        with Serve(tmp_path, "--uds", path, "--loops", "2") as second:
            server.stop()
            with Client(0, path) as client:
                client.ask()
                assert client.answer()[0] == 200
            second.stop()
    assert not os.path.exists(path)


def test_an_inherited_socket_stays_open(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        fd, port = sock.fileno(), sock.getsockname()[1]
        options = ["--fd", str(fd), "--loops", "2", "--timeout-drain", "0"]
        with Serve(tmp_path, *options, wait="running on (socket)", pass_fds=(fd,)) as server:
            assert get(port)[0] == 200
            server.stop()
        with Client(port) as waiting:  # nobody accepts; the kernel does
            waiting.ask()
            with Serve(tmp_path, *options, wait=None, pass_fds=(fd,)) as server:
                assert waiting.answer()[0] == 200
                server.stop()


def test_a_taken_address_is_an_error_unless_it_is_shared(tmp_path: Path) -> None:
    with Serve(tmp_path, "--port", str(free_port()), "--loops", "2") as first:
        port = str(first.port)
        with Serve(tmp_path, "--port", port, "--loops", "2", wait=None) as second:
            assert second.ended() == 3
        assert f"('127.0.0.1', {port}): address already in use" in second.log
        assert "lifespan.shutdown loop-pool-1" in second.log
        with Serve(tmp_path, "--port", port, "--loops", "2", "--reuse-port") as third:
            third.stop()
        first.stop()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--fd", "1000"], "fd 1000 is not a socket"),
        (["--fd", str(2**31)], f"fd {2**31} is not a socket"),
        (["--uds", "/nonexistent/socket"], "cannot bind '/nonexistent/socket'"),
        (["--host", "192.0.2.1"], "192.0.2.1"),
    ],
)
def test_a_place_that_cannot_be_had(tmp_path: Path, options: list[str], said: str) -> None:
    with Serve(tmp_path, *options, "--loops", "2", wait=None) as server:
        assert server.ended() == 3
    assert said in server.log
    assert "Traceback" not in server.log


# Starting


@on_each_kind
def test_reload_serves_what_has_changed(tmp_path: Path) -> None:
    source = PLAIN.replace("await answer(send, where())", 'await answer(send, b"before")')
    options = ["--port", str(free_port()), "--loops", "2", "--reload", "--reload-delay", "0.05"]
    options += ["--reload-dir", str(tmp_path)]
    with Serve(tmp_path, *options, source=source, wait=r"running on (\S+) on 2 loops") as server:
        assert get(server.port) == (200, "before")
        with Client(server.port) as idle:  # it does not hold up the change
            idle.ask()
            idle.answer()
            file = tmp_path / "served.py"
            file.write_text(file.read_text().replace('b"before"', 'b"after"'))
            assert idle.is_closed()
        # The listening socket stays open meanwhile.
        assert get(server.port) == (200, "after")
        server.tell()
        assert server.ended() == 0


def test_an_application_that_does_not_start_on_one_loop_is_ended_on_the_others(
    tmp_path: Path,
) -> None:
    source = PLAIN.replace(
        'say(message["type"], name)',
        """say(message["type"], name)
            if name == "loop-pool-2":
                await send({"type": "lifespan.startup.failed", "message": "no database"})
                return""",
    )
    with Serve(tmp_path, "--loops", "3", "--port", "0", source=source, wait=None) as server:
        assert server.ended() == 3
    assert "no database" in server.log
    assert "loop-pool: the application did not start on loop-pool-2" in server.log
    for name in ("loop-pool-0", "loop-pool-1"):
        assert f"lifespan.shutdown {name}" in server.log
    assert "running on" not in server.log
    assert "Traceback" not in server.log


def test_a_signal_while_the_application_starts_ends_it(tmp_path: Path) -> None:
    source = PLAIN.replace(
        'say(message["type"], name)',
        'say(message["type"], name); await asyncio.sleep(1000)',
    )
    with Serve(tmp_path, "--loops", "2", "--port", "0", source=source, wait=None) as server:
        server.said("lifespan.startup loop-pool-0")
        server.tell()
        assert server.ended() == 0
    assert "running on" not in server.log


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("no_such_module:app", "cannot import 'no_such_module:app'"),
        ("served:nothing", "cannot import 'served:nothing'"),
        ("served", "cannot import 'served'"),
        ("served:PLAIN", "served:PLAIN is not an ASGI application: 5"),
    ],
)
def test_a_target_that_is_no_application(tmp_path: Path, target: str, said: str) -> None:
    with Serve(tmp_path, source="PLAIN = 5", target=target, wait=None) as server:
        assert server.ended() == 3
    assert f"loop-pool: {said}" in server.log
    assert "Traceback" not in server.log


def test_a_factory_that_is_a_coroutine_function_is_told_so(tmp_path: Path) -> None:
    source = "async def make():\n    pass"
    with Serve(tmp_path, "--factory", source=source, target="served:make", wait=None) as server:
        assert server.ended() == 3
    assert "loop-pool: what the factory returned is a coroutine" in server.log
    assert "never awaited" not in server.log
