"""Fetches what the set-up needs from package registries: PyPI through pip, Debian through apt.

In come package names; out come unpacked folders below a folder the caller names. Nothing here needs
root, changes the machine's own package lists, or knows a registry's address: pip and apt are asked
with the configuration this machine already has.

A fetch fails in one of two ways, and the caller may act on the difference: `DownloadError` (the
registry did not answer, or answered garbage: trying again later may help) and `PackageAbsentError`
(it answered, and there is no such package: trying again does not help).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

T = TypeVar("T")

# One version for everybody, so that the environments made here do not differ between machines.
# To renew: `python3 -m pip index versions uv`, then run `make test` from a fresh clone.
UV_VERSION = "0.13.8"

TARGET_FORMAT = "$(SITE)|$(RELEASE)"

DEBIAN_KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)


class SetupError(Exception):
    """Something a person has to put right; the message says what, and how."""


class DownloadError(SetupError):
    """The registry could not be reached or did not deliver; another attempt may succeed."""


class PackageAbsentError(SetupError):
    """The registry was reached and does not have the package."""


class Suite(NamedTuple):
    """One Debian suite on one mirror: what a line of a source list names."""

    site: str
    release: str


def say(message: str) -> None:
    """Tells the person at the terminal; stdout stays free for the answer of a command line."""
    print(f"[set-up] {message}", file=sys.stderr, flush=True)


def run(command: Sequence[str], *, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs `command` and returns what it said, whatever its exit status.

    Messages come in English (they are matched below), and pip neither asks questions nor refuses
    to work as root or outside a virtual environment.
    """
    environment = {
        **os.environ,
        "LC_ALL": "C",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "PIP_REQUIRE_VIRTUALENV": "0",
        "PIP_ROOT_USER_ACTION": "ignore",
    }
    return subprocess.run(
        list(command),
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )


def retried(
    action: Callable[[], T], *, attempts: int = 3, pause: Callable[[float], None] = time.sleep
) -> T:
    """Returns what `action` returns, tried again with growing pauses after a `DownloadError`."""
    for attempt in range(1, attempts):
        try:
            return action()
        except DownloadError as error:
            say(f"{error}\nTrying again ({attempt} of {attempts - 1}).")
            pause(2.0**attempt)
    return action()


def publish(finished: Path, place: Path) -> None:
    """Moves a finished folder to its place in one step; a half-made folder is never seen there."""
    if place.exists():
        # What stands there was found wanting, or the caller would not have made another.
        with tempfile.TemporaryDirectory(dir=place.parent) as attic:
            place.rename(Path(attic) / place.name)
            finished.rename(place)
    else:
        finished.rename(place)


# --- apt ------------------------------------------------------------------------------------------


def own_suites(targets: str) -> list[Suite]:
    """The suites this machine takes its packages from, in its own order.

    `targets` is the output of `apt-get indextargets` in `TARGET_FORMAT`. Security archives are left
    out: they lie on a mirror of their own, which has none of the other suites.
    """
    suites: list[Suite] = []
    for line in targets.splitlines():
        site, _, release = line.partition("|")
        if not site or not release or release.endswith(("-security", "/updates")):
            continue
        if Suite(site, release) not in suites:
            suites.append(Suite(site, release))
    return suites


def configured_suites() -> list[Suite]:
    """As `own_suites`, asked of apt."""
    for program in ("apt-get", "dpkg"):
        if shutil.which(program) is None:
            raise SetupError(f"{program} is missing: this machine has no Debian package manager.")
    # Without the option apt names nothing on a fresh image, where `apt-get update` never ran.
    answer = run(["apt-get", "indextargets", "--no-release-info", "--format", TARGET_FORMAT])
    suites = own_suites(answer.stdout) if answer.returncode == 0 else []
    if not suites:
        raise SetupError(
            "apt has no package sources (`apt-get indextargets` names none).\n"
            "Put a Debian mirror into /etc/apt/sources.list."
        )
    return suites


