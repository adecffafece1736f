"""Transports, servers of one loop, and datagrams: bytes, order, flow control, errors, ends."""
