"""The TLS context of a server that was given files: for rustls if it can, renewed on ``SIGHUP``."""

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING, Any, final

from .._loop.tls_context import SSLContext

if TYPE_CHECKING:
    import uvicorn

logger = logging.getLogger("uvicorn.error")

DEFAULT_CIPHERS = "TLSv1"
"""What uvicorn passes to OpenSSL if nobody chose any: those of TLS 1.0 and later."""


@final
class Certificates:
    """The context for ``ssl_certfile`` and what belongs to it, as uvicorn understands these.

    Args:
        config: loaded, with a certificate in a file and no factory of the program's.

    Raises:
        OSError, ssl.SSLError: the files cannot be used.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        self._config = config
        self.context = self._load(SSLContext(config.ssl_version))
        self.context.verify_mode = ssl.VerifyMode(config.ssl_cert_reqs)
        if config.ssl_ca_certs:
            self.context.load_verify_locations(config.ssl_ca_certs)
        if config.ssl_ciphers and config.ssl_ciphers != DEFAULT_CIPHERS:
            self.context.set_ciphers(config.ssl_ciphers)
        protocols = getattr(config.http_protocol_class, "alpn_protocols", None)
        if protocols:
            self.context.set_alpn_protocols(protocols)

    def _load(self, context: SSLContext, *, replaces: bool = False) -> SSLContext:
        config = self._config
        password: Any = config.ssl_keyfile_password or None
        assert config.ssl_certfile is not None  # says who makes this
        load = context._replace_cert_chain if replaces else context.load_cert_chain
        load(config.ssl_certfile, config.ssl_keyfile, password)
        return context

    def renew(self) -> None:
        """Read certificate and key again, for connections from now on.

        If that fails, it is logged, and the old ones stay.
        """
        config = self._config
        try:
            # A file may be half written, or not belong to the other one yet.
            self._load(SSLContext(config.ssl_version))
            # The new key may be of another kind, beside which the old one would stay.
            self._load(self.context, replaces=True)
        except (OSError, ValueError) as error:
            logger.error("Cannot reload %s, the old one is used: %s", config.ssl_certfile, error)
        else:
            logger.info("Reloaded %s", config.ssl_certfile)


def renews(config: uvicorn.Config, given: ssl.SSLContext | None) -> bool:
    """Return whether the certificate is in files that are read here: no context is ``given``."""
    return given is None and bool(config.ssl_certfile) and config.ssl_context_factory is None
