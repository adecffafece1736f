"""What an ``ssl.SSLContext`` verifies certificates by, so that rustls verifies by the same.

OpenSSL tells which authorities' certificates it has, and of the rest only how many. So the rest is
read from what the program loads, and counted; folders, in which OpenSSL looks when it needs a
certificate, are read as a whole. What cannot be known so is left to OpenSSL: above all what else
than this class has loaded, and files of which OpenSSL's reader might make something else.
"""

from __future__ import annotations

import contextlib
import os
import re
import ssl
import stat
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from .tls_certificates import canonical_blocks, certificates_of
from .tls_properties import NotNativeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _typeshed import StrOrBytesPath

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
    """What was loaded into one context, which OpenSSL tells only in part. Any thread reads it.

    Each ``load`` method has OpenSSL load, by ``call``, and takes the same. It notes in which state
    OpenSSL is then: what else it has later was loaded in another way, and it may know more of that,
    as for which uses it is trusted.
    """

    __slots__ = (
        "_authorities",
        "_folders",
        "_loads",
        "_lock",
        "_others",
        "_refusal",
        "_revoked",
        "_version",
    )

    def __init__(self) -> None:
        self._authorities: frozenset[bytes] = frozenset()
        self._others: dict[bytes, None] = {}
        self._revoked: dict[bytes, None] = {}
        self._folders: list[str] = []
        self._refusal: str | None = None
        self._lock = threading.RLock()
        """Held by who loads."""
        self._loads = 0
        self._version: object | None = object()
        """Another after each change, ``None`` during one."""

    # -- what is loaded --------------------------------------------------------------------------

    def load(
        self,
        context: ssl.SSLContext,
        call: Callable[[], None],
        file: StrOrBytesPath | None,
        folders: StrOrBytesPath | None,
        data: str | bytes | None,
    ) -> None:
        """Have ``call`` load these, of which ``folders`` may be several in the form of ``PATH``."""
        with self._loading(context, adds_folders=folders is not None):
            content = None if file is None else _content_or_none(file)
            call()
            if file is not None:
                # OpenSSL has read it in between.
                self._add_file(context, content, _content_or_none(file))
            if data:
                self._add_data(context, data)
            if folders is not None:
                self._add_folders(folders)

    def load_defaults(self, context: ssl.SSLContext, call: Callable[[], None]) -> None:
        """Have ``call`` load what OpenSSL trusts by default."""
        paths = ssl.get_default_verify_paths()
        file = os.environ.get(paths.openssl_cafile_env, paths.openssl_cafile)
        # OpenSSL goes on without the file.
        folders = os.environ.get(paths.openssl_capath_env, paths.openssl_capath)
        self.load(context, call, file, folders, None)

    @contextlib.contextmanager
    def _loading(self, context: ssl.SSLContext, *, adds_folders: bool) -> Iterator[None]:
        with self._lock:
            self._version = None
            self._loads += 1
            try:
                # OpenSSL keeps the first of two that are the same, and what it knows of it.
                self._refuse_unless_known(context)
                before = context.get_ca_certs(binary_form=True)
                counts = context.cert_store_stats()
                try:
                    yield
                except BaseException:
                    # OpenSSL may have taken the first of what it was to take.
                    if adds_folders or context.cert_store_stats() != counts:
                        self._refusal = "what is trusted was not loaded as a whole"
                    raise
                new = frozenset(context.get_ca_certs(binary_form=True)).difference(before)
                self._authorities |= new
            finally:
                self._loads -= 1
                if not self._loads:
                    self._version = object()

    def _refuse_unless_known(self, context: ssl.SSLContext) -> None:
        folders: list[_Folder] = []
        # What OpenSSL has of an unusual one may be unknown, and stays so.
        with contextlib.suppress(NotNativeError):
            folders = self._read_folders()
        try:
            self._check(context, folders)
        except NotNativeError as error:
            self._refusal = self._refusal or str(error)

    def _add_file(
        self, context: ssl.SSLContext, before: bytes | None, content: bytes | None
    ) -> None:
        if content is None or content != before:
            self._refusal = "trusted certificates come from something that is no file"
            return
        if b"TRUSTED CERTIFICATE-----" in content:
            self._refusal = "a trusted certificate says for which uses it is trusted"
        if _has_more(context):
            self._add_pem(content, "CERTIFICATE", "X509 CRL")

    def _add_data(self, context: ssl.SSLContext, data: str | bytes) -> None:
        if not _has_more(context):
            return
        if isinstance(data, str):
            self._add_pem(data.encode("ascii"), "CERTIFICATE")
            return
        try:
            self._others = {**self._others, **dict.fromkeys(certificates_of(data))}
        except ValueError as error:
            self._refusal = f"of trusted certificates in DER: {error}"

    def _add_pem(self, content: bytes, *kinds: str) -> None:
        try:
            blocks = [each for each in canonical_blocks(content) if each[0] in kinds]
        except ValueError as error:
            self._refusal = f"of trusted certificates in PEM: {error}"
            return
        others = {der: None for name, der in blocks if name == "CERTIFICATE"}
        revoked = {der: None for name, der in blocks if name == "X509 CRL"}
        self._others, self._revoked = {**self._others, **others}, {**self._revoked, **revoked}

    def _add_folders(self, path: StrOrBytesPath) -> None:
        for folder in os.fsdecode(path).split(os.pathsep):
            if folder and folder not in self._folders:
                self._folders = [*self._folders, folder]

    # -- what rustls is given --------------------------------------------------------------------

    def changed(self) -> object:
        """Return what is equal as long as the folders are as they are now."""
        return tuple(map(_state, self._folders)) if self._folders else ()

    def given(self, context: ssl.SSLContext, properties: Properties) -> TrustGiven:
        """Return what peers of this context are verified by now.

        Raises:
            NotNativeError: it cannot be known, or rustls cannot verify so.
        """
        version = self._version
        if version is None:
            raise NotNativeError("what is trusted is being loaded")
        if self._refusal is not None:
            raise NotNativeError(self._refusal)
        folders = self._read_folders()
        if properties.crl_check and any(folder.has_lists for folder in folders):
            raise NotNativeError("lists of revoked certificates lie in a folder")
        authorities, others = self._check(context, folders)
        revoked = list(self._revoked)
        if self._version is not version:
            raise NotNativeError("what is trusted was being loaded")
        # Of those that are loaded, OpenSSL does not look for the name in folders.
        known = {*authorities, *others}
        return TrustGiven(
            authorities,
            others,
            [[one for one in folder.certificates if one[1] not in known] for folder in folders],
            revoked,
            properties.partial_chain,
            properties.strict,
            properties.ignores_common_name,
            properties.crl_check,
        )

    def _read_folders(self) -> list[_Folder]:
        return [_folder(path) for path in self._folders]

    def _check(
        self, context: ssl.SSLContext, folders: list[_Folder]
    ) -> tuple[list[bytes], list[bytes]]:
        """Return the authorities' certificates, and the others that are trusted.

        Raises:
            NotNativeError: OpenSSL has other ones.
        """
        authorities = context.get_ca_certs(binary_form=True)
        known = set(authorities)
        others = [der for der in self._others if der not in known]
        counts = context.cert_store_stats()
        # OpenSSL loads some of the folders' when it makes a connection.
        unknown = known - self._authorities
        unknown.difference_update(der for folder in folders for _, der in folder.certificates)
        if (
            unknown
            or counts["x509"] != len(known) + len(others)
            or counts["crl"] != len(self._revoked)
        ):
            raise NotNativeError("what is trusted was not loaded by this context's methods alone")
        return authorities, others