def debian_keyring() -> Path:
    """The keys of the Debian archive, by which apt judges everything it fetches here."""
    for keyring in DEBIAN_KEYRINGS:
        if keyring.is_file():
            return keyring
    raise SetupError(
        "The keys of the Debian archive are missing: apt-get install debian-archive-keyring"
    )


class Apt:
    """apt over a single suite, with lists, cache and state of its own below `work`.

    A single suite, because packages that belong together must come in the same version. Signatures
    are checked as always; only the places of the files differ from the machine's own apt.
    """

    def __init__(self, work: Path, suite: Suite) -> None:
        self._suite = suite
        source_list = work / "sources.list"
        for folder in ("lists/partial", "cache/archives/partial"):
            (work / folder).mkdir(parents=True, exist_ok=True)
        # `target=Packages` leaves out translations, icons and what else a desktop would fetch.
        source_list.write_text(
            f"deb [signed-by={debian_keyring()} target=Packages] "
            f"{suite.site} {suite.release} main\n",
            encoding="utf-8",
        )
        (work / "status").touch()
        self._options = [
            f"--option=Dir::Etc::SourceList={source_list}",
            "--option=Dir::Etc::SourceParts=-",
            f"--option=Dir::State={work}",
            f"--option=Dir::State::Lists={work / 'lists'}",
            f"--option=Dir::State::status={work / 'status'}",
            f"--option=Dir::Cache={work / 'cache'}",
            "--option=Acquire::Retries=3",
            # Without it a list that could not be fetched is only a warning.
            "--option=APT::Update::Error-Mode=any",
        ]

    def update(self) -> None:
        """Fetches the suite's list of packages."""
        answer = run(["apt-get", *self._options, "update"])
        if answer.returncode == 0:
            return
        if "NO_PUBKEY" in answer.stdout:
            raise SetupError(
                f"The Debian keyring of this machine does not know the key that signed "
                f"{self._suite.release}:\n{_errors(answer.stdout)}\n"
                "Renew it: apt-get update && apt-get install debian-archive-keyring"
            )
        if "is expired" in answer.stdout or "is not valid yet" in answer.stdout:
            raise SetupError(
                f"The mirror's copy of {self._suite.release} is not of this machine's date, so apt "
                f"refuses it:\n{_errors(answer.stdout)}\n"
                "Set the clock, or take another mirror in /etc/apt/sources.list."
            )
        if "404" in answer.stdout:
            raise PackageAbsentError(f"The mirror has no suite {self._suite.release}.")
        raise DownloadError(
            f"The package list of {self._suite.release} could not be fetched:\n"
            f"{_errors(answer.stdout)}"
        )

    def download(self, names: Sequence[str], folder: Path) -> list[Path]:
        """Fetches the packages `names` into `folder`; returns the files in no certain order."""
        folder.mkdir(parents=True, exist_ok=True)
        answer = run(["apt-get", *self._options, "download", *names], cwd=folder)
        if answer.returncode == 0:
            return list(folder.glob("*.deb"))
        if "Unable to locate package" in answer.stdout or "Can't select" in answer.stdout:
            raise PackageAbsentError(
                f"{self._suite.release} does not have all of {', '.join(names)}:\n"
                f"{_errors(answer.stdout)}"
            )
        raise DownloadError(f"{', '.join(names)} could not be fetched:\n{_errors(answer.stdout)}")


def _errors(output: str) -> str:
    """The lines of apt's output that say what went wrong (all of it if none is marked so).

    That root may not drop its rights in a folder of root's is a remark, and not the reason.
    """
    marked = [
        line
        for line in output.splitlines()
        if line.startswith(("E:", "W:", "Err:")) and "unsandboxed" not in line
    ]
    return "\n".join(marked) or output


