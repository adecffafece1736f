#!/usr/bin/env python3
"""Fetches uvicorn's own tests, of the version that an environment has, and prints their folder.

    python3 tools/uvicorn_tests.py .venv/bin/python

They come from uvicorn's source distribution on PyPI, through pip; what they import and the
environment lacks is put beside them, for the interpreter of that environment. Everything lies in
the cache of `tools/interpreter.py` and is fetched once.

Runs on any python3 from 3.9 on, with the standard library alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from interpreter import cache_folder, locked
from packages import SetupError, pip_command, pip_fetch, publish, say, uv_command

BESIDE = ("httpx2",)
"""Packages that the tests import, and that nothing else here needs."""

FOR_TLS = ("trustme",)
"""The same for those of TLS, which are skipped without: it needs `cryptography`, of which not every
Python has a wheel."""

ASK = """
import json, sys
from importlib.metadata import version
print(json.dumps([version("uvicorn"), sys.implementation.cache_tag, sys.abiflags]))
"""


def asked(python: str) -> tuple[str, str]:
    """The version of uvicorn in the environment of `python`, and the tag of that interpreter."""
    answer = subprocess.run([python, "-c", ASK], stdout=subprocess.PIPE, text=True, check=False)
    if answer.returncode != 0:
        raise SetupError(f"{python} has no uvicorn: make build")
    version, tag, flags = json.loads(answer.stdout)
    return version, tag + flags


def fetch(version: str, python: str, place: Path, cache: Path) -> None:
    """Make the folder `place`: `tests`, and `packages` with what they import."""
    say(f"Fetching the tests of uvicorn {version} from PyPI.")
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
        download, finished = Path(scratch, "download"), Path(scratch, "finished")
        pip_fetch(
            pip_command(cache),
            [
                *("download", "--no-deps", "--no-binary", "uvicorn"),
                *("--dest", str(download), f"uvicorn=={version}"),
            ],
            f"source distribution of uvicorn {version}",
        )
        (archive,) = download.glob("*.tar.gz")
        _unpack(archive, finished)
        uv = [str(uv_command(cache)), "pip", "install", "--quiet", "--python", python]
        uv += ["--only-binary", ":all:", "--target", str(finished / "packages")]
        if subprocess.run([*uv, *BESIDE], stdout=sys.stderr, check=False).returncode != 0:
            raise SetupError(f"{', '.join(BESIDE)} could not be installed (see above).")
        if subprocess.run([*uv, *FOR_TLS], stdout=sys.stderr, check=False).returncode != 0:
            say(f"{', '.join(FOR_TLS)} could not be installed: uvicorn's tests of TLS are skipped.")
        publish(finished, place)


def _unpack(archive: Path, place: Path) -> None:
    """Unpack the folder `tests` of a source distribution, and nothing else, into `place`."""
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            _, _, path = member.name.partition("/")
            if not member.isfile() or not path.startswith("tests/") or ".." in path:
                continue
            content = tar.extractfile(member)
            assert content is not None
            file = place / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.read())


def main() -> int:
    """Print the folder; 1 if it cannot be made."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("python", help="the interpreter of the environment that has uvicorn")
    python = parser.parse_args().python
    cache = cache_folder()
    try:
        version, tag = asked(python)
        place = cache / "uvicorn-tests" / f"{version}-{tag}"
        with locked(cache / "lock"):
            if not place.is_dir():
                fetch(version, python, place, cache)
    except SetupError as error:
        say(str(error))
        return 1
    print(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