def _has_more(context: ssl.SSLContext) -> bool:
    """Whether OpenSSL has more than authorities' certificates, which it does not tell."""
    counts = context.cert_store_stats()
    return counts["x509"] != counts["x509_ca"] or counts["crl"] > 0


# -- files ---------------------------------------------------------------------------------------

_LARGEST = 64 * 1024 * 1024
"""What may be read of one file, in bytes."""


def _content(path: str) -> bytes:
    """Return what a file holds.

    Raises:
        OSError: it cannot be read, or it is no file: to read a pipe may take forever.
    """
    # A device may do something when it is opened.
    if stat.S_ISREG(os.stat(path).st_mode):
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                content = file.read(_LARGEST + 1)
                if len(content) <= _LARGEST:
                    return content
    raise OSError("no file of a usual size")


def _content_or_none(path: StrOrBytesPath) -> bytes | None:
    """Return what a file holds: nothing if there is none, ``None`` if that cannot be known."""
    try:
        return _content(os.fsdecode(path))
    except FileNotFoundError, NotADirectoryError:
        return b""
    except OSError, TypeError, ValueError:
        return None


# -- folders -------------------------------------------------------------------------------------


class _Folder(NamedTuple):
    certificates: list[Named]
    has_lists: bool


_HASHED = re.compile(r"([0-9a-f]{8})\.(0|[1-9][0-9]*)")
"""The names of files in which OpenSSL finds certificates: hash of a subject, number."""
_LIST = re.compile(r".*\.r[0-9]*", re.IGNORECASE | re.DOTALL)
"""Those in which it finds lists of revoked certificates, and some more."""
_SETTLED = 2 * 10**9
"""So long after a change of a file the next one has another time, in nanoseconds."""


