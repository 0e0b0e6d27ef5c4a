"""Files that survive a kill: one process writes at a time, and a file is written whole or not."""

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

import numpy as np
from numpy.typing import NDArray

from stingy_attacker_eval.errors import AuditError


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that a reader gets the old content or the new one, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def write_json(path: Path, document: Mapping[str, object]) -> None:
    """Write a JSON document atomically. Raises ValueError if a number is not finite."""
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def read_npz(path: Path) -> dict[str, NDArray[np.generic]]:
    """Read the arrays of an npz file, without pickles.

    Raises FileNotFoundError if there is none, and ValueError if it is damaged or another file.
    """
    try:
        with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise
    except Exception:  # noqa: BLE001 - NumPy and zipfile raise almost any error on a damaged file
        raise ValueError(f"expected an npz file without pickles, got another at {path}") from None
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise ValueError(f"expected an npz file of arrays alone, got others at {path}")
    return arrays


def digest_json(document: object) -> str:
    """Return the SHA-256, hex, of the canonical text of a JSON document."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def defer_interrupt() -> Iterator[None]:
    """Defer a first Ctrl-C to the end of the block, so that bought answers are saved.

    A second Ctrl-C interrupts at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread receives SIGINT
        return
    pressed = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if pressed:
        raise KeyboardInterrupt


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock the folder for this process; create it if it is absent.

    The operating system releases the lock of a killed process.

    Raises AuditError if another process has the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AuditError(
                f"expected {folder} to be free, got it in use by another process: wait for its end"
            ) from None
        yield
