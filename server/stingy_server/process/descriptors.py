"""The limit of open files: raised at the start, and shared out between clients and the server."""

import os
import resource

# Connections beyond this number would cost more memory than they are worth.
MAX_CONNECTIONS = 16_384
MIN_RESERVE = 64


def raise_descriptor_limit() -> None:
    """Raise this process's soft limit of open files to the hard one. Its children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def count_connections_allowed() -> int:
    """Return how many connections of clients may be open at once in this process.

    An eighth of the limit, and what is open now, stays with the server: for its files, its store,
    upstream servers and the metrics.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    free = soft - len(os.listdir("/proc/self/fd")) - max(MIN_RESERVE, soft // 8)
    return max(1, min(free, MAX_CONNECTIONS))
