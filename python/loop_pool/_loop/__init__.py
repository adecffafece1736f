"""One event loop: the native core under asyncio's own classes, its transports, streams and TLS."""
