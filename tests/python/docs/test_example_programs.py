"""The short examples, started as a user starts them; each says so if it goes wrong."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support import HANG, ORACLE_ONLY, listen, receive, reset, run_python
from .support import EXAMPLES

pytestmark = pytest.mark.skipif(ORACLE_ONLY, reason="the examples need the package")

NEEDS = {
    "quickstart": [],
    "chat": ["websockets", "aiologic", "culsans"],
    "crawler": [],
    "proxy": [],
    "mixed_cpu": [],
}


def need(name: str) -> Path:
    """Gives the path of an example; leaves the test out if what it needs is not installed."""
    for package in NEEDS[name]:
        pytest.importorskip(package)
    return EXAMPLES / f"{name}.py"


def run(name: str, *options: object, instead: str = "") -> subprocess.CompletedProcess[str]:
    """Runs an example to its end; `instead` is code that runs before its `main()`."""
    command = [str(need(name)), *map(str, options)]
    if instead:
        code = f"import sys, {name}\nsys.argv[0] = {name!r}\n{instead}\nsys.exit({name}.main())"
        command = ["-c", f"import sys; sys.path.insert(0, {str(EXAMPLES)!r})\n{code}", *command[1:]]
    return run_python("-W", "error", *command)


def printed(name: str, *options: object) -> str:
    """Runs an example that must end well and quietly; gives what it prints."""
    done = run(name, *options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def numbers(pattern: str, text: str) -> list[tuple[int, ...]]:
    """Gives the numbers in each line that matches."""
    return [tuple(map(int, found)) for found in re.findall(f"^{pattern}$", text, re.MULTILINE)]


def test_quickstart_serves_and_asks() -> None:
    said = printed("quickstart", "--loops", 2, "--clients", 30)
    rows = numbers(r"loop (\d): (\d+) connections served, (\d+) clients run", said)
    assert [loop for loop, _, _ in rows] == [0, 1]
    assert sum(served for _, served, _ in rows) == 30
    assert sum(asked for _, _, asked in rows) == 30
    assert said.endswith("30 of 30 answers were right\n")


def test_quickstart_finds_a_wrong_answer() -> None:
    wrong = """
async def serve(reader, writer):
    await reader.readline()
    writer.write(b"3 0\\n")
    writer.close()
quickstart.serve = serve
"""
    done = run("quickstart", "--clients", 5, instead=wrong)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.endswith("1 of 5 answers were right\n")


def test_chat_reaches_the_clients_of_all_loops_in_one_order() -> None:
    said = printed("chat", "--loops", 3, "--clients", 12, "--rooms", 2, "--messages", 5)
    rows = numbers(r"loop (\d): (\d+) connections served", said)
    assert [loop for loop, _ in rows] == [0, 1, 2]
    assert sum(served for _, served in rows) == 12
    assert "360 messages heard, each within " in said  # in each room, of 6, by 6, 5 times
    assert said.endswith("2 of 2 rooms heard everything, and in one order\n")


def test_chat_finds_that_rooms_differ() -> None:
    wrong = """
visit = chat.visit
async def differ(url, name, *rest):
    heard, count, wait = await visit(url, name, *rest)
    return (heard + "!" if name == "client 3" else heard), count, wait
chat.visit = differ
"""
    done = run("chat", "--clients", 4, "--rooms", 2, "--messages", 2, instead=wrong)
    assert (done.returncode, done.stderr) == (1, "")
    assert "1 of 2 rooms heard everything" in done.stdout


def test_crawler_fetches_each_page_once_within_its_limit() -> None:
    said = printed("crawler", "--loops", 3, "--pages", 120, "--limit", 7)
    rows = numbers(r"loop (\d): (\d+) pages fetched and parsed", said)
    assert [loop for loop, _ in rows] == [0, 1, 2]
    assert sum(pages for _, pages in rows) == 120
    found = re.search(r"^120 pages in [\d.]+ s, at most (\d+) at a time$", said, re.MULTILINE)
    assert found
    assert 1 < int(found[1]) <= 7


def test_crawler_finds_that_the_limit_is_exceeded() -> None:
    wrong = """
