"""Pack code, wheels and mosaics for a GPU machine without a network, divided into calls.

    python benchmarks/gpu/pack.py OUT --wheels FOLDER --data FOLDER [--megabytes 56]

The data folder has cifar10.npz and tin100.npz. 25,000 training and 5,000 test images of each are
packed. OUT/1 has the contents of the first call:

- code.tar.gz, the commit that is checked out;
- wheels/, with a wheel of this package, because the commands need its metadata;
- the first mosaics.

OUT/2 and so on have the other mosaics. Every call needs OUT/unpack.sh, too. The command prints the
size of each call.
"""

import argparse
import gzip
import shutil
import subprocess
import sys
from pathlib import Path

import mosaics

ROOT = Path(__file__).parents[2]
DATA = ("cifar10", "tin100")
MEGABYTE = 2**20


def write_code(folder: Path) -> None:
    """Write the checked-out commit, with its name in the file COMMIT, and this package's wheel."""
    commit = _run("git", "-C", str(ROOT), "rev-parse", "HEAD").decode().strip()
    note = folder / "COMMIT"
    note.write_text(commit + "\n")
    archive = ("git", "-C", str(ROOT), "archive", f"--add-file={note}", "HEAD")
    (folder / "code.tar.gz").write_bytes(gzip.compress(_run(*archive)))
    note.unlink()
    build = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", str(ROOT))
    _run(*build, "-w", str(folder / "wheels"))


def write_calls(files: list[Path], out: Path, *, size: int) -> None:
    """Copy files into OUT/1, OUT/2, ..., in their order.

    size: largest size of a folder, in bytes.
    """
    number, used = 1, _size(out / "1")
    for file in files:
        if used + file.stat().st_size > size:
            number, used = number + 1, 0
        used += file.stat().st_size
        target = out / str(number) / "mosaics"
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target / file.name)


def _run(*command: str) -> bytes:
    return subprocess.run(command, check=True, capture_output=True).stdout  # noqa: S603


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description="Pack code, wheels and data in calls.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--wheels", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--megabytes", type=int, default=56)
    arguments = parser.parse_args()
    shutil.rmtree(arguments.out, ignore_errors=True)
    first = arguments.out / "1"
    shutil.copytree(arguments.wheels, first / "wheels")
    write_code(first)
    kept = arguments.data / "mosaics"
    for name in DATA:
        if not (kept / f"{name}.json").exists():
            mosaics.pack(arguments.data / f"{name}.npz", kept, train=25_000, test=5_000)
    files = [file for name in DATA for file in sorted(kept.glob(f"{name}*"))]
    write_calls(files, arguments.out, size=arguments.megabytes * MEGABYTE)
    for folder in sorted(arguments.out.iterdir()):
        print(f"{folder}: {_size(folder) / MEGABYTE:.1f} MiB")  # noqa: T201
    shutil.copy(Path(__file__).with_name("unpack.sh"), arguments.out)


if __name__ == "__main__":
    main()