def fetch_debian(names: Sequence[str], suites: Iterable[Suite], folder: Path) -> str:
    """Unpacks the packages `names` into `folder`, from the first suite that has them all.

    Returns the files' names, which tell the versions. Raises `DownloadError` if a suite could not
    be read and no other had the packages, `PackageAbsentError` if every suite answered and none
    has them.
    """
    failure: SetupError = PackageAbsentError(f"No suite to look for {', '.join(names)} in.")
    for suite in suites:
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            work = Path(scratch)
            try:
                packages = retried(partial(_fetch, names, suite, work))
            except SetupError as error:
                say(str(error))
                # That a registry could not be asked is the more important thing to report.
                if not isinstance(failure, DownloadError):
                    failure = error
                continue
            for package in packages:
                _unpack(package, folder)
            return ", ".join(sorted(package.name for package in packages))
    raise failure


def _fetch(names: Sequence[str], suite: Suite, work: Path) -> list[Path]:
    """One attempt at `names`: the list is read anew, as a mirror may change between the two."""
    apt = Apt(work / "apt", suite)
    apt.update()
    return apt.download(names, work / "packages")


def _unpack(package: Path, folder: Path) -> None:
    answer = run(["dpkg", "-x", str(package), str(folder)])
    if answer.returncode != 0:
        raise SetupError(f"{package.name} could not be unpacked:\n{answer.stdout}")


# --- pip and uv -----------------------------------------------------------------------------------


def pip_command(cache: Path) -> list[str]:
    """The command that runs pip under this interpreter.

    Debian's python3 comes without pip. Then the pip wheel that Debian packages for its virtual
    environments is taken, which can be run as it is, without installing anything.
    """
    command = [sys.executable, "-m", "pip"]
    if run([*command, "--version"]).returncode == 0:
        return command
    place = cache / "tools" / "pip"
    if not place.is_dir():
        say("This python3 has no pip: taking the one of Debian's package python3-pip-whl.")
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
            unpacked = Path(scratch) / "pip"
            unpacked.mkdir()
            fetch_debian(["python3-pip-whl"], configured_suites(), unpacked)
            publish(unpacked, place)
    wheels = sorted(place.glob("usr/share/python-wheels/pip-*.whl"))
    if not wheels:
        raise SetupError(f"Debian's package python3-pip-whl holds no pip wheel ({place}).")
    return [sys.executable, str(wheels[-1] / "pip")]


def pip_fetch(pip: Sequence[str], arguments: Sequence[str], what: str) -> None:
    """Runs pip with `arguments`, which fetch `what`; translates its failures.

    Raises `PackageAbsentError`, `DownloadError`, or `SetupError` if the file that came is not the
    one that is pinned.
    """

    def attempt() -> None:
        answer = run([*pip, *arguments])
        if answer.returncode == 0:
            return
        if "DO NOT MATCH THE HASHES" in answer.stdout:
            raise SetupError(f"{what} is not the file that is pinned here:\n{answer.stdout}")
        # pip says "No matching distribution" of a registry it could not reach as well.
        unreached = "Retrying (" in answer.stdout or "Connection" in answer.stdout
        if "No matching distribution" in answer.stdout and not unreached:
            raise PackageAbsentError(f"PyPI has no {what} for this machine:\n{answer.stdout}")
        raise DownloadError(f"{what} could not be fetched from PyPI:\n{answer.stdout}")

    retried(attempt)


def uv_command(cache: Path) -> Path:
    """The path of uv, fetched from PyPI if the cache does not have this version yet."""
    place = cache / "tools" / f"uv-{UV_VERSION}"
    if not (place / "bin" / "uv").is_file():
        say(f"Fetching uv {UV_VERSION} from PyPI.")
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
            target = Path(scratch) / "uv"
            pip_fetch(
                pip_command(cache),
                [
                    *("install", "--only-binary=:all:", "--no-deps"),
                    *("--target", str(target), f"uv=={UV_VERSION}"),
                ],
                f"uv {UV_VERSION}",
            )
            publish(target, place)
    return place / "bin" / "uv"