init = crawler.Crawler.__init__
crawler.Crawler.__init__ = lambda self, port, limit: init(self, port, 4 * limit)
"""
    done = run("crawler", "--pages", 60, "--limit", 2, instead=wrong)
    assert done.returncode == 1
    assert re.fullmatch(r"FAILED: [3-8] requests were under way at a time\n", done.stderr)


SHORT = ("--loops", 2, "--connections", 2, "--size", 16)


def test_proxy_passes_on_every_byte_and_holds_few() -> None:
    said = printed("proxy", *SHORT)
    rows = numbers(r"loop (\d): (\d+) connections, (\d+) MiB passed on", said)
    assert [loop for loop, _, _ in rows] == [0, 1]
    assert sum(connections for _, connections, _ in rows) == 2
    assert sum(passed for _, _, passed in rows) == 2 * 2 * 16
    assert said.endswith("2 of 2 connections got back every byte, and then the end\n")


def test_proxy_finds_wrong_bytes() -> None:
    wrong = """
async def echo(reader, writer):
    while data := await reader.read(1 << 16):
        writer.write(bytes(len(data)))
        await writer.drain()
    writer.close()
proxy.echo = echo
"""
    done = run("proxy", *SHORT, instead=wrong)
    assert done.returncode == 1
    assert "0 of 2 connections got back every byte" in done.stdout


def test_proxy_finds_that_it_holds_too_much() -> None:
    wrong = """
async def pass_on(self, reader, writer):
    while data := await reader.read(1 << 16):
        writer.write(data)
        self.most_held = max(self.most_held, writer.transport.get_write_buffer_size())
    writer.write_eof()
proxy.Proxy.pass_on = pass_on
async def stall(self):
    while self.left:  # It takes all, however long that takes.
        await proxy.asyncio.sleep(0.01)
    return 0
