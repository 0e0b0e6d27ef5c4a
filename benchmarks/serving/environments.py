"""A virtual environment for each peer, all with the same PyTorch as Stingy.

PyTorch is linked into them instead of installed, so that no row differs by the build of PyTorch.
"""

import subprocess
import sysconfig
import venv
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

INSTALL_TIMEOUT_S = 1200


class NotInstalled(Exception):
    """A peer could not be installed; the message gives the reason in one line."""


def install(folder: Path, requirements: tuple[str, ...]) -> Path:
    """Make an environment with these requirements at the first use and return its Python.

    Raises:
        NotInstalled: pip failed or took too long; the message has its last line.
    """
    python = folder / "bin" / "python"
    done = folder / "installed"
    listed = "\n".join(requirements)
    if done.is_file() and done.read_text() == listed:
        return python
    venv.create(folder, clear=True, with_pip=True)
    command = [python, "-m", "pip", "install", "--quiet", "--no-input", *requirements]
    try:
        subprocess.run(  # noqa: S603
            command, check=True, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S
        )
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"status {error.returncode}"]
        raise NotInstalled(f"pip: {lines[-1][:200]}") from None
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"pip: expected an end within {INSTALL_TIMEOUT_S} s, got none") from None
    _link_torch(next((folder / "lib").glob("python*/site-packages")))
    done.write_text(listed)
    return python


def versions(python: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Return the installed versions of these distributions."""
    script = (
        "import sys, importlib.metadata as m\n"
        "for name in sys.argv[1:]: print(name, m.version(name))"
    )
    completed = subprocess.run(  # noqa: S603
        [python, "-c", script, *names], check=False, capture_output=True, text=True
    )
    return dict(line.split() for line in completed.stdout.splitlines())


def _link_torch(site_packages: Path) -> None:
    """Link torch, numpy and all they require, except packages that the peer has installed."""
    own = Path(sysconfig.get_paths()["purelib"])
    for name in sorted(_dependencies("torch") | _dependencies("numpy")):
        for top in {file.parts[0] for file in distribution(name).files or ()}:
            # Without metadata pip does not know of the links, so it never changes the originals.
            if top.endswith((".dist-info", ".egg-info")) or top in ("..", "__pycache__"):
                continue
            target = site_packages / top
            if not target.exists():
                target.symlink_to(own / top)


def _dependencies(name: str, visited: frozenset[str] = frozenset()) -> set[str]:
    """Return the names of a distribution and of all that it requires on this platform."""
    try:
        required = distribution(name).requires or []
    except PackageNotFoundError:  # for another platform
        return set()
    found = {name}
    for text in required:
        requirement = Requirement(text)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and requirement.name not in visited | found:
            found |= _dependencies(requirement.name, visited | found)
    return found