def _names(path: str) -> list[str]:
    """Return the names in a folder.

    Raises:
        OSError: it cannot be read. OpenSSL may find something there even so.
    """
    try:
        return os.listdir(path)
    except FileNotFoundError, NotADirectoryError:
        return []


def _state(path: str) -> object:
    """Return what is equal as long as OpenSSL finds the same in a folder.

    A file may change without its folder: by a link, or if it is written anew. One that has just
    changed could change again at the same time by the file system's clock. So with such a file
    nothing is equal.
    """
    found: list[tuple[object, ...]] = []
    latest = 0
    try:
        for name in _names(path):
            if _HASHED.fullmatch(name) is not None:
                at = _stat(f"{path}/{name}")
                if at is None:
                    found.append((name,))
                else:
                    latest = max(latest, at.st_ctime_ns)
                    found.append(
                        (
                            name,
                            at.st_dev,
                            at.st_ino,
                            at.st_mode,
                            at.st_size,
                            at.st_mtime_ns,
                            at.st_ctime_ns,
                        )
                    )
            elif _LIST.fullmatch(name) is not None:
                found.append((name,))
    except OSError as error:
        return error.errno
    return object() if latest > time.time_ns() - _SETTLED else found


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _folder(path: str) -> _Folder:
    """Read the certificates that OpenSSL finds in a folder now.

    Raises:
        NotNativeError: what it finds cannot be known, or may depend on what it has looked for.
    """
    found: dict[str, dict[int, str]] = {}
    try:
        names = _names(path)
    except OSError as error:
        raise NotNativeError(f"{path} cannot be read: {error}") from error
    for name in names:
        if (match := _HASHED.fullmatch(name)) is not None:
            found.setdefault(match[1], {})[int(match[2])] = name
    certificates: list[Named] = []
    for prefix, files in found.items():
        for number in range(len(files)):
            # OpenSSL looks for one after the other, up to the first that is not there.
            if number not in files:
                raise NotNativeError(f"{path} has no file {prefix}.{number}, but one behind it")
            certificates.append((int(prefix, 16), _only_one(f"{path}/{files[number]}")))
    return _Folder(certificates, any(_LIST.fullmatch(name) for name in names))


def _only_one(path: str) -> bytes:
    """Return the one certificate that is in a file."""
    try:
        content = _content(path)
    except OSError as error:
        raise NotNativeError(f"{path} cannot be read: {error}") from error
    try:
        ((kind, der),) = canonical_blocks(content)
    except ValueError:
        kind, der = "", b""
    if kind != "CERTIFICATE":
        raise NotNativeError(f"{path} has not just one certificate, in PEM as usual")
    return der
