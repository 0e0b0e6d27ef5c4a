"""Fill /opt/stingy in an image. pip installs no file whose hash is not in a lock.

    install.py LOCK [LOCK ...]   install the packages that Stingy needs
    install.py                   build and install Stingy itself, from /source

If TORCH_INDEX is set in the environment, PyTorch comes from that index, in the lock's version. Its
hashes are not checked then, because its files differ. The lock's packages for CUDA are left out.
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
    """Return the lock without PyTorch and the packages for CUDA, and the pins of PyTorch."""
    kept, torch = [], []
    for block in re.split(r"\n(?=\S)", lock):
        name, _, rest = block.partition("==")
        if TORCH.fullmatch(name):
            torch.append(f"{name}=={rest.split()[0]}")
        elif not FOR_CUDA.fullmatch(name):
            kept.append(block)
    return "\n".join(kept), torch


def packages(locks: list[Path], folder: Path, *, index: str) -> Iterator[Command]:
    """Yield the commands that install the packages of some locks.

    Args:
        folder: the folder for the requirement files that pip reads.
        index: the package index of PyTorch; empty for the index of all other packages.
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
    """Yield the commands that build Stingy with `build.lock` and install it beside its packages."""
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
            subprocess.run(command, check=True)  # noqa: S603  all arguments are set here


if __name__ == "__main__":
    main()
