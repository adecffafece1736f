"""`tools/interpreter.py` and `tools/assemble.py`: the search for an interpreter, and making one.

Nothing is fetched. The executable that is patched is a made-up ELF file, and once a real one that
the C compiler makes.
"""

import ast
import fcntl
import json
import platform
import runpy
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from .support import TOOLS, load

packages, assemble, interpreter = load("packages", "assemble", "interpreter")

T314 = assemble.Version("3.14", True)
GIL314 = assemble.Version("3.14", False)


# --- the executable -------------------------------------------------------------------------------

CODE_ADDRESS = 0x401000
CODE_OFFSET = 0x200
CODE_SIZE = 0x100


def made_up_elf(**symbols: tuple[int, int]) -> bytes:
    """A 64-bit ELF file with one segment of code and the dynamic `symbols` (address, size)."""
    names, table = b"\0", bytes(24)
    for name, (address, size) in symbols.items():
        table += struct.pack("<IBBHQQ", len(names), 0x12, 0, 1, address, size)
        names += name.encode() + b"\0"
    table_at, names_at = 0x400, 0x400 + len(table)
    sections_at = names_at + len(names)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, sections_at, 0, 64, 56, 2, 64, 3, 0)
    data = struct.pack("<IIQQQQQQ", 1, 4, 0, 0x400000, 0, 64, 64, 0x1000)
    code = struct.pack("<IIQQQQQQ", 1, 5, CODE_OFFSET, CODE_ADDRESS, 0, CODE_SIZE, CODE_SIZE, 1)
    image = (header + data + code).ljust(CODE_OFFSET, b"\0")
    image = (image + b"\x90" * CODE_SIZE).ljust(table_at, b"\0") + table + names
    sections = bytes(64)
    sections += struct.pack("<IIQQQQIIQQ", 0, 11, 0, 0, table_at, len(table), 2, 0, 8, 24)
    sections += struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, names_at, len(names), 0, 0, 1, 0)
    return image + sections


def test_dynamic_symbols_are_read() -> None:
    image = made_up_elf(main=(CODE_ADDRESS, 16), Py_BytesMain=(CODE_ADDRESS + 64, 8))
    symbols = assemble.dynamic_symbols(image)
    assert symbols[b"main"] == (CODE_ADDRESS, 16)
    assert symbols[b"Py_BytesMain"] == (CODE_ADDRESS + 64, 8)


@pytest.mark.parametrize(("main", "python"), [(0x10, 0x80), (0x80, 0x10)])
def test_main_becomes_a_jump_to_python(main: int, python: int) -> None:
    image = made_up_elf(main=(CODE_ADDRESS + main, 16), Py_BytesMain=(CODE_ADDRESS + python, 8))
    patched = assemble.jump_to_python(image)
    start = CODE_OFFSET + main
    opcode, distance = struct.unpack_from("<Bi", patched, start)
    assert opcode == 0xE9
    assert main + 5 + distance == python
    assert patched[:start] == image[:start]
    assert patched[start + 5 :] == image[start + 5 :]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"MZ" + bytes(100), "not a 64-bit little-endian ELF"),
        (made_up_elf(main=(CODE_ADDRESS, 16)), "does not export b'Py_BytesMain'"),
        (made_up_elf(main=(CODE_ADDRESS, 4), Py_BytesMain=(CODE_ADDRESS, 8)), "too short"),
        (made_up_elf(main=(0x400010, 16), Py_BytesMain=(CODE_ADDRESS, 8)), "no code at 0x400010"),
    ],
)
def test_a_base_that_is_not_as_expected_is_refused(image: bytes, message: str) -> None:
    with pytest.raises(packages.SetupError, match=message):
        assemble.jump_to_python(image)


@pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"),
    reason="interpreters are assembled on Linux x86-64 only",
)
def test_a_patched_program_runs_the_other_main(tmp_path: Path) -> None:
    program = tmp_path / "program"
    source = (
        "int main(int c, char **v) { return 1; } int Py_BytesMain(int c, char **v) { return c; }"
    )
    subprocess.run(
        ["cc", "-no-pie", "-rdynamic", "-x", "c", "-", "-o", program],
        input=source.encode(),
        check=True,
    )
    assert subprocess.run([program, "2", "3", "4"], check=False).returncode == 1
    program.write_bytes(assemble.jump_to_python(program.read_bytes()))
    assert subprocess.run([program, "2", "3", "4"], check=False).returncode == 4


