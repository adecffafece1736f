"""Makes a CPython out of packages, on Linux x86-64, where no ready one can be had.

In comes the version, out comes a folder with `bin/python3.14t` and `lib/python3.14t/`:

    PyPI's wheel freeze-core   the interpreter (statically linked), its extension modules and
                               their libraries
    Debian's libpython3.14-*   the standard library and CPython's own tests

The wheel's executable is a launcher of frozen programs: its `main` looks for an archive to run. It
exports `Py_BytesMain`, the `main` of an ordinary `python`, so `main` is made to jump there.
"""

from __future__ import annotations

import ast
import json
import pprint
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from packages import SetupError, Suite, configured_suites, fetch_debian, pip_command, pip_fetch, say

PLATFORM = "x86_64-linux-gnu"

# The suites whose Python is young enough, in the order in which they are tried.
DEBIAN_SUITES = ("sid", "testing")


class Version(NamedTuple):
    """A Python version as its executables are named: "3.14" and whether the GIL is absent."""

    number: str
    free_threaded: bool

    def __str__(self) -> str:
        return self.number + self.abiflags

    @property
    def abiflags(self) -> str:
        """The "t" that tells a free-threaded build, or nothing."""
        return "t" if self.free_threaded else ""

    @property
    def tag(self) -> str:
        """The version without its dot, as in file names: "314t"."""
        return str(self).replace(".", "")


class Pin(NamedTuple):
    """The wheel of freeze-core for one Python version."""

    release: str
    sha256: str


# To renew a pin: for each version, in an empty folder,
#   python3 -m pip download --no-deps --only-binary=:all: --python-version 314 --implementation cp
#     --abi cp314t --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 freeze-core
#   sha256sum *.whl
# and enter what came. The new release makes a new key in the cache, so the next build takes it.
FREEZE_CORE: Mapping[Version, Pin] = {
    Version("3.14", True): Pin(
        "0.8.1", "b8547956f9cbeabaae9cc758bbc65531962c3fb4fa0c2431c802089e7ea86cca"
    ),
    Version("3.15", True): Pin(
        "0.8.1", "a1c31d6740d6d7ae858ab9e02231928cd49ee5f68d7980a8760b65f333c48890"
    ),
    Version("3.14", False): Pin(
        "0.8.1", "2500ef546af0c26e30cc8630be353fa02c9ff46d009b76d6d15e79288140d7e6"
    ),
    Version("3.15", False): Pin(
        "0.8.1", "6b28139d5cfea4cf8712b4745ff78e2892d41f33c90437efddf1ae6eaaba11cf"
    ),
}


# --- the executable -------------------------------------------------------------------------------

SHT_DYNSYM = 11
PT_LOAD = 1
PF_X = 1
JUMP_SIZE = 5  # opcode E9 and a 32-bit distance


class Symbol(NamedTuple):
    """A function in the executable: where it lies in memory, and its length in bytes."""

    address: int
    size: int


def dynamic_symbols(image: bytes) -> dict[bytes, Symbol]:
    """The dynamic symbols of the 64-bit little-endian ELF file `image`, by name."""
    if image[:6] != b"\x7fELF\x02\x01":
        raise SetupError("The interpreter of freeze-core is not a 64-bit little-endian ELF file.")
    (sections_at,) = struct.unpack_from("<Q", image, 0x28)
    section_size, section_count = struct.unpack_from("<HH", image, 0x3A)
    sections = [
        # type, offset, size, link
        struct.unpack_from("<4xI16xQQI", image, sections_at + index * section_size)
        for index in range(section_count)
    ]
    symbols: dict[bytes, Symbol] = {}
    for kind, start, size, names in sections:
        if kind != SHT_DYNSYM:
            continue
        names_at = sections[names][1]
        for entry in range(start, start + size, 24):
            name, address, length = struct.unpack_from("<I4xQQ", image, entry)
            end = image.index(b"\0", names_at + name)
            symbols[image[names_at + name : end]] = Symbol(address, length)
    return symbols


