"""Reading of files whose names come from settings, manifests and policies.

A name may lead to a pipe or a device, which blocks for ever or never ends. So only regular files of
a bounded size are read.
"""

import os
import stat


def read_regular_file(path: str | os.PathLike[str], *, max_bytes: int) -> bytes:
    """Read a whole file.

    Args:
        path: the name of the file. Links are followed.
        max_bytes: the size of the largest file that is read.

    Raises:
        OSError: if there is no regular file of this name, it is larger, or it cannot be read.
    """
    try:
        _check(os.stat(path), max_bytes)
        # Another file may have taken its place since, and opening a pipe must not block.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except ValueError:
        raise OSError("expected the name of a file, got a null character in it") from None
    with open(descriptor, "rb") as file:
        _check(os.fstat(descriptor), max_bytes)
        content = file.read()
    if len(content) > max_bytes:  # it has grown since
        raise OSError(f"expected a file of at most {max_bytes} bytes, got a larger one")
    return content


def _check(status: os.stat_result, max_bytes: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError("expected a regular file, got another kind of file")
    if status.st_size > max_bytes:
        raise OSError(f"expected a file of at most {max_bytes} bytes, got a larger one")
