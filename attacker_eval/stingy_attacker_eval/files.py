"""Files that survive a kill: written whole or not at all, by one process at a time."""

import fcntl
import hashlib
import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from stingy_attacker_eval.errors import AuditError


def write_atomic(path: Path, content: bytes) -> None:
    """A reader sees the old file or the new one, never half of it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def write_json(path: Path, document: Mapping[str, object]) -> None:
    """Written whole; numbers that JSON cannot carry are a ValueError."""
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def digest_json(document: object) -> str:
    """SHA-256, hex, over the one canonical text of a JSON document."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def finished_first() -> Iterator[None]:
    """A first Ctrl-C waits for the end of the block, so that what is paid for is saved."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread hears of Ctrl-C
        return
    pressed = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    former = signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)
    if pressed:
        raise KeyboardInterrupt


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder, created if absent, for this process alone.

    Raises AuditError when another process holds it. A killed process holds nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AuditError(
                f"expected {folder} to be free, got one in use by another process: wait for it"
            ) from None
        yield
