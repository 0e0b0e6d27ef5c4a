"""The secret of the marks: it chooses the marked inputs, and encrypts what is kept of them.

It is a file of its own, outside of the state folder, so that a copy of the state shows no mark.
"""

import hashlib
import stat
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from stingy_protection.files import read_regular_file
from stingy_protection.marks import mark_digest
from stingy_server.errors import ConfigurationError

LEAST_BYTES, MOST_BYTES = 32, 4096
OTHERS = stat.S_IRWXG | stat.S_IRWXO  # the rights of anyone but the owner
_COMMITMENT = b"stingy marks commitment\0"


@dataclass(frozen=True)
class MarkSecret:
    """The secret of the marks.

    Args:
        value: at least 32 bytes, the same in every process and after every restart.
    """

    value: bytes = field(repr=False)

    @cached_property
    def commitment(self) -> bytes:
        """A digest that commits to the secret and reveals nothing else of it, 32 bytes."""
        return hashlib.sha256(_COMMITMENT + self.value).digest()

    def derive(self, label: str, *parts: bytes) -> bytes:
        """Return the HMAC-SHA256 of a label and parts, 32 bytes.

        Args:
            label: separates this use of the secret from any other.
            parts: their lengths are part of the message, so that no two lists give one message.
        """
        return mark_digest(self.value, label, *parts)


def read_mark_secret(path: Path, *, state: Path) -> MarkSecret:
    """Read the secret of the marks, without white space at its ends.

    Args:
        state: the state folder, in which the file may not be.

    Raises:
        ConfigurationError: the file is in the state folder, others may read it, or it has too few
            or too many bytes.
    """
    name = f"marks.secret_file: {path}"
    if state.resolve() in path.resolve().parents:
        raise ConfigurationError(
            [f"{name}: expected a file outside of the state folder, got one in it: move it"]
        )
    try:
        mode = path.stat().st_mode
        value = read_regular_file(path, max_bytes=MOST_BYTES).strip()
    except OSError:
        fault = f"expected a regular file of at most {MOST_BYTES} bytes, got none that is readable"
        raise ConfigurationError([f"{name}: {fault}"]) from None
    if mode & OTHERS:
        fault = f"expected a file of mode 0600, got {stat.S_IMODE(mode):04o}: chmod 600"
        raise ConfigurationError([f"{name}: {fault}"])
    if len(value) < LEAST_BYTES:
        fault = f"expected at least {LEAST_BYTES} bytes, got {len(value)}: openssl rand -hex 32"
        raise ConfigurationError([f"{name}: {fault}"])
    return MarkSecret(value)
