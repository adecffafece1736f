"""One event loop: the native core with asyncio's classes, its transports, streams and TLS."""
