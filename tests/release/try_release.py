"""Build the release, check it, and install it as users do: each extra in an environment of its own.

    python tests/release/try_release.py [--only EXTRA ...]

uv makes the environments and keeps its downloads, so that PyTorch comes once. pytest does not run
it, because the environments need network and some GB.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

from rich.console import Console

ROOT = Path(__file__).parents[2]
PROBE = Path(__file__).with_name("probe.py")
UV = Path(sys.executable).with_name("uv")
# For each extra, what is installed with it, and what is tried then.
SERVED = ("base", "serve")
TRIED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "": ((), ("base",)),
    "server": ((), SERVED),
    "audit": ((), ("base", "audit")),
    "redis": (("server",), (*SERVED, "redis")),
    "postgres": (("server",), (*SERVED, "postgres")),
    "oidc": (("server",), (*SERVED, "oidc")),
    "marks": (("server",), ("base", "marks")),
    "otel": (("server",), (*SERVED, "otel")),
    "grpc": (("server",), ("base", "grpc")),
    "onnx": (("server",), ("base", "onnx")),
    "openvino": (("server",), ("base", "onnx")),
    "hugging-face": (("server",), SERVED),
    "timm": (("server",), SERVED),
    "ray": (("server",), ("base", "ray")),
    "torchserve": ((), ("base", "torchserve")),
}
# For work on this repository, which is installed from its folder.
REPOSITORY = {"dev", "docs", "fuzz", "interop"}
report = Console(highlight=False, markup=False, soft_wrap=True).print


def run(*command: str | Path, cwd: Path | None = None) -> None:
    report("$", *command)
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "STINGY_", "VIRTUAL_ENV"))
    }
    subprocess.run(command, check=True, cwd=cwd, env=clean)


def build(folder: Path) -> tuple[Path, Path]:
    """Build the release from a clean copy of what is committed. Return the wheel and the sdist."""
    source, dist = folder / "source", folder / "dist"
    source.mkdir()
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True)
    subprocess.run(["tar", "-x", "-C", source], input=archive.stdout, check=True)
    run(UV, "tool", "run", "--from", "build", "pyproject-build", "--outdir", dist, source)
    run(UV, "tool", "run", "twine", "check", "--strict", *dist.iterdir())
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    for path in (wheel, sdist):
        report(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")
    return wheel, sdist


def check_metadata(wheel: Path) -> None:
    """Check that version and extras of a wheel are those of the project, and that each is tried."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    with ZipFile(wheel) as file:
        (name,) = [name for name in file.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(file.read(name).decode())
        packages = {name.partition("/")[0] for name in file.namelist()}
    extras = set(metadata.get_all("Provides-Extra", []))
    assert metadata["Version"] == project["version"]
    assert extras == set(TRIED) - {""} | REPOSITORY, extras
    ours = {name for name in packages if name.startswith("stingy_")}
    assert ours == {
        "stingy_clients", "stingy_protection", "stingy_server", "stingy_attacker_eval"
    }  # fmt: skip


def try_install(folder: Path, artefact: Path, extra: str) -> None:
    """Install a file of the release with an extra in a fresh environment, and probe it."""
    beside, probes = TRIED[extra]
    extras = ",".join(filter(None, (*beside, extra)))
    environment = folder / "environment"
    python = environment / "bin/python"
    began = time.monotonic()
    run(UV, "venv", "--quiet", "--clear", "--python", sys.executable, environment)
    wanted = f"stingy[{extras}] @ {artefact.as_uri()}"
    pinned = ("--constraint", ROOT / "constraints.txt")
    run(UV, "pip", "install", "--quiet", "--python", python, *pinned, wanted)
    run(UV, "pip", "check", "--quiet", "--python", python)
    run(python, PROBE, *probes, cwd=folder)
    report(f"ok: {artefact.name} [{extras}], {time.monotonic() - began:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=sorted(TRIED), default=list(TRIED))
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="stingy-release-", dir="/var/tmp") as name:
        folder = Path(name)
        wheel, sdist = build(folder)
        check_metadata(wheel)
        for extra in options.only:
            try_install(folder, wheel, extra)
        for extra in ("", "server"):
            if extra in options.only:
                try_install(folder, sdist, extra)
    report(f"all in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
