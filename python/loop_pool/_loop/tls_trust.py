"""What an ``ssl.SSLContext`` verifies certificates by, so that rustls verifies by the same.

OpenSSL tells which authorities' certificates it has, and of the rest only how many. So the rest is
read from what the program loads, and counted; folders, in which OpenSSL looks when it needs a
certificate, are read as a whole. What cannot be known so is left to OpenSSL.
"""

from __future__ import annotations

import functools
import os
import re
import ssl
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .tls_certificates import blocks, certificates_in, certificates_of
from .tls_properties import NotNativeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import ReadableBuffer, StrOrBytesPath

    from .tls_properties import Properties

type Named = tuple[int, bytes]
"""The hash by which OpenSSL finds a certificate, and the certificate in DER."""


class TrustGiven(NamedTuple):
    """What peers are verified by, for rustls. Certificates and lists are in DER."""

    authorities: list[bytes]
    """In OpenSSL's order."""
    others: list[bytes]
    """Trusted certificates that are not authorities', in the order in which they were loaded."""
    folders: list[list[Named]]
    """Those of each folder, in the order in which OpenSSL looks there."""
    revoked: list[bytes]
    """Lists of revoked certificates."""
    partial_chain: bool
    strict: bool
    ignores_common_name: bool
    crl_check: int
    """Whether lists are asked of none, of the peer's certificate, or of its chain: 0, 1, 2."""


class Trust:
    """What was loaded into one context besides what OpenSSL tells. Any thread reads it."""

    __slots__ = ("_folders", "_others", "_refusal", "_revoked")

    def __init__(self) -> None:
        self._others: dict[bytes, None] = {}
        self._revoked: dict[bytes, None] = {}
        self._folders: list[str] = []
        self._refusal: str | None = None

    # -- what was loaded -------------------------------------------------------------------------

    def add_file(self, context: ssl.SSLContext, path: StrOrBytesPath) -> None:
        """Take what a file has that ``context`` has just loaded."""
        name = os.fsdecode(path)
        try:
            content = Path(name).read_bytes() if stat.S_ISREG(os.stat(name).st_mode) else None
        except OSError:
            content = None
        if content is None:
            self._refusal = "trusted certificates come from something that is no file"
            return
        if b"TRUSTED CERTIFICATE-----" in content:
            self._refusal = "a trusted certificate says for which uses it is trusted"
        if _has_more(context):
            self._others.update(dict.fromkeys(certificates_in(content)))
            self._revoked.update(dict.fromkeys(blocks(content, "X509 CRL")))

    def add_data(self, context: ssl.SSLContext, data: str | ReadableBuffer) -> None:
        """Take certificates that ``context`` has just loaded."""
        if _has_more(context):
            if isinstance(data, str):
                found = certificates_in(data.encode("ascii"))
            else:
                found = certificates_of(bytes(data))
            self._others.update(dict.fromkeys(found))

    def add_folders(self, path: StrOrBytesPath) -> None:
        """Take a folder that OpenSSL will look into, or several, in the form of ``PATH``."""
        for folder in os.fsdecode(path).split(os.pathsep):
            if folder and folder not in self._folders:
                self._folders = [*self._folders, folder]

    def add_defaults(self, context: ssl.SSLContext) -> None:
        """Take what OpenSSL trusts by default, which ``context`` has just loaded."""
        paths = ssl.get_default_verify_paths()
        file = os.environ.get(paths.openssl_cafile_env, paths.openssl_cafile)
        # OpenSSL goes on without it.
        if os.path.exists(file):
            self.add_file(context, file)
        self.add_folders(os.environ.get(paths.openssl_capath_env, paths.openssl_capath))

    # -- what rustls is given --------------------------------------------------------------------

    def changed(self) -> tuple[int, ...]:
        """Return when the folders have changed, in nanoseconds since the epoch; 0 without one."""
        return tuple(map(_changed, self._folders)) if self._folders else ()

    def given(self, context: ssl.SSLContext, properties: Properties) -> TrustGiven:
        """Return what peers of this context are verified by now.

        Raises:
            NotNativeError: it cannot be known, or rustls cannot verify so.
        """
        if self._refusal is not None:
            raise NotNativeError(self._refusal)
        authorities = context.get_ca_certs(binary_form=True)
        known = set(authorities)
        others = [der for der in self._others if der not in known]
        counts = context.cert_store_stats()
        if counts["x509"] != len(known) + len(others) or counts["crl"] != len(self._revoked):
            raise NotNativeError("what is trusted was not loaded by this context's methods alone")
        folders = [_folder(path, _changed(path)) for path in self._folders]
        if properties.crl_check and any(folder.has_lists for folder in folders):
            raise NotNativeError("lists of revoked certificates lie in a folder")
        # Of those that are loaded, OpenSSL does not look for the name in folders.
        known.update(others)
        return TrustGiven(
            authorities,
            others,
            [[one for one in folder.certificates if one[1] not in known] for folder in folders],
            list(self._revoked),
            properties.partial_chain,
            properties.strict,
            properties.ignores_common_name,
            properties.crl_check,
        )


def _has_more(context: ssl.SSLContext) -> bool:
    """Whether OpenSSL has more than authorities' certificates, which it does not tell."""
    counts = context.cert_store_stats()
    return counts["x509"] != counts["x509_ca"] or counts["crl"] > 0


def _changed(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


class _Folder(NamedTuple):
    certificates: list[Named]
    has_lists: bool


_HASHED = re.compile(r"([0-9a-f]{8})\.(r?)([0-9]+)")
"""The names of files that OpenSSL finds: hash of a subject, whether it is a list, number."""


@functools.lru_cache(maxsize=8)
def _folder(path: str, changed: int) -> _Folder:
    """Read the certificates that OpenSSL finds in a folder that has changed then.

    Raises:
        NotNativeError: what it finds may depend on what it has looked for before.
    """
    found: dict[str, dict[int, str]] = {}
    has_lists = False
    for name in _names(path):
        if (match := _HASHED.fullmatch(name)) is not None:
            if match[2]:
                has_lists = True
            else:
                found.setdefault(match[1], {})[int(match[3])] = name
    certificates: list[Named] = []
    for prefix, files in found.items():
        for number in range(len(files)):
            # OpenSSL looks for one after the other, up to the first that is not there.
            if number not in files:
                raise NotNativeError(f"{path} has no file {prefix}.{number}, but one behind it")
            certificates.append((int(prefix, 16), _only_one(Path(path, files[number]))))
    return _Folder(certificates, has_lists)


def _names(path: str) -> Iterator[str]:
    try:
        with os.scandir(path) as entries:
            yield from (entry.name for entry in entries)
    except OSError:
        # OpenSSL does not find anything there either.
        return


def _only_one(path: Path) -> bytes:
    """Return the one certificate that is in a file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise NotNativeError(f"{path} cannot be read: {error}") from error
    ders = certificates_in(content)
    if len(ders) != 1 or content.count(b"-----BEGIN ") != 1:
        raise NotNativeError(f"{path} has not just one certificate, in PEM")
    return ders[0]
