"""The pepper: the secret under which the digests of keys and pixels are made."""

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from stingy_server.store.base import StoreUnavailable

PEPPER = "pepper"
PEPPER_BYTES = range(16, 65)  # fewer can be guessed, and BLAKE2 takes no more


def read_pepper(state: Path, *, create: bool = True) -> bytes:
    """Read the pepper of a state folder; create it at the first use.

    Args:
        create: whether it may be created.

    Raises:
        StoreUnavailable: the file has too few or too many bytes.
        OSError: it cannot be read or created.
    """
    pepper = _read_or_create(state / PEPPER) if create else (state / PEPPER).read_bytes()
    if len(pepper) not in PEPPER_BYTES:
        least, most = PEPPER_BYTES.start, PEPPER_BYTES.stop - 1
        raise StoreUnavailable(
            f"expected a pepper of {least} to {most} bytes in {state}, got {len(pepper)}"
        )
    return pepper


def read_present_pepper(state: Path) -> bytes | None:
    """Read the pepper of a state folder, or return None if there is none.

    Raises:
        StoreUnavailable: the file has too few or too many bytes.
        OSError: it cannot be read.
    """
    try:
        return read_pepper(state, create=False)
    except FileNotFoundError:
        return None


def check_pepper(pepper: bytes, digest: bytes) -> None:
    """Compare a pepper with the digest that a store has of its own.

    Raises:
        StoreUnavailable: the store was first used with another pepper.
    """
    if not hmac.compare_digest(digest, pepper_digest(pepper)):
        raise StoreUnavailable(
            "expected the pepper that the store was first used with, got another: "
            "copy the file from the state folder of another server of this store, or from a backup"
        )


def pepper_digest(pepper: bytes) -> bytes:
    """Return a digest that identifies a pepper and reveals nothing else of it."""
    return hashlib.blake2b(b"pepper", digest_size=16, key=pepper).digest()


def _read_or_create(path: Path) -> bytes:
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
        # A link appears whole or not at all, so two first starts agree on one pepper.
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
    return path.read_bytes()
