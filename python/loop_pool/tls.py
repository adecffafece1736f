"""TLS below Python: contexts for everything that takes an ``ssl.SSLContext``.

::

    context = loop_pool.tls.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain("server.pem", "server.key")
    server = await loop_pool.start_server(handler, port=8443, ssl=context)
"""

from __future__ import annotations

from ._loop.tls_context import SSLContext, create_default_context

__all__ = ["SSLContext", "create_default_context"]
