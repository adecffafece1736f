"""What an ``ssl.SSLContext`` is set to, as ``tls_context`` makes settings for rustls of it.

Compare these names of ``_ssl`` first for a new Python version:

==============================  ==================================================================
private name                    use here
==============================  ==================================================================
``_ssl._SSLContext``            its properties, without the enumerations of ``ssl``;
                                ``_host_flags``, of which ``ssl`` shows one bit
==============================  ==================================================================
"""

from __future__ import annotations

import os
import ssl
from typing import Any, NamedTuple, Self

OPENSSL: Any = ssl.SSLContext.__base__
PROTOCOLS = (ssl.PROTOCOL_TLS, ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER)
ONLY = {False: int(ssl.PROTOCOL_TLS_CLIENT), True: int(ssl.PROTOCOL_TLS_SERVER)}
_FROM_1_2, _FROM_1_3 = int(ssl.TLSVersion.TLSv1_2), int(ssl.TLSVersion.TLSv1_3)
_LATEST = int(ssl.TLSVersion.MAXIMUM_SUPPORTED)


_PARTIAL_CHAIN, _STRICT = int(ssl.VERIFY_X509_PARTIAL_CHAIN), int(ssl.VERIFY_X509_STRICT)
_TRUSTED_FIRST = int(ssl.VERIFY_X509_TRUSTED_FIRST)
_CRL_LEAF, _CRL_CHAIN = int(ssl.VERIFY_CRL_CHECK_LEAF), int(ssl.VERIFY_CRL_CHECK_CHAIN)
_FLAGS = _PARTIAL_CHAIN | _STRICT | _TRUSTED_FIRST | _CRL_CHAIN
_NO_PARTIAL_WILDCARDS, _NEVER_CHECK_SUBJECT = 0x4, 0x20
"""Of OpenSSL's ``X509_CHECK_FLAG_*``: a ``*`` stands for whole labels; the subject has no host."""
_SECURITY_LEVEL = 2


class NotNativeError(Exception):
    """rustls does not have a setting. Its text says which."""


class Properties(NamedTuple):
    """What a context's properties are."""

    check_hostname: bool
    host_flags: int
    keylog_filename: str | bytes | None
    maximum_version: int
    minimum_version: int
    msg_callback: Any
    num_tickets: int
    options: int
    post_handshake_auth: bool
    protocol: int
    security_level: int
    verify_flags: int
    verify_mode: int

    @classmethod
    def of(cls, context: ssl.SSLContext) -> Self:
        return cls(*(get(context) for get in _GETTERS))

    @property
    def key_log(self) -> str | None:
        return None if self.keylog_filename is None else os.fsdecode(self.keylog_filename)

    @property
    def versions(self) -> tuple[bool, bool]:
        """Whether TLS 1.2 and TLS 1.3 are enabled.

        Raises:
            NotNativeError: so is an older one, or none is.
        """
        newest = _FROM_1_3 if self.maximum_version == _LATEST else self.maximum_version
        if self.minimum_version not in (_FROM_1_2, _FROM_1_3):
            raise NotNativeError("versions below TLS 1.2 are enabled")
        tls12 = self.minimum_version == _FROM_1_2 and not self.options & ssl.OP_NO_TLSv1_2
        tls13 = newest == _FROM_1_3 and not self.options & ssl.OP_NO_TLSv1_3
        if newest < self.minimum_version or not (tls12 or tls13):
            raise NotNativeError("neither TLS 1.2 nor TLS 1.3 is enabled")
        return tls12, tls13

    # -- how certificates are verified -----------------------------------------------------------

    @property
    def partial_chain(self) -> bool:
        return bool(self.verify_flags & _PARTIAL_CHAIN)

    @property
    def strict(self) -> bool:
        return bool(self.verify_flags & _STRICT)

    @property
    def ignores_common_name(self) -> bool:
        return bool(self.host_flags & _NEVER_CHECK_SUBJECT)

    @property
    def crl_check(self) -> int:
        """Of which certificates the lists of revoked ones are asked: as ``_core`` numbers it."""
        if self.verify_flags & _CRL_CHAIN == _CRL_CHAIN:
            return 2
        return 1 if self.verify_flags & _CRL_LEAF else 0

    def refuse_other_verification(self) -> None:
        """Check that certificates are to be verified in one of the ways that are known here.

        Raises:
            NotNativeError: they are not.
        """
        for is_known, what in (
            (self.verify_flags & ~_FLAGS == 0, "verify_flags"),
            (self.verify_flags & _TRUSTED_FIRST, "verify_flags"),
            (self.host_flags & ~_NEVER_CHECK_SUBJECT == _NO_PARTIAL_WILDCARDS, "_host_flags"),
            (self.security_level == _SECURITY_LEVEL, "security_level"),
        ):
            if not is_known:
                raise NotNativeError(f"certificates are verified, and {what} is not as usual")


_PRIVATE = {"msg_callback": "_msg_callback", "host_flags": "_host_flags"}
_GETTERS = [vars(OPENSSL)[_PRIVATE.get(name, name)].__get__ for name in Properties.__annotations__]
"""What reads each of them, without the enumerations of ``ssl``."""
