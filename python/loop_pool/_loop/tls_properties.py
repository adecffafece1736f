"""What an ``ssl.SSLContext`` is set to, as ``tls_context`` makes settings for rustls of it.

Compare these names of ``_ssl`` first for a new Python version:

==============================  ==================================================================
private name                    use here
==============================  ==================================================================
``_ssl._SSLContext``            its properties, without the enumerations of ``ssl``
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


class NotNativeError(Exception):
    """rustls does not have a setting. Its text says which."""


class Properties(NamedTuple):
    """What a context's properties are."""

    keylog_filename: str | bytes | None
    maximum_version: int
    minimum_version: int
    msg_callback: Any
    num_tickets: int
    options: int
    post_handshake_auth: bool
    protocol: int
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


_PRIVATE = {"msg_callback": "_msg_callback"}
_GETTERS = [vars(OPENSSL)[_PRIVATE.get(name, name)].__get__ for name in Properties.__annotations__]
"""What reads each of them, without the enumerations of ``ssl``."""
