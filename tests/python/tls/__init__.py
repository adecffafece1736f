"""TLS: content, handshakes, how a connection ends."""
