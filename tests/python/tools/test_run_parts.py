"""`tools/run_parts.py`: what runs beside what, what is printed, and what a failure stops.

`make` is a shell script here, which is given the name of a part.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ..support import HANG
from .support import TOOLS

SCRIPT = TOOLS / "run_parts.py"


def command(folder: Path, script: str, *parts: str) -> list[str]:
    """The command that runs `parts`, each as `script` with the part's name as `$1`."""
    make = folder / "make.sh"
    make.write_text(script, encoding="utf-8")
    return [sys.executable, str(SCRIPT), "--make", f"sh {make}", *parts]


def run(folder: Path, script: str, *parts: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, script, *parts),
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        timeout=HANG,
        check=False,
    )


def test_a_part_begins_when_those_before_it_have_ended(tmp_path: Path) -> None:
    # The first ends when the third lets it, which would begin behind the second.
    os.mkfifo(tmp_path / "go")
    script = """
        case $1 in
            one) read line <go;;
            three) echo >go;;
        esac
        echo $1 >>log
    """
    done = run(tmp_path, script, "one", "two:one", "three", "four:one,two,three")
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "log").read_text().splitlines()
    assert log.index("one") < log.index("two")
    assert log[3:] == ["four"]


def test_parts_run_side_by_side_and_what_each_prints_stays_together(tmp_path: Path) -> None:
    # Each opens the pipe for the other: neither ends without the other beside it.
    os.mkfifo(tmp_path / "there")
    os.mkfifo(tmp_path / "back")
    script = """
        echo $1 begins
        if [ $1 = one ]; then echo >there; read line <back; else read line <there; echo >back; fi
        echo $1 ends
    """
    done = run(tmp_path, script, "one", "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("one begins\none ends\ntwo begins\ntwo ends\n")


def test_each_time_is_told_in_the_end(tmp_path: Path) -> None:
    done = run(tmp_path, "true", "one", "two:one")
    assert re.search(r"\d:\d\d  one\n +\d:\d\d  two\n +\d:\d\d  in all\n", done.stdout), done.stdout


def test_the_notes_of_a_part_stand_below_its_time(tmp_path: Path) -> None:
    script = """
        [ $1 = one ] && echo "1.0 s  kitchen" >$RUN_PARTS_NOTES
        true
    """
    done = run(tmp_path, script, "one", "two")
    assert re.search(r"  one\n +1\.0 s  kitchen\n +\d:\d\d  two\n", done.stdout), done.stdout


def test_after_a_failure_no_part_begins_and_those_that_run_go_on(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "failing")
    script = """
        case $1 in
            bad) echo >failing; exit 3;;
            long) read line <failing; echo all of it;;
            *) echo $1 should not run;;
        esac
    """
    done = run(tmp_path, script, "bad", "long", "next:bad", "last:long")
    assert done.returncode == 1
    assert "all of it\n" in done.stdout
    assert re.search(r"bad  FAILED \(3\)\n", done.stdout), done.stdout
    assert "should not run" not in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interrupt_ends_all_parts(tmp_path: Path, number: signal.Signals) -> None:
    os.mkfifo(tmp_path / "alive")
    # A pipe that is read to its end tells that nobody has it open for writing any more.
    script = "exec sleep 1000 >alive"
    process = subprocess.Popen(command(tmp_path, script, "one", "two"), cwd=tmp_path)
    try:
        with (tmp_path / "alive").open("rb") as alive:
            process.send_signal(number)
            assert process.wait(HANG) == 130
            assert alive.read() == b""
    finally:
        process.kill()
        process.wait()


def test_a_part_waits_for_none_that_is_not_before_it(tmp_path: Path) -> None:
    done = run(tmp_path, "true", "one:two", "two")
    assert done.returncode == 2
    assert "one waits for two, not named before it" in done.stderr
