"""strip.py: what is left of a root after it, on a root with one file of each kind."""

import os
import shutil
from pathlib import Path

import pytest

from docker_scripts import strip

PACKAGES = "opt/stingy/lib/python3.12/site-packages"
CODE = b"\x7fELF" + bytes(60)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make a root with the kinds of files that the images have."""
    files = {
        "usr/local/bin/python3.12": (CODE, 0o755),
        "usr/local/bin/pip": (b"#!/usr/local/bin/python\n", 0o755),
        "usr/local/lib/libpython3.12.so.1.0": (CODE, 0o755),
        "usr/local/lib/python3.12/ensurepip/__init__.py": (b"", 0o644),
        "usr/local/lib/python3.12/cgi.py": (b"#!/usr/local/bin/python\n", 0o755),
        "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2": (CODE, 0o755),
        "usr/lib/apt/methods/http": (CODE, 0o755),
        "usr/bin/passwd": (CODE, 0o4755),
        "etc/cron.daily/dpkg": (b"#!/bin/sh\n", 0o755),
        "opt/stingy/bin/stingy": (b"#!/opt/stingy/bin/python\n", 0o755),
        "opt/stingy/bin/torchrun": (b"#!/opt/stingy/bin/python\n", 0o755),
        f"{PACKAGES}/pip/__main__.py": (b"", 0o644),
        f"{PACKAGES}/pip-25.1.dist-info/METADATA": (b"", 0o644),
        f"{PACKAGES}/pipeline/__init__.py": (b"", 0o644),
        f"{PACKAGES}/torch/bin/torch_shm_manager": (CODE, 0o755),
        f"{PACKAGES}/torch/bin/protoc": (CODE, 0o755),
        f"{PACKAGES}/torch/lib/libtorch.so": (CODE, 0o755),
        f"{PACKAGES}/triton/lib/libdevice.10.bc": (b"BC", 0o755),
        "proc/self/exe": (CODE, 0o755),
    }
    for name, (content, mode) in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode)
    for link, target in {
        "usr/local/bin/python": "python3.12",
        "usr/local/bin/pip3": "pip",
        "opt/stingy/bin/python": "../../../usr/local/bin/python",
    }.items():
        (tmp_path / link).symlink_to(target)
    return tmp_path


def started(root: Path) -> set[str]:
    """Return the names of the files of a root that may be started."""
    return {
        path.name
        for path in root.rglob("*")
        if path.is_file() and os.access(path, os.X_OK) and "proc" not in path.parts
    }


def test_U4_programs_go_and_libraries_stay(root: Path) -> None:
    strip(root, ["/usr/local/bin/python", "/opt/stingy/bin/stingy"])
    libraries = {"libpython3.12.so.1.0", "ld-linux-x86-64.so.2", "libtorch.so", "libdevice.10.bc"}
    assert started(root) == {"python", "python3.12", "stingy"} | libraries
    assert (root / "usr/local/lib/python3.12/cgi.py").exists()
    assert (root / PACKAGES / "torch/bin/torch_shm_manager").read_bytes() == b""
    assert (root / "proc/self/exe").exists()
    assert not [path for path in root.rglob("*") if path.is_symlink() and not path.exists()]


def test_U4_pip_goes_as_a_program_and_as_a_module(root: Path) -> None:
    strip(root, ["/usr/local/bin/python"])
    assert {path.name for path in root.rglob("*pip*")} == {"pipeline"}


def test_program_to_keep_that_is_missing_ends_the_build(root: Path) -> None:
    shutil.rmtree(root / "opt/stingy/bin")
    with pytest.raises(SystemExit, match="expected a program to keep"):
        strip(root, ["/opt/stingy/bin/stingy"])
    assert (root / "usr/bin/passwd").exists()