def file_offset(image: bytes, address: int) -> int:
    """Where the code that is loaded at `address` lies in the ELF file `image`."""
    (headers_at,) = struct.unpack_from("<Q", image, 0x20)
    header_size, header_count = struct.unpack_from("<HH", image, 0x36)
    for index in range(header_count):
        kind, flags, offset, start, size = struct.unpack_from(
            "<IIQQ8xQ", image, headers_at + index * header_size
        )
        if kind == PT_LOAD and flags & PF_X and start <= address < start + size:
            return int(offset + address - start)
    raise SetupError(f"The interpreter of freeze-core has no code at {address:#x}.")


def jump_to_python(image: bytes) -> bytes:
    """The executable `image` with `main` replaced by a jump to `Py_BytesMain`.

    Both take `(argc, argv)` and return the exit status, so the jump is a tail call.
    """
    symbols = dynamic_symbols(image)
    try:
        main, python = symbols[b"main"], symbols[b"Py_BytesMain"]
    except KeyError as missing:
        raise SetupError(f"The interpreter of freeze-core does not export {missing}.") from None
    if main.size < JUMP_SIZE:
        raise SetupError("The `main` of freeze-core's interpreter is too short for a jump.")
    distance = python.address - (main.address + JUMP_SIZE)
    start = file_offset(image, main.address)
    return image[:start] + struct.pack("<Bi", 0xE9, distance) + image[start + JUMP_SIZE :]


# --- sysconfig ------------------------------------------------------------------------------------


def build_variables(
    debian: Mapping[str, object], version: Version, prefix: Path
) -> dict[str, object]:
    """What `sysconfig` is to tell of the interpreter at `prefix`.

    `debian` are the variables of Debian's own build, which differs in its threads, in having a
    shared libpython, and in its places.
    """
    abiflags = version.abiflags
    soabi = f"cpython-{version.tag}-{PLATFORM}"
    library = f"{prefix}/lib/python{version}"
    places = {
        "BINDIR": f"{prefix}/bin",
        "BINLIBDEST": library,
        "CONFINCLUDEDIR": f"{prefix}/include",
        "CONFINCLUDEPY": f"{prefix}/include/python{version}",
        "DESTLIB": library,
        "DESTSHARED": f"{library}/lib-dynload",
        "EXENAME": f"{prefix}/bin/python{version}",
        "INCLUDEDIR": f"{prefix}/include",
        "INCLUDEPY": f"{prefix}/include/python{version}",
        "LIBDEST": library,
        "LIBDIR": f"{prefix}/lib",
        "LIBPC": f"{prefix}/lib/pkgconfig",
        "LIBPL": f"{library}/config-{version}-{PLATFORM}",
        "MACHDESTLIB": library,
        "MANDIR": f"{prefix}/share/man",
        "SCRIPTDIR": f"{prefix}/lib",
        "datarootdir": f"{prefix}/share",
        "exec_prefix": str(prefix),
        "host_exec_prefix": str(prefix),
        "host_prefix": str(prefix),
        "prefix": str(prefix),
    }
    return {
        **debian,
        **places,
        "ABIFLAGS": abiflags,
        "ABI_THREAD": abiflags,
        "EXT_SUFFIX": f".{soabi}.so",
        "LDVERSION": str(version),
        "Py_ENABLE_SHARED": 0,
        "Py_GIL_DISABLED": int(version.free_threaded),
        "SOABI": soabi,
    }


