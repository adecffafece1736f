"""What hypercorn has no command-line option for."""

keep_alive_max_requests = 10**9
"""No connection is closed for having been used often; the other servers do not do that either."""
