"""What `docs/deploy.md` tells people to deploy with does what the document says."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import signal
import socket
import subprocess
import threading
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import pytest

from ..services import free_port, haproxy
from ..support import HANG, wait_for
from .deploy import (
    CONTAINERFILE,
    DEPLOY,
    ROOT,
    SERVING,
    Traffic,
    block,
    blocks,
    commands,
    parsed,
    replaced,
)
from .kinds import on_each_kind
from .support import RUNNING, Client, Serve, get

pytestmark = [
    pytest.mark.usefixtures("clean_process"),
    pytest.mark.skipif(find_spec("uvicorn") is None, reason="uvicorn is not there"),
]

APPLICATION = """
    import asyncio, os, pathlib, sys

    GO = pathlib.Path(__file__).with_name("go")

    async def app(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        if scope["path"] == "/wait":
            sys.stdout.write(f"waiting {scope['method']}\\n")  # in one piece: two loops do it
            sys.stdout.flush()
            while not GO.exists():
                await asyncio.sleep(0.01)
        body = f"{os.getpid()} {scope['path']}".encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
"""
"""Says which process answered what. At `/wait` it does so when the file `go` is there."""

ALWAYS = ("--loops", "2", "--no-access-log", "--lifespan", "off")


def connections_to(port: int) -> int:
    """How many connections stand to a port of this machine."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[3] == "01" and int(row[2].split(":")[1], 16) == port for row in rows)


class Pair:
    """HAProxy as in the document in front of two servers as in the document. A context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ports = [free_port(), free_port()]
        self.port = free_port()
        # Ten times shorter, as are the servers' times.
        self._configuration = replaced(
            block(DEPLOY, "haproxy"),
            {
                "bind :8080": f"bind 127.0.0.1:{self.port}",
                "127.0.0.1:8001": f"127.0.0.1:{self.ports[0]}",
                "127.0.0.1:8002": f"127.0.0.1:{self.ports[1]}",
                "inter 500ms": "inter 50ms",
                "fastinter 100ms": "fastinter 10ms",
            },
        )

    def __enter__(self) -> Pair:
        with ExitStack() as stack:
            self._stack = stack
            self.servers = [self.start(index) for index in range(2)]
            for server in self.servers:
                server.said(RUNNING)
            stack.enter_context(haproxy(self._configuration, self.port))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def start(self, index: int) -> Serve:
        """Begin to start a server on its port."""
        command = replaced(
            block(DEPLOY, "", "loop-pool serve app:app --port 8001 --readiness-path /ready --s"),
            {
                "--port 8001": f"--port {self.ports[index]}",
                "--shutdown-delay 3": "--shutdown-delay 0.3",
                "--timeout-drain 5": "--timeout-drain 0.5",
            },
        )
        ((_, *options),) = commands(command)
        server = Serve(self._folder, *options, *ALWAYS, source=APPLICATION, wait=None)
        return self._stack.enter_context(server)


@on_each_kind
def test_a_graceful_restart_behind_haproxy_loses_nothing(tmp_path: Path) -> None:
    with Pair(tmp_path) as pair:
        first, second = pair.servers
        with Traffic(pair.port, 8) as traffic:

            def answered(server: Serve, count: int) -> None:
                pid = server.process.pid
                enough = traffic.answers[pid] + count
                wait_for(lambda: traffic.answers[pid] >= enough, "requests are answered")

            answered(first, 300)
            answered(second, 300)
            first.tell()
            assert first.ended() == 0
            answered(second, 300)
            again = pair.start(0)
            answered(again, 300)
            answered(second, 300)
        assert traffic.failures == []
        assert set(traffic.answers) == {it.process.pid for it in (first, second, again)}
        assert sum(traffic.answers.values()) > 1500
        for server in (first, second, again):
            assert "ERROR" not in server.log


@on_each_kind
def test_when_a_server_is_killed_only_what_was_under_way_there_may_fail(tmp_path: Path) -> None:
    statuses: dict[str, list[tuple[int, str]]] = {"GET": [], "POST": []}

    def wait(client: Client, method: str) -> None:
        client.sock.sendall(
            f"{method} /wait HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".encode()
        )
        status, _, text = client.answer()
        statuses[method].append((status, text))

    with Pair(tmp_path) as pair, ExitStack() as stack:
        victim, survivor = pair.servers
        threads: list[threading.Thread] = []
        while not {"waiting GET", "waiting POST"} <= set(victim.log.splitlines()):
            for method in ("GET", "GET", "POST", "POST"):  # they take turns
                client = stack.enter_context(Client(pair.port))
                threads.append(threading.Thread(target=wait, args=(client, method)))
                threads[-1].start()
                wait_for(
                    lambda: (victim.log + survivor.log).count("waiting") == len(threads),
                    "it is under way",
                )
        lost = victim.log.count("waiting POST")
        with Traffic(pair.port, 8) as traffic:
            pids = [server.process.pid for server in pair.servers]
            wait_for(lambda: min(traffic.answers[pid] for pid in pids) > 200, "both answer")
            held = connections_to(pair.ports[0])
            victim.tell(signal.SIGKILL)
            victim.ended()
            enough = traffic.answers[survivor.process.pid] + 500
            wait_for(lambda: traffic.answers[survivor.process.pid] > enough, "the other answers")
        (tmp_path / "go").touch()
        for thread in threads:
            thread.join(HANG)
            assert not thread.is_alive()
        answer = (200, f"{survivor.process.pid} /wait")
        assert statuses["GET"] == [answer] * (len(threads) // 2)
        posts = statuses["POST"]
        assert posts.count(answer) == len(threads) // 2 - lost
        assert [status for status, _ in posts if status != 200] == [502] * lost
        # Of the traffic, too; at most one for each connection that HAProxy had to the server: one
        # that it keeps may be used once more before it is seen to be dead. Each client may have had
        # one opened after they were counted.
        assert [it for it in traffic.failures if it.method == "GET"] == []
        assert len(traffic.failures) <= held + 8


@on_each_kind
@pytest.mark.parametrize("keep", [False, True], ids=["a connection each", "kept connections"])
@pytest.mark.parametrize("restarts", [2, pytest.param(10, marks=pytest.mark.stress)])
def test_a_restart_with_a_passed_socket_loses_nothing(
    tmp_path: Path, restarts: int, keep: bool
) -> None:
    """As with systemd's socket activation: somebody else has the listening socket."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as sock:
        fd, port = sock.fileno(), sock.getsockname()[1]
        options = ["--fd", str(fd), "--timeout-drain", "2", *ALWAYS]

        def start() -> Serve:
            return Serve(
                tmp_path, *options, source=APPLICATION, pass_fds=(fd,), wait="running on (socket)"
            )

        with Traffic(port, 4, keep=keep) as traffic:
            for _ in range(restarts):
                with start() as server:
                    pid = server.process.pid
                    wait_for(lambda pid=pid: traffic.answers[pid] > 200, "requests are answered")
                    server.stop()
            with start() as server:
                wait_for(
                    lambda pid=server.process.pid: traffic.answers[pid] > 300, "they are again"
                )
                traffic.stop()
                server.stop()
        assert traffic.failures == []
        assert len(traffic.answers) == restarts + 1


@on_each_kind
@pytest.mark.parametrize("changes", [1, pytest.param(5, marks=pytest.mark.stress)])
def test_a_reload_under_load_loses_nothing(tmp_path: Path, changes: int) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as sock:
        fd, port = sock.fileno(), sock.getsockname()[1]
        options = ["--fd", str(fd), "--reload", "--reload-dir", str(tmp_path), *ALWAYS]
        with (
            Serve(tmp_path, *options, source=APPLICATION, pass_fds=(fd,), wait=None) as server,
            Traffic(port, 4, keep=False) as traffic,
        ):

            def answering(count: int) -> bool:
                return len(traffic.answers) == count and min(traffic.answers.values()) > 100

            for change in range(changes):
                wait_for(lambda count=change + 1: answering(count), "requests are answered")
                with (tmp_path / "served.py").open("a") as file:
                    file.write("# a change\n")
            wait_for(lambda: answering(changes + 1), "they are again")
            traffic.stop()
            server.tell()
            assert server.ended() == 0
        assert traffic.failures == []


def test_what_waits_for_a_passed_socket_is_spread_over_the_loops(tmp_path: Path) -> None:
    """As it does while a server restarts; the loop that listens first must not take all."""
    with socket.create_server(("127.0.0.1", 0)) as sock, ExitStack() as stack:
        fd, port = sock.fileno(), sock.getsockname()[1]
        clients = [stack.enter_context(Client(port)) for _ in range(20)]
        for client in clients:
            client.ask()
        options = ["--fd", str(fd), "--loops", "2", "--timeout-drain", "0"]
        with Serve(tmp_path, *options, wait=None, pass_fds=(fd,)) as server:
            answers = [client.answer()[2] for client in clients]
            assert min(answers.count(f"loop-pool-{number}") for number in range(2)) >= 5
            server.stop()


# The documents and the command


@pytest.mark.skipif(find_spec("fastapi") is None, reason="fastapi is not there")
def test_the_first_application_of_the_guide_runs(tmp_path: Path) -> None:
    source = block(SERVING, "python", "import loop_pool\nfrom fastapi")
    with Serve(tmp_path, "--port", "0", "--loops", "2", source=source) as server:
        assert get(server.port) == (200, '{"loops":2}')
        server.stop()


def test_every_command_in_the_documents_is_one(tmp_path: Path) -> None:
    texts = [text for document in (DEPLOY, SERVING) for text in _all_blocks(document)]
    found = [arguments for text in texts for arguments in commands(text)]
    assert len(found) > 8
    for arguments in found:
        assert ":" in parsed(arguments)["app"]


def _all_blocks(document: Path) -> list[str]:
    return [text for language in ("", "ini") for text in blocks(document, language)]


def _unit(beginning: str) -> configparser.ConfigParser:
    # The later of two equal names counts, which is what systemd makes of an ExecStart set anew.
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    text = block(DEPLOY, "ini", beginning)
    parser.read_string(text.replace("\\\n", " "))
    return parser


def _options_of(unit: configparser.ConfigParser) -> dict[str, object]:
    (arguments,) = commands(unit["Service"]["ExecStart"])
    return parsed(arguments)


def test_the_service_unit_fits_the_command() -> None:
    unit = _unit("# app.service\n")
    service = unit["Service"]
    options = _options_of(unit)
    assert service["Type"] == "notify"
    assert service["KillSignal"] == "SIGTERM"
    graceful, delay = options["timeout_graceful_shutdown"], options["shutdown_delay"]
    assert isinstance(graceful, float)
    assert isinstance(delay, float)
    assert int(service["TimeoutStopSec"]) >= graceful + 10
    assert graceful > delay > 0


def test_the_socket_unit_fits_the_command() -> None:
    service, drop_in = _unit("# app.service\n"), _unit("# app.service.d/socket.conf\n")
    options = _options_of(drop_in)
    assert options["fd"] == 3  # SD_LISTEN_FDS_START
    before = _options_of(service)
    where = f"{before['host']}:{before['port']}"
    assert _unit("# app.socket\n")["Socket"]["ListenStream"] == where
    assert drop_in["Unit"]["Requires"] == "app.socket"
    graceful = options["timeout_graceful_shutdown"]
    assert isinstance(graceful, float)
    assert int(service["Service"]["TimeoutStopSec"]) >= graceful + 10


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not there")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    (tmp_path / "app.service.d").mkdir()
    for name in ("app.service", "app.socket", "app.service.d/socket.conf"):
        text = block(DEPLOY, "ini", f"# {name}\n")
        # It looks whether the program is there; whether that is ours is not the question.
        program = shutil.which("true") or ""
        (tmp_path / name).write_text(text.replace("/srv/app/venv/bin/loop-pool", program))
    done = subprocess.run(
        [
            "systemd-analyze",
            "verify",
            "--man=no",
            "--recursive-errors=no",
            "app.socket",
            "app.service",
        ],
        cwd=tmp_path,
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


# The container


def _instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", CONTAINERFILE.read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def test_the_container_file_copies_what_there_is() -> None:
    copied = []
    for name, arguments in _instructions():
        if name == "COPY" and "--from" not in arguments:
            *sources, _ = arguments.split()
            copied += sources
    assert {"src", "python", "Cargo.toml", "pyproject.toml"} <= set(copied)
    for path in copied:
        assert (ROOT / path).exists(), path
    # What the build reads of the checkout, by its own words.
    project = (ROOT / "pyproject.toml").read_text() + (ROOT / "Cargo.toml").read_text()
    named = re.findall(r'^(?:readme|build) = "(.+)"', project, re.MULTILINE)
    named += json.loads((re.search(r"^license-files = (.+)", project, re.MULTILINE) or [""])[1])
    assert set(named) <= set(copied)


def test_the_command_of_the_container_is_one_and_gets_the_signals() -> None:
    instructions = dict(_instructions())
    program, serve, *arguments = json.loads(instructions["CMD"])  # in exec form
    assert (Path(program).name, serve) == ("loop-pool", "serve")
    assert "ENTRYPOINT" not in instructions
    options = parsed(arguments)
    assert options["host"] == "0.0.0.0"
    assert int(instructions["EXPOSE"]) == options["port"]
    _, _, check = instructions["HEALTHCHECK"].partition("CMD ")
    assert f":{options['port']}{options['liveness_path']}'" in json.loads(check)[-1]
    application = CONTAINERFILE.with_name(f"{options['app'].partition(':')[0]}.py")
    there = f"{options['app_dir']}/{application.name}"
    assert ("COPY", f"{application.relative_to(ROOT)} {there}") in _instructions()


def test_the_pod_fits_the_command() -> None:
    text = block(DEPLOY, "yaml")
    found = re.search(r"args: \[(.+?)\]", text, re.DOTALL)
    assert found is not None
    program, serve, *arguments = (word.strip().strip('"') for word in found[1].split(","))
    assert (Path(program).name, serve) == ("loop-pool", "serve")
    options = parsed(arguments)
    probes = dict(re.findall(r"(\w+)Probe: \{httpGet: \{path: (\S+),", text))
    assert probes["readiness"] == probes["startup"] == options["readiness_path"]
    assert probes["liveness"] == options["liveness_path"]
    assert set(re.findall(r"(?:port|containerPort): (\d+)", text)) == {str(options["port"])}
    grace = re.search(r"terminationGracePeriodSeconds: (\d+)", text)
    assert grace is not None
    assert int(grace[1]) >= options["timeout_graceful_shutdown"] + 10
    seconds = re.search(r"timeoutSeconds: (\d+)", text)
    assert seconds is not None
    assert int(seconds[1]) > options["liveness_timeout"]
