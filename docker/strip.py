"""Remove every program from the root of an image, but those that are named, and pip.

    strip.py KEPT [KEPT ...]

A program is a file with the right to be started that is a script or in the machine's own code.
Libraries stay, and so do modules of Python, without that right. Links that lead nowhere go too.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

MOUNTED = {"proc", "sys", "dev"}  # of the machine that builds
LIBRARY = re.compile(r"\.so(\.\w+)*")
INSTALLERS = re.compile(r"pip|pip-.+\.dist-info|ensurepip")
STARTS = (b"#!", b"\x7fELF")
# PyTorch looks for this file when it is imported. It starts it for shared memory alone, which the
# server does not use, so an empty file will do.
EMPTIED = "torch_shm_manager"


def files_of(root: Path) -> Iterator[Path]:
    """Yield the files and links below a root, but not those of the machine that builds."""
    for name, folders, files in os.walk(root):
        folder = Path(name)
        folders[:] = [each for each in folders if folder != root or each not in MOUNTED]
        yield from (folder / each for each in (*files, *folders))


def is_program(path: Path) -> bool:
    if path.is_symlink() or not path.is_file() or not path.stat().st_mode & 0o111:
        return False
    with path.open("rb") as file:
        return file.read(4).startswith(STARTS) and not LIBRARY.search(path.name)


def strip(root: Path, kept: Iterable[str]) -> None:
    """Remove the programs below a root.

    Args:
        kept: the paths of the programs that stay, as they are inside the root; links are followed.

    Raises:
        SystemExit: one of these is not there.
    """
    stay = {(root / path.lstrip("/")).resolve() for path in kept}
    if missing := [path for path in stay if not path.is_file()]:
        raise SystemExit(f"expected a program to keep, got none at {missing[0]}")
    for path in [path for path in files_of(root) if path.is_dir() and not path.is_symlink()]:
        if INSTALLERS.fullmatch(path.name) and "python3" in str(path.relative_to(root)):
            shutil.rmtree(path, ignore_errors=True)
    for path in [path for path in files_of(root) if is_program(path)]:
        if path in stay:
            continue
        if path.suffix == ".py":
            path.chmod(path.stat().st_mode & ~0o111)
            continue
        path.unlink()
        if path.name == EMPTIED:
            path.touch(0o644)
    for path in [path for path in files_of(root) if path.is_symlink() and not path.exists()]:
        if path.parent.name in ("bin", "sbin"):
            path.unlink()


if __name__ == "__main__":
    strip(Path("/"), sys.argv[1:])
    Path(__file__).unlink()