# --- sysconfig and the layout ---------------------------------------------------------------------

DEBIAN_VARIABLES = {
    "ABIFLAGS": "",
    "BINDIR": "/usr/bin",
    "CC": "x86_64-linux-gnu-gcc",
    "EXT_SUFFIX": ".cpython-314-x86_64-linux-gnu.so",
    "LIBDIR": "/usr/lib/x86_64-linux-gnu",
    "Py_ENABLE_SHARED": 1,
    "Py_GIL_DISABLED": 0,
    "SOABI": "cpython-314-x86_64-linux-gnu",
    "TZPATH": "/usr/share/zoneinfo",
    "prefix": "/usr",
}


def made_up_debian(root: Path) -> Path:
    """The folder of Debian's standard library, in small, as its packages unpack below `root`."""
    library = root / "usr/lib/python3.14"
    (library / "asyncio/__pycache__").mkdir(parents=True)
    (library / "lib-dynload").mkdir()
    (library / "os.py").write_text("", encoding="utf-8")
    (library / "asyncio/__init__.py").write_text("", encoding="utf-8")
    (library / "lib-dynload/_ssl.so").write_text("Debian's", encoding="utf-8")
    (library / "EXTERNALLY-MANAGED").write_text("", encoding="utf-8")
    (library / "sitecustomize.py").symlink_to("/etc/python3.14/sitecustomize.py")
    (library / "build-details..x86_64-linux-gnu.json").write_text("{}", encoding="utf-8")
    (library / "_sysconfigdata__linux_x86_64-linux-gnu.py").write_text(
        f"# made by a build\nbuild_time_vars = {DEBIAN_VARIABLES!r}\n", encoding="utf-8"
    )
    (library / "_sysconfig_vars__linux_x86_64-linux-gnu.json").write_text(
        json.dumps({**DEBIAN_VARIABLES, "userbase": "/home/builder/.local"}), encoding="utf-8"
    )
    return library


@pytest.mark.parametrize(
    ("version", "flags", "tag", "gil_disabled"), [(T314, "t", "314t", 1), (GIL314, "", "314", 0)]
)
def test_sysconfig_tells_of_this_build(
    tmp_path: Path, version: tuple[str, bool], flags: str, tag: str, gil_disabled: int
) -> None:
    debian = made_up_debian(tmp_path)
    library, prefix = tmp_path / "library", Path("/the/prefix")
    library.mkdir()
    assemble.rewrite_sysconfig(debian, library, version, prefix)

    name = f"{flags}_linux_x86_64-linux-gnu"
    written = runpy.run_path(str(library / f"_sysconfigdata_{name}.py"))["build_time_vars"]
    resolved = json.loads((library / f"_sysconfig_vars_{name}.json").read_text(encoding="utf-8"))
    assert resolved.pop("userbase") == "/home/builder/.local"
    assert resolved == written
    assert written["Py_GIL_DISABLED"] == gil_disabled
    assert written["ABIFLAGS"] == written["ABI_THREAD"] == flags
    assert written["SOABI"] == f"cpython-{tag}-x86_64-linux-gnu"
    assert written["EXT_SUFFIX"] == f".cpython-{tag}-x86_64-linux-gnu.so"
    assert written["LDVERSION"] == f"3.14{flags}"
    assert written["Py_ENABLE_SHARED"] == 0
    assert written["prefix"] == "/the/prefix"
    assert written["LIBDEST"] == f"/the/prefix/lib/python3.14{flags}"
    # What does not depend on the build stays.
    assert written["TZPATH"] == "/usr/share/zoneinfo"
    assert written["CC"] == "x86_64-linux-gnu-gcc"


