"""Say why an address cannot be listened on, and what to do."""

import errno

_ADVICE = {
    errno.EADDRINUSE: "end the program that listens here, or name another port",
    errno.EACCES: "name a port from 1024 on, or allow this program the ports below",
    errno.EADDRNOTAVAIL: "name an address of this machine",
}


def cannot_listen(host: str, port: int, error: OSError) -> str:
    """Return the sentence for an address that could not be bound or listened on."""
    advice = _ADVICE.get(error.errno or 0)
    reason = f"{host}:{port}: cannot listen here: {error.strerror or error}"
    return f"{reason}; {advice}" if advice else reason
