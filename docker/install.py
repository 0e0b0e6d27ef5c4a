"""Fill /opt/stingy in an image: no file is installed whose hash the locks do not know.

    install.py LOCK [LOCK ...]   what Stingy needs
    install.py                   Stingy itself, from /source

With TORCH_INDEX in the environment, PyTorch comes from there, by the lock's version but by no hash,
as its files are others; and what the lock has for CUDA stays away.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path("/source")
TARGET = Path("/opt/stingy")
TORCH = re.compile(r"torch|torchvision")
FOR_CUDA = re.compile(r"triton|cuda-[a-z-]+|nvidia-[a-z0-9-]+")
Command = list[str | Path]


def split(lock: str) -> tuple[str, list[str]]:
    """The lock without PyTorch and what it has for CUDA, and the pins of PyTorch."""
    kept, torch = [], []
    for block in re.split(r"\n(?=\S)", lock):
        name, _, rest = block.partition("==")
        if TORCH.fullmatch(name):
            torch.append(f"{name}=={rest.split()[0]}")
        elif not FOR_CUDA.fullmatch(name):
            kept.append(block)
    return "\n".join(kept), torch


def packages(locks: list[Path], folder: Path, *, index: str) -> Iterator[Command]:
    """What installs the packages of some locks.

    Args:
        folder: for the lists that pip is given.
        index: where PyTorch comes from; empty for where all the rest does.
    """
    yield [sys.executable, "-m", "venv", TARGET]
    pip: Command = [TARGET / "bin/pip", "install", "--no-cache-dir", "--no-deps"]
    lists: Command = []
    for lock in locks:
        text = lock.read_text(encoding="utf-8")
        if index:
            text, torch = split(text)
            if torch:
                yield [*pip, "--index-url", index, *torch]
        (folder / lock.name).write_text(text, encoding="utf-8")
        lists += ["-r", folder / lock.name]
    yield [*pip, "--require-hashes", *lists]
    yield [TARGET / "bin/pip", "check"]


def stingy(folder: Path) -> Iterator[Command]:
    """What builds Stingy with the tools of `build.lock`, and installs it beside its packages."""
    yield [sys.executable, "-m", "venv", folder / "build"]
    pip: Command = [folder / "build/bin/pip"]
    lock = SOURCE / "docker/build.lock"
    yield [*pip, "install", "--no-cache-dir", "--no-deps", "--require-hashes", "-r", lock]
    yield [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, SOURCE]
    installed: Command = [TARGET / "bin/pip", "install", "--no-deps", "--no-index"]
    yield [*installed, "--find-links", folder, "stingy"]


def main() -> None:
    locks = [SOURCE / name for name in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        index = os.environ.get("TORCH_INDEX", "")
        for command in packages(locks, folder, index=index) if locks else stingy(folder):
            subprocess.run(command, check=True)  # noqa: S603  every word of it is here


if __name__ == "__main__":
    main()