def test_the_layout_takes_the_library_from_debian_and_the_binaries_from_the_wheel(
    tmp_path: Path,
) -> None:
    made_up_debian(tmp_path / "debian")
    wheel, target = tmp_path / "wheel", tmp_path / "target"
    for part in ("freeze_core/lib", "freeze_core/bases", "freeze_core.libs"):
        (wheel / part).mkdir(parents=True)
    (wheel / "freeze_core/lib/_ssl.so").write_text("the wheel's", encoding="utf-8")
    (wheel / "freeze_core.libs/libssl.so").write_text("", encoding="utf-8")
    base = wheel / "freeze_core/bases/console-cpython-314t-x86_64-linux-gnu"
    base.write_bytes(made_up_elf(main=(CODE_ADDRESS, 16), Py_BytesMain=(CODE_ADDRESS + 64, 8)))

    assemble.lay_out(wheel, tmp_path / "debian", T314, target, Path("/the/prefix"))

    library = target / "lib/python3.14t"
    assert sorted(path.name for path in library.iterdir()) == [
        "_sysconfig_vars_t_linux_x86_64-linux-gnu.json",
        "_sysconfigdata_t_linux_x86_64-linux-gnu.py",
        "asyncio",
        "lib-dynload",
        "os.py",
    ]
    assert [path.name for path in (library / "asyncio").iterdir()] == ["__init__.py"]
    assert (library / "lib-dynload/_ssl.so").read_text(encoding="utf-8") == "the wheel's"
    # Where the modules' run path, $ORIGIN/../../freeze_core.libs, leads.
    assert (library / "lib-dynload/../../freeze_core.libs/libssl.so").is_file()
    executable = target / "bin/python3.14t"
    assert executable.stat().st_mode & 0o111 == 0o111
    assert executable.read_bytes()[CODE_OFFSET] == 0xE9


# --- the search -----------------------------------------------------------------------------------

WITH_TESTS = interpreter.Interpreter(Path("/with/tests"), has_tests=True)
WITHOUT_TESTS = interpreter.Interpreter(Path("/without/tests"), has_tests=False)


def fake_ways(monkeypatch: pytest.MonkeyPatch, *answers: object) -> list[int]:
    """Lets the ways to an interpreter give (or raise) `answers`; returns those that are tried."""
    tried: list[int] = []

    def way(index: int, answer: object) -> object:
        def find(_version: object, _cache: Path) -> object:
            tried.append(index)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return find

    ways = [(f"way {index}", way(index, answer)) for index, answer in enumerate(answers)]
    monkeypatch.setattr(interpreter, "WAYS", ways)
    return tried


def test_the_ways_are_tried_in_the_order_of_the_recipe() -> None:
    assert [find for _, find in interpreter.WAYS] == [
        interpreter.on_path,
        interpreter.known_to_uv,
        interpreter.downloaded_by_uv,
        interpreter.assembled,
    ]


