"""`tools/packages.py`: what apt and pip answer is told apart, and what they bring is put in place.

No network: both programs are replaced by their answers.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .support import load

packages, assemble = load("packages", "assemble")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Lets `retried` not sleep; the list tells how long it would have."""
    pauses: list[float] = []
    retried = packages.retried
    monkeypatch.setattr(packages, "retried", lambda action: retried(action, pause=pauses.append))
    return pauses


class FakeRun:
    """Stands in for `packages.run`: the first rule whose words are all in the command answers."""

    def __init__(self, *rules: tuple[tuple[str, ...], int, str]) -> None:
        self.rules = rules
        self.commands: list[list[str]] = []

    def __call__(
        self, command: list[str], *, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        self.commands.append(list(command))
        for words, status, output in self.rules:
            if all(word in command for word in words):
                if status == 0 and "download" in command and cwd is not None:
                    for name in command[command.index("download") + 1 :]:
                        (cwd / f"{name}_1.deb").touch()
                return subprocess.CompletedProcess(command, status, output)
        raise AssertionError(f"unexpected command: {command}")


@pytest.fixture
def debian(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with a Debian keyring; returns a folder to unpack into."""
    keyring = tmp_path / "keyring.gpg"
    keyring.touch()
    monkeypatch.setattr(packages, "DEBIAN_KEYRINGS", (tmp_path / "absent.gpg", keyring))
    folder = tmp_path / "unpacked"
    folder.mkdir()
    return folder


SID = packages.Suite("http://mirror.test/debian", "sid")
TESTING = packages.Suite("http://mirror.test/debian", "testing")
UNREACHED = "Err:1 http://mirror.test sid\n  Could not resolve 'mirror.test'\nE: Failed to fetch\n"
ABSENT = "E: Unable to locate package libpython3.14-stdlib\n"


def test_the_machines_own_suites_are_read_without_security_archives() -> None:
    assert packages.own_suites(
        "http://mirror.test/debian|bookworm\n"
        "http://mirror.test/debian|bookworm\n"
        "http://mirror.test/debian|bookworm-updates\n"
        "http://mirror.test/debian-security|bookworm-security\n"
        "http://mirror.test/debian-security|buster/updates\n"
        "\n"
    ) == [
        ("http://mirror.test/debian", "bookworm"),
        ("http://mirror.test/debian", "bookworm-updates"),
    ]


def test_a_machine_without_apt_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _program: None)
    with pytest.raises(packages.SetupError, match="apt-get is missing"):
        packages.configured_suites()


def test_a_machine_without_package_sources_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: f"/usr/bin/{program}")
    monkeypatch.setattr(packages, "run", FakeRun((("indextargets",), 0, "\n")))
    with pytest.raises(packages.SetupError, match="no package sources"):
        packages.configured_suites()


def test_packages_come_from_the_first_suite_that_has_them(
    monkeypatch: pytest.MonkeyPatch, debian: Path
) -> None:
    run = FakeRun((("update",), 0, ""), (("download",), 0, ""), (("dpkg",), 0, ""))
    monkeypatch.setattr(packages, "run", run)
    assert packages.fetch_debian(["a", "b"], [SID, TESTING], debian) == "a_1.deb, b_1.deb"
    assert sum("update" in command for command in run.commands) == 1


@pytest.mark.usefixtures("debian")
def test_apt_checks_signatures_and_leaves_the_machines_own_lists_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = FakeRun((("update",), 0, ""))
    monkeypatch.setattr(packages, "run", run)
    packages.Apt(tmp_path / "apt", SID).update()
    source_list = (tmp_path / "apt/sources.list").read_text(encoding="utf-8")
    assert f"signed-by={tmp_path}/keyring.gpg" in source_list
    assert source_list.endswith("http://mirror.test/debian sid main\n")
    (update,) = run.commands
    for place in ("Etc::SourceList", "State", "State::Lists", "State::status", "Cache"):
        assert any(option.startswith(f"--option=Dir::{place}={tmp_path}") for option in update)
    assert "--option=Dir::Etc::SourceParts=-" in update
    assert not any("Unauthenticated" in option or "Insecure" in option for option in update)


def test_without_the_debian_keys_nothing_is_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(packages, "DEBIAN_KEYRINGS", (tmp_path / "absent.gpg",))
    with pytest.raises(packages.SetupError, match="debian-archive-keyring"):
        packages.Apt(tmp_path / "apt", SID)


def test_a_download_that_fails_is_tried_again_and_reported_as_such(
    monkeypatch: pytest.MonkeyPatch, debian: Path, no_pauses: list[float]
) -> None:
    monkeypatch.setattr(packages, "run", FakeRun((("update",), 100, UNREACHED)))
    with pytest.raises(packages.DownloadError, match="Failed to fetch"):
        packages.fetch_debian(["a"], [SID], debian)
    assert no_pauses == [2.0, 4.0]


def test_a_package_that_is_absent_is_looked_for_in_the_next_suite_at_once(
    monkeypatch: pytest.MonkeyPatch, debian: Path, no_pauses: list[float]
) -> None:
    run = FakeRun((("update",), 0, ""), (("download",), 100, ABSENT))
    monkeypatch.setattr(packages, "run", run)
    with pytest.raises(packages.PackageAbsentError, match="testing does not have"):
        packages.fetch_debian(["a"], [SID, TESTING], debian)
    assert no_pauses == []
    assert sum("update" in command for command in run.commands) == 2


def test_a_suite_that_could_not_be_asked_outweighs_one_that_has_not_got_it(
    monkeypatch: pytest.MonkeyPatch, debian: Path
) -> None:
    def fetch(_names: object, suite: object, _work: object) -> list[Path]:
        if suite == SID:
            raise packages.DownloadError("sid could not be asked")
        raise packages.PackageAbsentError("testing has not got it")

    monkeypatch.setattr(packages, "_fetch", fetch)
    with pytest.raises(packages.DownloadError, match="sid could not be asked"):
        packages.fetch_debian(["a"], [SID, TESTING], debian)


@pytest.mark.usefixtures("debian")
@pytest.mark.parametrize(
    ("output", "kind", "message"),
    [
        ("Err:1 x InRelease\n  404  Not Found\nE: no\n", "PackageAbsentError", "no suite sid"),
        ("E: signatures: NO_PUBKEY 123\n", "SetupError", "keyring of this machine does not know"),
        ("E: Release file is expired\n", "SetupError", "Set the clock"),
        ("W: unsandboxed as root\nE: it broke\n", "DownloadError", "^[^W]*E: it broke"),
    ],
)
def test_what_apt_says_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, output: str, kind: str, message: str
) -> None:
    monkeypatch.setattr(packages, "run", FakeRun((("update",), 100, output)))
    with pytest.raises(packages.SetupError, match=message) as raised:
        packages.Apt(tmp_path / "apt", SID).update()
    assert type(raised.value).__name__ == kind


@pytest.mark.parametrize(
    ("output", "kind", "attempts"),
    [
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS", "SetupError", 1),
        ("ERROR: No matching distribution found for x", "PackageAbsentError", 1),
        (
            "WARNING: Retrying (Retry(total=0))\nERROR: No matching distribution found for x",
            "DownloadError",
            3,
        ),
        ("ERROR: Could not install packages due to an OSError", "DownloadError", 3),
    ],
)
def test_what_pip_says_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, output: str, kind: str, attempts: int
) -> None:
    run = FakeRun((("download",), 1, output))
    monkeypatch.setattr(packages, "run", run)
    with pytest.raises(packages.SetupError) as raised:
        packages.pip_fetch(["pip"], ["download", "x"], "x")
    assert type(raised.value).__name__ == kind
    assert len(run.commands) == attempts


def test_the_wheel_is_pinned_by_hash_for_its_own_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []

    def fake_fetch(_pip: object, arguments: list[str], _what: str) -> None:
        asked.extend(arguments)
        requirement = Path(arguments[arguments.index("--requirement") + 1])
        asked.append(requirement.read_text(encoding="utf-8"))
        raise packages.DownloadError("no network here")

    monkeypatch.setattr(assemble, "pip_command", lambda _cache: ["pip"])
    monkeypatch.setattr(assemble, "pip_fetch", fake_fetch)
    with pytest.raises(packages.DownloadError):
        assemble.fetch_wheel(assemble.Version("3.15", True), tmp_path, tmp_path / "wheel")
    pin = assemble.FREEZE_CORE[assemble.Version("3.15", True)]
    assert "--require-hashes" in asked
    assert asked[asked.index("--abi") + 1] == "cp315t"
    assert asked[-1] == f"freeze-core=={pin.release} --hash=sha256:{pin.sha256}\n"


def test_pip_is_taken_from_debian_where_python_has_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fetched: list[object] = []

    def fake_fetch(names: list[str], suites: list[object], folder: Path) -> str:
        fetched.append((names, suites))
        wheels = folder / "usr/share/python-wheels"
        wheels.mkdir(parents=True)
        (wheels / "pip-23.0.1-py3-none-any.whl").touch()
        return ""

    monkeypatch.setattr(packages, "run", FakeRun((("pip", "--version"), 1, "No module named pip")))
    monkeypatch.setattr(packages, "configured_suites", lambda: [SID])
    monkeypatch.setattr(packages, "fetch_debian", fake_fetch)
    wheel = tmp_path / "tools/pip/usr/share/python-wheels/pip-23.0.1-py3-none-any.whl"
    for _ in range(2):
        assert packages.pip_command(tmp_path) == [sys.executable, str(wheel / "pip")]
    assert fetched == [(["python3-pip-whl"], [SID])]


def test_pip_is_taken_from_python_where_it_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(packages, "run", FakeRun((("pip", "--version"), 0, "pip 26")))
    assert packages.pip_command(tmp_path) == [sys.executable, "-m", "pip"]


def test_uv_is_fetched_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fetched: list[str] = []

    def fake_fetch(_pip: object, arguments: list[str], what: str) -> None:
        fetched.append(what)
        target = Path(arguments[arguments.index("--target") + 1])
        (target / "bin").mkdir(parents=True)
        (target / "bin/uv").touch()

    monkeypatch.setattr(packages, "pip_command", lambda _cache: ["pip"])
    monkeypatch.setattr(packages, "pip_fetch", fake_fetch)
    uv = tmp_path / f"tools/uv-{packages.UV_VERSION}/bin/uv"
    assert [packages.uv_command(tmp_path) for _ in range(2)] == [uv, uv]
    assert fetched == [f"uv {packages.UV_VERSION}"]


def test_a_finished_folder_takes_the_place_of_a_broken_one(tmp_path: Path) -> None:
    fresh, place = tmp_path / "fresh", tmp_path / "place"
    for folder, content in ((fresh, "new"), (place, "old")):
        folder.mkdir()
        (folder / "file").write_text(content, encoding="utf-8")
    packages.publish(fresh, place)
    assert (place / "file").read_text(encoding="utf-8") == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["place"]
