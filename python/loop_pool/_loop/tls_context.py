"""``ssl.SSLContext`` for TLS below Python: it remembers its settings, so that rustls can have them.

An ``ssl.SSLContext`` does not reveal its private key, nor the certificates that it trusts. The
class here keeps them. Each call goes to OpenSSL as well: it checks the arguments, and it makes the
connections if rustls lacks a setting.

Threads: as with ``ssl.SSLContext``, a context may be used by all threads, and is set up by one.

Compare these private names of ``ssl`` first for a new Python version:

========================================  ========================================================
private name                              use here
========================================  ========================================================
``_wrap_bio`` of the context              overridden: ``SSLObject._create`` asks it for OpenSSL's
                                          connection, and is given rustls'
``_set_alpn_protocols``                   overridden: remembers the protocols in wire form
``_msg_callback``                         read: with one, OpenSSL is used
========================================  ========================================================
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import ssl
import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

from .. import _core
from .tls_certificates import Certificate, described, kind_of_key, read
from .tls_properties import ONLY, OPENSSL, PROTOCOLS, NotNativeError, Properties
from .tls_trust import Trust, TrustGiven

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import ReadableBuffer, StrOrBytesPath

    type Password = Callable[[], str | bytes | bytearray] | str | bytes | bytearray

type Pem = tuple[bytes, bytes]
"""A certificate chain and its private key, as the contents of PEM files."""

log = logging.getLogger("loop_pool.tls")

_ssl: Any = sys.modules["_ssl"]
_OTHER_SETTINGS = {
    "load_dh_params": "Diffie-Hellman parameters are set",
    "set_ciphers": "ciphers are set",
    "set_ciphersuites": "ciphers are set",
    "set_ecdh_curve": "a curve is set",
    "set_groups": "groups are set",
    "set_client_sigalgs": "signature algorithms are set",
    "set_server_sigalgs": "signature algorithms are set",
    "set_psk_client_callback": "a pre-shared key is set",
    "set_psk_server_callback": "a pre-shared key is set",
}
"""Methods that set what rustls does not have, or chooses by itself."""


class _Made(NamedTuple):
    """Settings that were made."""

    of: object
    """What they were made of."""
    settings: _core.TLSSettings | str
    """These, or why there are none."""


class SSLContext(ssl.SSLContext):
    """An ``ssl.SSLContext`` whose connections are made by rustls where that can be, below Python.

    Use it wherever an ``ssl.SSLContext`` is asked for. Its methods and properties are those of
    ``ssl.SSLContext``, with the same arguments and errors. In addition ``sni_callback`` may be a
    mapping of host names to contexts, whose certificates clients get that ask for these names.

    If rustls lacks a setting, OpenSSL makes the connections, through the same interface.
    Certificates are verified as OpenSSL does, by AWS-LC and with what OpenSSL asks besides.
    :attr:`native` and :attr:`fallback_reason` tell, and the first such connection logs the reason
    on the logger ``loop_pool.tls``. ``wrap_socket`` is always OpenSSL's.

    Set a context up in one thread; then any thread may use it. A change counts for connections that
    are made after it, so ``load_cert_chain`` renews a server's certificate.
    """

    remembers_sessions: bool
    """Whether a client resumes sessions with servers that it knows; ``False`` unless it is set.

    ``ssl`` resumes the session that a program passes. A session that is resumed is not verified
    again: so clients that verify servers resume none, nor do servers that verify clients.
    """

    _certificates_loaded: dict[str, Pem]
    """By the kind of key, of which OpenSSL keeps one each."""
    _trust: Trust
    _alpn: list[bytes]
    _by_name: Mapping[str, ssl.SSLContext] | None
    _other: str | None
    """Why OpenSSL is needed whatever the properties are."""
    _is_changing: threading.RLock
    """Held while a certificate is added to those that are loaded."""
    _version: object
    """Another after each change of something that is remembered. It is no number: of two threads
    that count, one could be lost."""
    _settings: dict[bool, _Made]
    """The latest of each side: for servers, ``True``."""
    _is_making: threading.Lock
    """Held while settings are made: all loops get the same, and so the same keys of tickets."""
    _is_logged: bool

    def __new__(cls, protocol: int | None = None, *args: Any, **kwargs: Any) -> Self:
        context = super().__new__(cls, protocol, *args, **kwargs)
        context.remembers_sessions = False
        context._certificates_loaded = {}
        context._trust = Trust()
        context._alpn = []
        context._by_name = None
        context._other = None
        context._is_changing = threading.RLock()
        context._version = object()
        context._settings = {}
        context._is_making = threading.Lock()
        context._is_logged = False
        return context

    @property
    def native(self) -> bool:
        """Whether rustls makes the connections of this context as it is set up now.

        For a context that is for either side (``PROTOCOL_TLS``): whether it does on both.
        """
        return self.fallback_reason is None

    @property
    def fallback_reason(self) -> str | None:
        """Why OpenSSL makes the connections of this context as it is set up now, if it does."""
        protocol = Properties.of(self).protocol
        sides = [side for side in (False, True) if protocol != ONLY[not side]]
        for server_side in sides:
            settings = self._settings_for(server_side)
            if isinstance(settings, str):
                return settings
        return None

    # -- what is remembered ----------------------------------------------------------------------

    def load_cert_chain(
        self,
        certfile: StrOrBytesPath,
        keyfile: StrOrBytesPath | None = None,
        password: Password | None = None,
    ) -> None:
        """As ``ssl.SSLContext.load_cert_chain``."""
        self._load_certificate(certfile, keyfile, password, replaces=False)

    def _replace_cert_chain(
        self,
        certfile: StrOrBytesPath,
        keyfile: StrOrBytesPath | None = None,
        password: Password | None = None,
    ) -> None:
        """As ``load_cert_chain``, and let go of the others; connections by OpenSSL keep them."""
        self._load_certificate(certfile, keyfile, password, replaces=True)

    def _load_certificate(
        self,
        certfile: StrOrBytesPath,
        keyfile: StrOrBytesPath | None,
        password: Password | None,
        *,
        replaces: bool,
    ) -> None:
        super().load_cert_chain(certfile, keyfile, password)
        chain = read(certfile)
        pem = (chain, chain if keyfile is None else read(keyfile))
        with self._is_changing:
            others = {} if replaces else self._certificates_loaded
            self._certificates_loaded = {**others, kind_of_key(chain): pem}
        self._version = object()

    def load_verify_locations(
        self,
        cafile: StrOrBytesPath | None = None,
        capath: StrOrBytesPath | None = None,
        cadata: str | ReadableBuffer | None = None,
    ) -> None:
        """As ``ssl.SSLContext.load_verify_locations``."""
        data: Any = cadata
        if cadata is not None and not isinstance(cadata, str):
            # A copy: the program may change its own. What is none of bytes is OpenSSL's to refuse.
            with contextlib.suppress(TypeError, BufferError):
                view = memoryview(cadata)
                data = bytes(view) if view.c_contiguous else cadata
        load = super().load_verify_locations
        try:
            self._trust.load(self, lambda: load(cafile, capath, data), cafile, capath, data)
        finally:
            self._version = object()

    def set_default_verify_paths(self) -> None:
        """As ``ssl.SSLContext.set_default_verify_paths``."""
        try:
            self._trust.load_defaults(self, super().set_default_verify_paths)
        finally:
            self._version = object()

    def _set_alpn_protocols(self, protocols: ReadableBuffer) -> None:
        cast("Any", super())._set_alpn_protocols(protocols)
        rest, names = bytes(protocols), []
        while rest:
            names.append(rest[1 : 1 + rest[0]])
            rest = rest[1 + rest[0] :]
        self._alpn = names
        self._version = object()

    @property
    def sni_callback(self) -> Any:
        """As ``ssl.SSLContext.sni_callback``, or a mapping of host names to contexts."""
        return OPENSSL.sni_callback.__get__(self) if self._by_name is None else self._by_name

    @sni_callback.setter
    def sni_callback(self, value: Any) -> None:
        by_name: Mapping[str, ssl.SSLContext] | None = None
        if isinstance(value, Mapping):
            by_name = {name.lower(): context for name, context in value.items()}
            for name, context in by_name.items():
                if not isinstance(context, ssl.SSLContext):
                    raise TypeError(f"sni_callback[{name!r}] is no ssl.SSLContext: {context!r}")

            def value(connection: Any, name: str | None, _: ssl.SSLContext) -> None:
                if name is not None and name.lower() in by_name:
                    connection.context = by_name[name.lower()]

        OPENSSL.sni_callback.__set__(self, value)
        self._by_name = by_name
        self._version = object()

    # -- settings --------------------------------------------------------------------------------

    def _settings_for(self, server_side: bool) -> _core.TLSSettings | str:
        """Return the settings for connections that are made now, or why there are none."""
        properties = Properties.of(self)
        chosen = self._by_name.values() if self._by_name else ()
        versions = [getattr(context, "_version", None) for context in chosen]
        folders = self._trust.changed() if properties.verify_mode else ()
        now = (properties, self._version, versions, folders, self.remembers_sessions)
        made = self._settings.get(server_side)
        if made is None or made.of != now:
            with self._is_making:
                made = self._settings.get(server_side)
                if made is None or made.of != now:
                    made = self._make_settings(server_side, properties, now)
                    self._settings[server_side] = made
        return made.settings

    def _make_settings(self, server_side: bool, properties: Properties, now: object) -> _Made:
        try:
            self._refuse_what_is_missing(properties, server_side)
            make = self._make_server_settings if server_side else self._make_client_settings
            return _Made(now, make(properties))
        except NotNativeError as error:
            return _Made(now, str(error))

    def _prepare(self) -> None:
        """Make what a server's connections need now, not when the first one comes. Any thread.

        The first settings of a process take tens of milliseconds, for its random numbers.
        """
        self._settings_for(server_side=True)

    def _refuse_what_is_missing(self, properties: Properties, server_side: bool) -> None:
        for is_set, why in (
            (not hasattr(_core, "TLSConnection"), "loop_pool was built without rustls"),
            (self._other is not None, self._other),
            (properties.protocol not in PROTOCOLS, "its protocol is a single version"),
            (properties.protocol == ONLY[not server_side], "it is for the other side"),
            (
                len(self._certificates_loaded) > 1,
                "certificates for several kinds of keys are loaded",
            ),
            (properties.post_handshake_auth, "post_handshake_auth is set"),
            (properties.msg_callback is not None, "_msg_callback is set"),
        ):
            if is_set:
                raise NotNativeError(why)

    def _trust_given(self, properties: Properties) -> TrustGiven | None:
        """Return what peers are verified by, if they are."""
        if not properties.verify_mode:
            return None
        properties.refuse_other_verification()
        return self._trust.given(self, properties)

    def _make_server_settings(self, properties: Properties) -> _core.TLSSettings | str:
        certificate = next(iter(self._certificates_loaded.values()), None)
        if certificate is None:
            raise NotNativeError("a server without a certificate")
        if self._by_name is None and OPENSSL.sni_callback.__get__(self) is not None:
            raise NotNativeError("sni_callback is a function")
        by_name = []
        for name, context in (self._by_name or {}).items():
            # OpenSSL has the client verified by what the chosen context trusts.
            if properties.verify_mode or context.verify_mode:
                raise NotNativeError("clients are verified, and contexts are chosen by name")
            if not isinstance(context, SSLContext) or len(context._certificates_loaded) != 1:
                raise NotNativeError(f"the context for {name!r} has no one certificate for rustls")
            if context._alpn not in ([], self._alpn):
                raise NotNativeError(f"the context for {name!r} has other protocols")
            by_name.append((name, next(iter(context._certificates_loaded.values()))))
        has_tickets = not properties.options & ssl.OP_NO_TICKET
        return _core._tls_server_settings(
            certificate,
            by_name,
            self._alpn,
            properties.versions,
            properties.num_tickets if has_tickets else 0,
            properties.key_log,
            self._trust_given(properties),
            properties.verify_mode == ssl.CERT_REQUIRED,
        )

    def _make_client_settings(self, properties: Properties) -> _core.TLSSettings | str:
        return _core._tls_client_settings(
            next(iter(self._certificates_loaded.values()), None),
            self._alpn,
            properties.versions,
            properties.key_log,
            self.remembers_sessions,
            self._trust_given(properties),
            properties.check_hostname,
        )

    # -- connections -----------------------------------------------------------------------------

    def _wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool,
        server_hostname: str | None = None,
        *,
        owner: ssl.SSLObject | None = None,
        session: ssl.SSLSession | None = None,
    ) -> Any:
        """Make what an ``ssl.SSLObject`` calls OpenSSL by."""
        settings = self._settings_for(server_side)
        if isinstance(settings, str):
            if not self._is_logged:
                self._is_logged = True
                log.info("OpenSSL makes the TLS connections of %r: %s", self, settings)
        elif session is None and self._is_usual(server_hostname, server_side):
            connection = _core.TLSConnection.open(
                settings,
                incoming,
                outgoing,
                self,
                server_hostname,
                owner,
                bool(OPENSSL.options.__get__(self) & ssl.OP_IGNORE_UNEXPECTED_EOF),
            )
            if connection is not None:
                return connection
        return cast("Any", super())._wrap_bio(
            incoming,
            outgoing,
            server_side,
            server_hostname=server_hostname,
            owner=owner,
            session=session,
        )

    def _is_usual(self, server_hostname: str | None, server_side: bool) -> bool:
        """Whether rustls does the same with such a name as OpenSSL, which may be to refuse it."""
        if server_hostname is None:
            return server_side or not OPENSSL.check_hostname.__get__(self)
        return not server_hostname.endswith(".")

    # -- for the native half ---------------------------------------------------------------------

    def _describe_certificate(self, der: bytes) -> dict[str, Any]:
        """Return what ``getpeercert()`` says of a certificate."""
        return described(der)

    def _certificates(self, chain: list[bytes]) -> list[Certificate]:
        return [Certificate(der) for der in chain]


def create_default_context(
    purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH,
    *,
    cafile: StrOrBytesPath | None = None,
    capath: StrOrBytesPath | None = None,
    cadata: str | ReadableBuffer | None = None,
) -> SSLContext:
    """Create an :class:`SSLContext` with the settings of ``ssl.create_default_context``.

    Args:
        purpose: ``ssl.Purpose.SERVER_AUTH`` for a client, ``CLIENT_AUTH`` for a server.
        cafile: a file of trusted certificates, in PEM.
        capath: a folder of such files.
        cadata: such certificates themselves, as PEM text or in DER.
            Without any of the three a client trusts the system's certificates.

    Raises:
        TypeError, ValueError: the purpose is neither.
        OSError, ssl.SSLError: the certificates cannot be read.
    """
    if purpose == ssl.Purpose.SERVER_AUTH:
        context = SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    elif purpose == ssl.Purpose.CLIENT_AUTH:
        context = SSLContext(ssl.PROTOCOL_TLS_SERVER)
    elif isinstance(purpose, type(ssl.Purpose.SERVER_AUTH).__mro__[1]):
        raise ValueError(purpose)
    else:
        raise TypeError(purpose)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    if cafile or capath or cadata:
        context.load_verify_locations(cafile, capath, cadata)
    elif context.verify_mode != ssl.CERT_NONE:
        context.load_default_certs(purpose)
    key_log = os.environ.get("SSLKEYLOGFILE")
    if key_log and not sys.flags.ignore_environment:
        context.keylog_filename = key_log
    return context


def own_connections(context: SSLContext) -> str | None:
    """Return why each connection of a context is OpenSSL's, whatever is set; ``None``: none is."""
    kind: Any = type(context)
    if (
        kind._wrap_bio is not SSLContext._wrap_bio
        or kind.wrap_bio is not ssl.SSLContext.wrap_bio
        or context.sslobject_class is not ssl.SSLObject
    ):
        return "its class makes connections of its own"
    return None


def _overriding(name: str, why: str) -> Any:
    @functools.wraps(getattr(ssl.SSLContext, name))
    def method(self: SSLContext, *args: Any, **kwargs: Any) -> Any:
        result = getattr(super(SSLContext, self), name)(*args, **kwargs)
        self._other = why
        self._version = object()
        return result

    return method


for _name, _why in _OTHER_SETTINGS.items():
    if hasattr(ssl.SSLContext, _name):
        setattr(SSLContext, _name, _overriding(_name, _why))
