"""Bytes and transports of a pool under rude peers, foreign threads and the collector."""