proxy.Sender.stall = stall
"""
    done = run("proxy", "--loops", 2, "--connections", 1, "--size", 64, instead=wrong)
    assert done.returncode == 1, done.stdout
    assert done.stderr == "FAILED: the proxy did not stop reading\n"


@contextlib.contextmanager
def serving(name: str, said: str, *options: object) -> Iterator[tuple[int, list[str]]]:
    """Runs an example that serves until Ctrl-C; gives its port, and in the end what it complained.

    `said` is what it prints when it listens, with a group for the port.
    """
    errors: list[str] = []
    with subprocess.Popen(
        [sys.executable, str(need(name)), "--loops", "2", *map(str, options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.fullmatch(said, line)
            assert found, line or process.communicate(timeout=HANG)
            yield int(found[1]), errors
            process.send_signal(signal.SIGINT)
            _, complaint = process.communicate(timeout=HANG)
        finally:
            process.kill()
    errors += complaint.splitlines()
    assert process.returncode == 130, complaint
    assert errors[-1] == "interrupted"


PROXY_SAYS = r"127\.0\.0\.1 port (\d+) -> 127\.0\.0\.1 port \d+\n"


def test_proxy_keeps_the_other_way_open_after_one_has_ended() -> None:
    with listen() as target:
        port = target.getsockname()[1]
        with serving("proxy", PROXY_SAYS, "--target", f"127.0.0.1:{port}") as (proxy, errors):
            with socket.create_connection(("127.0.0.1", proxy), HANG) as client:
                far, _ = target.accept()
                with far:
                    far.settimeout(HANG)
                    client.sendall(b"question")
                    client.shutdown(socket.SHUT_WR)
                    assert receive(far) == b"question"  # and the end
                    far.sendall(b"answer")
                assert receive(client) == b"answer"
    assert errors == ["interrupted"]


def test_proxy_goes_on_when_a_client_or_the_target_is_gone() -> None:
    with listen() as target:
        port = target.getsockname()[1]
        with serving("proxy", PROXY_SAYS, "--target", f"127.0.0.1:{port}") as (proxy, errors):
            client = socket.create_connection(("127.0.0.1", proxy), HANG)
            far, _ = target.accept()
            with far:
                far.settimeout(HANG)
                reset(client)
                with contextlib.suppress(ConnectionResetError):
                    assert far.recv(1) == b""
            target.close()
            with socket.create_connection(("127.0.0.1", proxy), HANG) as client:
                with contextlib.suppress(ConnectionResetError):
                    assert client.recv(1) == b""
    assert len(errors) == 2, errors
    assert errors[0].startswith(f"127.0.0.1 port {port}: ")


def test_chat_serves_until_ctrl_c() -> None:
    pytest.importorskip("websockets")
    from websockets.sync.client import connect

    says = r"ws://127\.0\.0\.1:(\d+)/ROOM\n"
    with serving("chat", says, "--serve") as (port, errors):
        with (
            connect(f"ws://127.0.0.1:{port}/tea") as one,
            connect(f"ws://127.0.0.1:{port}/tea") as other,
            connect(f"ws://127.0.0.1:{port}/milk") as third,
        ):
            assert [each.recv(HANG) for each in (one, other, third)] == ["welcome"] * 3
            one.send("hello")
            assert (one.recv(HANG), other.recv(HANG)) == ("hello", "hello")
            third.send("alone")
            assert third.recv(HANG) == "alone"
    assert errors == ["interrupted"]


def test_mixed_cpu_measures_both_servers() -> None:
    said = printed("mixed_cpu", "--loops", 2, "--seconds", 0.3, "--heavy-ms", 20)
    row = r"^(asyncio|2 loops) +(light|heavy) +(\d+) +([\d.]+) +([\d.]+) +([\d.]+)$"
    rows = {found[:2]: found[2:] for found in re.findall(row, said, re.MULTILINE)}
    assert len(rows) == 4, said
    for (server, kind), (count, *times) in rows.items():
        if kind == "light":  # four clients, every 10 ms
            assert 1 <= int(count) <= 124, server
        else:
            assert int(count) >= 1, server
            assert float(times[0]) >= 20, server
        assert sorted(map(float, times)) == [float(time) for time in times], said


def test_mixed_cpu_finds_that_a_request_is_not_answered() -> None:
    done = run("mixed_cpu", "--seconds", 0.3, instead="mixed_cpu.PROGRAM = '/dev/null/none'")
    assert done.returncode == 1
    assert "FAILED: the clients ended with exit code 2\n" in done.stderr


@pytest.mark.parametrize("name", NEEDS)
def test_help_is_given_and_a_bad_option_named(name: str) -> None:
    done = run(name, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: {name}.py")
    done = run(name, "--loops", "0")
    assert done.returncode == 2
    assert re.search(r"--loops: must be from [12] to 256, not 0", done.stderr)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("options", [("chat", "--serve"), ("proxy", "--target", "127.0.0.1:1")])
def test_a_port_that_is_taken_is_named(options: tuple[str, ...]) -> None:
    with listen() as taken:
        port = taken.getsockname()[1]
        done = run(*options, "--port", port)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"error: cannot listen on 127.0.0.1 port {port}: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("text", ["localhost", ":80", "localhost:port", "localhost:0"])
def test_a_target_that_is_no_address_is_named(text: str) -> None:
    done = run("proxy", "--target", text)
    assert done.returncode == 2
    assert "--target: " in done.stderr
    assert "Traceback" not in done.stderr


def test_every_example_is_in_the_readme() -> None:
    rows = (EXAMPLES / "README.md").read_text()
    missing = [path.name for path in EXAMPLES.glob("*.py") if f"| `{path.name}` |" not in rows]
    assert not missing
