"""The load tests run in short form, and give the right verdict on servers that are broken."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from ..support import HANG, ORACLE_ONLY, read_out, run_python, stream_sockets
from .support import EXAMPLES

pytestmark = pytest.mark.skipif(ORACLE_ONLY, reason="the examples need the package")

FOLDER = EXAMPLES / "load"
ANY_TIME = ("--limit-ms", "20000")
"""A limit for tests that do not ask how fast this machine is."""
SHORT: dict[str, tuple[object, ...]] = {
    "ramp": ("--connections", 20, "--steps", 2, "--rate", 20, "--seconds", 0.6, *ANY_TIME),
    "soak": ("--connections", 10, "--seconds", 1, "--lifetime", 5, "--allow-mib", 64, *ANY_TIME),
    "skew": ("--connections", 10, "--seconds", 0.8, *ANY_TIME),
    "stuck": ("--connections", 10, "--seconds", 0.8, *ANY_TIME),
    "slow_readers": ("--connections", 10, "--light", 5, "--seconds", 0.9, *ANY_TIME),
    "reconnect_storm": ("--connections", 20, "--seconds", 0.6, "--every", 0.2, *ANY_TIME),
}
NAMES = list(SHORT)


def command(name: str, plot: Path, options: tuple[object, ...], instead: str) -> list[str]:
    """Gives the command line of a test; `instead` is code that runs before its `main()`."""
    begin = [sys.executable, "-W", "error"]
    given = [*map(str, options), "--plot", str(plot)]
    if not instead:
        return [*begin, str(FOLDER / f"{name}.py"), *given]
    code = (
        f"import sys; sys.path.insert(0, {str(FOLDER)!r})\n"
        f"import asyncio, os, socket, time, {name}\n"
        f"program = {name}\n{textwrap.dedent(instead)}\nsys.exit(program.main())"
    )
    return [*begin, "-c", code, *given]


def run(
    name: str, plot: Path, *options: object, instead: str = "", short: bool = True
) -> subprocess.CompletedProcess[str]:
    """Runs a load test to its end, its server changed by `instead`."""
    every = ("--loops", 2, *(SHORT[name] if short else ()), *options)
    return subprocess.run(
        command(name, plot, every, instead),
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )


@pytest.fixture
def plot(tmp_path: Path) -> Path:
    return tmp_path / "plot.svg"


def assert_failed(done: subprocess.CompletedProcess[str], reason: str) -> None:
    """Asserts that the verdict is `failed`, and that a line says why."""
    assert (done.returncode, done.stderr) == (1, ""), done.stdout + done.stderr
    assert done.stdout.endswith("verdict: failed\n"), done.stdout
    assert re.search(reason, done.stdout), done.stdout


# Servers that are all right


@pytest.mark.parametrize("name", NAMES)
def test_passes_and_draws(name: str, plot: Path) -> None:
    done = run(name, plot)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert done.stdout.startswith(f"{name}: loop_pool "), done.stdout
    assert "pool of 2 loops" in done.stdout
    assert re.search(r"^ok +[1-9][\d,]* replies, every byte was right$", done.stdout, re.MULTILINE)
    assert done.stdout.endswith("verdict: passed\n")
    assert "FAILED" not in done.stdout
    assert "\r" not in done.stdout
    assert f"plot: {plot}\n" in done.stdout
    assert re.search(r"^  \S.*[▁▂▃▄▅▆▇█]", done.stdout, re.MULTILINE)
    root = ET.parse(plot).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert any(line.get("points") for line in lines)


@pytest.mark.parametrize("peer", ["asyncio", "uvloop"])
def test_peers_serve_on_threads_that_share_a_port(peer: str, plot: Path) -> None:
    if peer == "uvloop":
        pytest.importorskip("uvloop")
    done = run("reconnect_storm", plot, "--peer", peer)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert done.stdout.startswith(f"reconnect_storm: {peer}")
    assert "threads with 2 loops" in done.stdout


def test_connections_are_shared_among_client_processes(plot: Path) -> None:
    done = run("reconnect_storm", plot, "--processes", 3)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert "everybody came back from 3 of 3 storms" in done.stdout


def test_a_terminal_gets_one_line_that_is_redrawn(plot: Path) -> None:
    near, far = pty.openpty()
    with subprocess.Popen(command("ramp", plot, SHORT["ramp"], ""), stdout=far) as process:
        os.close(far)
        shown = b""
        try:
            while data := os.read(near, 65536):
                shown += data
        except OSError:
            pass  # the end, as Linux tells it
        finally:
            os.close(near)
        assert process.wait(HANG) == 0
    assert shown.count(b"\r\x1b[K20 connections") > 1
    assert b"\x1b" not in shown[shown.index(b"plot:") :]


# Servers that are broken

WRITER = """
class Writer:
    def __init__(self, writer):
        self.writer, self.count = writer, 0
    def __getattr__(self, name):
        return getattr(self.writer, name)
    def write(self, data):
        self.count += 1
        self.writer.write(CHANGED if self.count == 2 else data)