def test_the_first_whole_interpreter_ends_the_search(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = fake_ways(monkeypatch, None, WITH_TESTS, WITHOUT_TESTS)
    assert interpreter.search(T314, tmp_path) == WITH_TESTS
    assert tried == [0, 1]
    assert "way 1: /with/tests" in capsys.readouterr().err


def test_an_interpreter_without_tests_is_taken_only_for_want_of_a_better(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_ways(monkeypatch, WITHOUT_TESTS, WITH_TESTS)
    assert interpreter.search(T314, tmp_path) == WITH_TESTS
    fake_ways(monkeypatch, WITHOUT_TESTS, None, packages.DownloadError("no network"))
    assert interpreter.search(T314, tmp_path) == WITHOUT_TESTS


def test_a_way_that_fails_ends_the_search(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tried = fake_ways(monkeypatch, None, packages.DownloadError("no network"), WITH_TESTS)
    with pytest.raises(packages.SetupError, match="no network"):
        interpreter.search(T314, tmp_path)
    assert tried == [0, 1]


def test_no_interpreter_is_an_error_that_says_why_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_ways(monkeypatch, None, packages.DownloadError("the reason"))
    with pytest.raises(
        packages.SetupError, match=r"(?s)No Python 3\.14t.*the reason.*install a Python"
    ):
        interpreter.search(T314, tmp_path)


def command(folder: Path, script: str) -> Path:
    """An executable that runs `script`."""
    path = folder / "python3.14t"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def test_the_interpreter_of_last_time_is_taken_without_a_search(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = command(tmp_path, f"echo with tests; echo {tmp_path}/python3.14t")
    tried = fake_ways(monkeypatch, interpreter.Interpreter(path, has_tests=True))
    assert interpreter.find_or_make(T314, tmp_path / "cache") == path
    assert interpreter.find_or_make(T314, tmp_path / "cache") == path
    assert tried == [0]
    path.unlink()
    interpreter.find_or_make(T314, tmp_path / "cache")
    assert tried == [0, 0]


def test_a_renewed_pin_makes_a_new_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = interpreter.cache_key(T314)
    pins = {**assemble.FREEZE_CORE, T314: assemble.Pin("99.0", "")}
    monkeypatch.setattr(interpreter, "FREEZE_CORE", pins)
    assert interpreter.cache_key(T314) != before


def test_an_interpreter_is_checked_by_running_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = command(tmp_path, "echo with tests; echo /real/path")
    assert interpreter.checked(good, T314) == (Path("/real/path"), True)
    bad = command(tmp_path, "echo Traceback >&2; echo 'AssertionError: other build' >&2; exit 1")
    assert interpreter.checked(bad, T314) is None
    assert "AssertionError: other build" in capsys.readouterr().err
    assert interpreter.checked(tmp_path / "absent", T314) is None
    assert "does not run" in capsys.readouterr().err


def test_the_interpreter_of_an_environment_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert sys.prefix != sys.base_prefix, "the tests run in an environment"
    version = assemble.Version(f"3.{sys.version_info.minor}", not sys._is_gil_enabled())
    assert interpreter.checked(sys.executable, version) is None
    assert "a virtual environment" in capsys.readouterr().err


def test_the_path_is_searched_for_the_exact_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command(tmp_path, "echo without tests; echo /real/path")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert interpreter.on_path(T314, tmp_path) == (Path("/real/path"), False)
    assert interpreter.on_path(GIL314, tmp_path) is None


def test_nothing_is_assembled_on_another_kind_of_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert interpreter.assembled(T314, tmp_path) is None


def test_an_assembled_interpreter_is_moved_to_its_place_and_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fake_assemble(_version: object, _cache: Path, target: Path, prefix: Path) -> None:
        assert target != prefix
        (target / "bin").mkdir(parents=True)
        command(target / "bin", f"echo with tests; echo {prefix}/bin/python3.14t")

    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(interpreter, "assemble", fake_assemble)
    folder = tmp_path / "interpreters"
    folder.mkdir()
    prefix = folder / interpreter.cache_key(T314)
    assert interpreter.assembled(T314, tmp_path) == (prefix / "bin/python3.14t", True)
    assert list(folder.iterdir()) == [prefix]


def test_the_cache_is_where_the_xdg_specification_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for configured in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", configured)
        assert interpreter.cache_folder() == tmp_path / ".cache/loop_pool"
    monkeypatch.setenv("XDG_CACHE_HOME", "/absolute")
    assert interpreter.cache_folder() == Path("/absolute/loop_pool")


def test_the_lock_keeps_others_out_until_it_is_released(tmp_path: Path) -> None:
    lock = tmp_path / "new folder/lock"
    with interpreter.locked(lock), lock.open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    with lock.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


# --- the command line -----------------------------------------------------------------------------


def test_the_path_is_the_last_line_of_stdout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fake_ways(monkeypatch, WITH_TESTS)
    assert interpreter.main(["3.14t"]) == 0
    assert capsys.readouterr().out == "/with/tests\n"


def test_a_failure_is_one_message_and_status_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fake_ways(monkeypatch, None)
    assert interpreter.main(["3.14t"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "error: No Python 3.14t could be found or made" in said.err


def test_an_unknown_version_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        interpreter.main(["2.7"])
    assert exit_.value.code == 2
    assert "3.14t" in capsys.readouterr().err


def test_the_scripts_run_on_the_oldest_python_that_is_promised() -> None:
    """Syntax only: a machine's own python3 may be 3.9."""
    for script in TOOLS.glob("*.py"):
        ast.parse(script.read_text(encoding="utf-8"), feature_version=(3, 9))