def rewrite_sysconfig(debian: Path, library: Path, version: Version, prefix: Path) -> None:
    """Writes the two files `sysconfig` reads into `library`, from those in the folder `debian`."""
    name = f"_linux_{PLATFORM}"
    source = (debian / f"_sysconfigdata_{name}.py").read_text(encoding="utf-8")
    # The file is a comment and one assignment of a literal: it needs no running.
    variables = ast.literal_eval(source.partition("build_time_vars =")[2].strip())
    built = build_variables(variables, version, prefix)
    (library / f"_sysconfigdata_{version.abiflags}{name}.py").write_text(
        "# system configuration of an interpreter assembled by loop_pool's tools\n"
        f"build_time_vars = {pprint.pformat(built, compact=True)}\n",
        encoding="utf-8",
    )
    resolved = json.loads((debian / f"_sysconfig_vars_{name}.json").read_text(encoding="utf-8"))
    (library / f"_sysconfig_vars_{version.abiflags}{name}.json").write_text(
        json.dumps(build_variables(resolved, version, prefix), indent=2, sort_keys=True) + "\n",
        encoding="utf-8",
    )


# --- the whole ------------------------------------------------------------------------------------

# Parts of Debian's library that describe Debian's interpreter and would mislead ours.
# (`sitecustomize.py` is a link into /etc.)
DEBIAN_ONLY = (
    "lib-dynload",
    "__pycache__",
    "EXTERNALLY-MANAGED",
    "sitecustomize.py",
    "_sysconfigdata_*",
    "_sysconfig_vars_*",
    "build-details*",
)


def fetch_wheel(version: Version, cache: Path, folder: Path) -> None:
    """Unpacks freeze-core's wheel for `version` into `folder`, if it is the one that is pinned."""
    pin = FREEZE_CORE[version]
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        requirement = Path(scratch) / "requirement.txt"
        requirement.write_text(
            f"freeze-core=={pin.release} --hash=sha256:{pin.sha256}\n", encoding="utf-8"
        )
        pip_fetch(
            pip_command(cache),
            [
                *("download", "--no-deps", "--only-binary=:all:", "--require-hashes"),
                *("--implementation", "cp", "--abi", f"cp{version.tag}"),
                *("--python-version", version.number.replace(".", "")),
                *("--platform", "manylinux2014_x86_64", "--platform", "manylinux_2_17_x86_64"),
                *("--dest", scratch, "--requirement", str(requirement)),
            ],
            f"freeze-core {pin.release} for Python {version}",
        )
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)


def lay_out(wheel: Path, debian: Path, version: Version, target: Path, prefix: Path) -> None:
    """Builds the interpreter in the folder `target`, to be moved to `prefix` afterwards."""
    library = target / "lib" / f"python{version}"
    distribution = debian / "usr" / "lib" / f"python{version.number}"
    shutil.copytree(distribution, library, ignore=shutil.ignore_patterns(*DEBIAN_ONLY))
    rewrite_sysconfig(distribution, library, version, prefix)
    shutil.copytree(wheel / "freeze_core" / "lib", library / "lib-dynload")
    # The modules' run path is $ORIGIN/../../freeze_core.libs.
    shutil.copytree(wheel / "freeze_core.libs", target / "lib" / "freeze_core.libs")
    base = wheel / "freeze_core" / "bases" / f"console-cpython-{version.tag}-{PLATFORM}"
    executable = target / "bin" / f"python{version}"
    executable.parent.mkdir()
    executable.write_bytes(jump_to_python(base.read_bytes()))
    executable.chmod(0o755)


def assemble(version: Version, cache: Path, target: Path, prefix: Path) -> None:
    """Fetches the parts and builds the interpreter in `target`, to be moved to `prefix`.

    `target` lies in a folder of the caller's that is its own; the parts are removed again.
    """
    names = [f"libpython{version.number}-{part}" for part in ("minimal", "stdlib", "testsuite")]
    sites = dict.fromkeys(suite.site for suite in configured_suites())
    suites = [Suite(site, release) for release in DEBIAN_SUITES for site in sites]
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        wheel, debian = Path(scratch) / "wheel", Path(scratch) / "debian"
        say(f"Assembling Python {version} from PyPI's freeze-core and Debian's packages.")
        fetch_wheel(version, cache, wheel)
        say(f"Standard library: {fetch_debian(names, suites, debian)}")
        lay_out(wheel, debian, version, target, prefix)