echo = program.echo
async def broken(reader, writer):
    await echo(reader, Writer(writer))
program.echo = broken
"""


@pytest.mark.parametrize("name", NAMES)
def test_finds_a_wrong_bit(name: str, plot: Path) -> None:
    wrong = WRITER.replace("self.count == 2", "self.count == 1").replace(
        "CHANGED", "data[:-1] + bytes([data[-1] ^ 1])"
    )
    done = run(name, plot, instead=wrong)
    assert_failed(done, r"connection \d+: request 0: byte 271 of 272 is 0x\w\w instead of 0x")


def test_finds_a_lost_byte(plot: Path) -> None:
    lost = WRITER.replace("CHANGED", "data[:-1]")
    done = run("ramp", plot, "--answer-seconds", 0.5, instead=lost)
    assert_failed(done, r"connection \d+: no answer within 0.5 s")


def test_finds_connections_that_are_closed_too_early(plot: Path) -> None:
    closing = """
    async def once(reader, writer):
        writer.write(await reader.readexactly(272))
    program.echo = once
    """
    done = run("soak", plot, instead=closing)
    assert_failed(done, r"connection \d+: closed by the server after 0 of 272 bytes")


def test_finds_an_error_on_the_side_of_the_server(plot: Path) -> None:
    raising = """
    echo, raised = program.echo, []
    async def broken(reader, writer):
        if not raised:
            raised.append(asyncio.get_running_loop().call_soon(lambda: 1 / 0))
        await echo(reader, writer)
    program.echo = broken
    """
    done = run("reconnect_storm", plot, instead=raising)
    assert_failed(done, r"FAILED  on the server's side: .*ZeroDivisionError")


def test_ramp_says_where_it_breaks(plot: Path) -> None:
    crowded = """
    served = []
    async def broken(reader, writer):
        served.append(writer)
        while True:
            data = await reader.readexactly(272)
            await asyncio.sleep(0.4 if len(served) > 10 else 0)
            writer.write(data)
    program.echo = broken
    """
    done = run("ramp", plot, "--limit-ms", 250, "--need", 20, instead=crowded)
    assert_failed(done, r"FAILED  held (0|10) connections .*, broke at .* \(needed: 20\)")
    assert "every byte was right" in done.stdout


@pytest.mark.parametrize(
    ("leak", "reason"),
    [
        ("kept.append(os.urandom(262_144))", "memory: slope .* MiB.*grows, confidence 9"),
        ("kept.append(socket.socket().detach())", "descriptors: slope .*grows, confidence 9"),
    ],
)
def test_soak_finds_what_leaks(leak: str, reason: str, plot: Path) -> None:
    leaking = WRITER.replace("self.writer.write(CHANGED if self.count == 2 else data)", leak)
    leaking = leaking.replace(leak, f"{leak}; self.writer.write(data)")
    done = run("soak", plot, "--allow-mib", 8, instead=f"kept = []\n{leaking}")
    assert_failed(done, reason)


def test_soak_finds_a_client_that_died(plot: Path) -> None:
    killing = """
    look = program.Readings.look
    def kill(self, elapsed):
        self._clients[0]._process.kill()
        return look(self, elapsed)
    program.Readings.look = kill
    """
    assert_failed(
        run("soak", plot, "--seconds", "1h", instead=killing), r"a client \(steady\) ended with -9"
    )


def test_skew_finds_that_light_clients_wait(plot: Path) -> None:
    holding = WRITER.replace(
        "self.writer.write(CHANGED if self.count == 2 else data)",
        "time.sleep(0.1 if len(data) > 50_000 else 0); self.writer.write(data)",
    )
    done = run("skew", plot, "--loops", 1, "--depth", 1, "--limit-ms", 20, instead=holding)
    assert_failed(done, r"FAILED  light clients beside the heavy one: p99 \d")


def test_stuck_finds_that_new_connections_wait(plot: Path) -> None:
    # The kernel spreads connections over the threads, stuck or not.
    done = run("stuck", plot, "--peer", "asyncio", "--limit-ms", 10, "--seconds", 1)
    assert_failed(done, r"FAILED  new connections: p99 \d")


def test_slow_readers_finds_that_memory_grows(plot: Path) -> None:
    careless = """
    async def careless(reader, writer):
        header, payload = await reader.readexactly(16), await reader.readexactly(4096)
        for sequence in range(4000):
            if writer.is_closing():
                return
            writer.write(header[:8] + sequence.to_bytes(8) + payload)
            await asyncio.sleep(0)
        await reader.read()
    program.stream = careless
    """
    done = run("slow_readers", plot, instead=careless)
    assert_failed(done, r"FAILED  memory grew by \d+\.\d MiB, \d+ KiB for each slow reader")


def test_reconnect_storm_finds_sockets_that_stay_open(plot: Path) -> None:
    keeping = """
    echo, kept = program.echo, []
    async def broken(reader, writer):
        kept.append(os.dup(writer.get_extra_info("socket").fileno()))
        await echo(reader, writer)
    program.echo = broken
    import _common
    _common.END_SECONDS = 0.1
    """
    done = run("reconnect_storm", plot, instead=keeping)
    assert_failed(done, r"FAILED  [1-9]\d* sockets left open")


# The command line


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ramp", ["--loops", "0"], "--loops: must be from 1 to 256, not 0"),
        ("ramp", ["--connections", "none"], "--connections: 'none' is not a whole number"),
        ("soak", ["--seconds", "4y"], "--seconds: '4y' is not a time such as 90, 30m or 4h"),
        ("soak", ["--seconds", "nan"], "--seconds: must be over 0 and at most 30d, not nan"),
        ("soak", ["--seconds", "31d"], "--seconds: must be over 0 and at most 30d, not 31d"),
        ("soak", ["--allow-mib", "0"], "--allow-mib: must be a number over 0, not 0"),
        ("skew", ["--peer", "trio"], "--peer: invalid choice: 'trio'"),
        ("stuck", ["--loops", "1"], "--loops: must be from 2 to 256, not 1"),
        ("stuck", ["--plot", "/nowhere/at/all.svg"], "there is no such folder"),
        ("stuck", ["--plot", "/"], "--plot /: is a folder"),
    ],
)
def test_names_a_bad_option(name: str, options: list[str], message: str) -> None:
    done = run_python(FOLDER / f"{name}.py", *options)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_ends_the_clients_too(plot: Path) -> None:
    # Standard error ends only when the clients, which have it too, have ended.
    near, far = stream_sockets("unix")
    options = ("--loops", 2, "--connections", 5, "--seconds", "1h")
    with subprocess.Popen(
        command("soak", plot, options, ""), stdout=subprocess.PIPE, stderr=far, text=True
    ) as process:
        far.close()
        try:
            assert process.stdout is not None
            assert any("replies" in line for line in process.stdout)
            process.send_signal(signal.SIGINT)
            with near:
                assert read_out(near) == b"interrupted\n"
            assert process.wait(HANG) == 130
        finally:
            process.kill()


# The parts


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Gives a function that imports a module of the load tests."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return __import__


def noise(number: int) -> float:
    """Gives the same values between -1 and 1 each time, without an order."""
    return (number * 7_919 % 101) / 50 - 1


def test_trend_of_a_line(part: Any) -> None:
    trend = part("_trend").find_trend([(n, 3 + 2 * n) for n in range(100)])
    assert trend.slope == pytest.approx(2)
    assert (trend.low, trend.high) == pytest.approx((2, 2))
    assert trend.confidence > 0.999


def test_trend_of_noise_is_no_growth(part: Any) -> None:
    trend = part("_trend").find_trend([(n, noise(n)) for n in range(500)])
    assert trend.low < 0 < trend.high
    assert 0.02 < trend.confidence < 0.98


def test_trend_in_noise_is_found_despite_outliers(part: Any) -> None:
    points = [(n, n / 100 + noise(n) + (500 if n % 97 == 0 else 0)) for n in range(500)]
    trend = part("_trend").find_trend(points)
    assert 0 < trend.low < 0.01 < trend.high
    assert trend.confidence > 0.999
    falling = part("_trend").find_trend([(x, -y) for x, y in points])
    assert falling.high < 0
    assert falling.confidence < 0.001


def test_trend_of_what_stays_or_is_too_short(part: Any) -> None:
    find_trend = part("_trend").find_trend
    still = find_trend([(n, 7.0) for n in range(50)])
    assert (still.slope, still.low, still.high, still.confidence) == (0, 0, 0, 0.5)
    assert find_trend([(n, n) for n in range(5)]) is None
    assert find_trend([]) is None


def test_plot_survives_what_it_is_given(part: Any) -> None:
    _plot = part("_plot")
    panels = [
        _plot.Panel("nothing <&>", [_plot.Series("a", [])]),
        _plot.Panel("one point", [_plot.Series("b", [(1.0, 0.0)])], logarithmic=True),
        _plot.Panel(
            "not a number", [_plot.Series("c", [(1.0, float("nan")), (2.0, 5.0)])], limit=9
        ),
        _plot.Panel("all equal", [_plot.Series("d", [(n, 3.0) for n in range(99)])]),
    ]
    root = ET.fromstring(_plot.draw(_plot.Plot("t", "x", panels, [(-5, 500, "s")]), "sub"))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "nothing <&>" in texts
    for element in root.iter():
        assert "nan" not in "".join(element.attrib.values())


def test_sparkline_shows_the_highest_of_each_block(part: Any) -> None:
    sparkline = part("_plot").sparkline
    assert sparkline([]) == ""
    assert sparkline([4.0, 4.0]) == "▁▁"
    assert sparkline([0, 7, 14]) == "▁▅█"
    assert sparkline([0.0] * 99 + [1.0], width=10) == "▁▁▁▁▁▁▁▁▁█"
