"""One virtual environment for each peer; every one runs the very same PyTorch as Stingy.

PyTorch is linked into them instead of installed, so that no row differs by its build.
"""

import subprocess
import sysconfig
import venv
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

INSTALL_TIMEOUT_S = 1200


class NotInstalled(Exception):
    """A peer could not be installed; the text says why, in one line."""


def install(folder: Path, requirements: tuple[str, ...]) -> Path:
    """The Python of an environment with these requirements, made at the first use.

    Raises:
        NotInstalled: with the last line of what pip said.
    """
    python = folder / "bin" / "python"
    done = folder / "installed"
    wanted = "\n".join(requirements)
    if done.is_file() and done.read_text() == wanted:
        return python
    venv.create(folder, clear=True, with_pip=True)
    command = [python, "-m", "pip", "install", "--quiet", "--no-input", *requirements]
    try:
        subprocess.run(  # noqa: S603
            command, check=True, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S
        )
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines() or [f"status {error.returncode}"]
        raise NotInstalled(f"pip: {said[-1][:200]}") from None
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"pip: not done in {INSTALL_TIMEOUT_S} s") from None
    _link_torch(next((folder / "lib").glob("python*/site-packages")))
    done.write_text(wanted)
    return python


def versions(python: Path, names: tuple[str, ...]) -> dict[str, str]:
    """What is installed of these distributions."""
    script = (
        "import sys, importlib.metadata as m\n"
        "for name in sys.argv[1:]: print(name, m.version(name))"
    )
    said = subprocess.run(  # noqa: S603
        [python, "-c", script, *names], check=False, capture_output=True, text=True
    )
    return dict(line.split() for line in said.stdout.splitlines())


def _link_torch(site_packages: Path) -> None:
    """Link torch and all it needs, except what the peer has brought itself."""
    own = Path(sysconfig.get_paths()["purelib"])
    for name in sorted(_needed_by("torch") | _needed_by("numpy")):
        for top in {file.parts[0] for file in distribution(name).files or ()}:
            # Without their metadata pip does not see them, and so never touches the originals.
            if top.endswith((".dist-info", ".egg-info")) or top in ("..", "__pycache__"):
                continue
            target = site_packages / top
            if not target.exists():
                target.symlink_to(own / top)


def _needed_by(name: str, visited: frozenset[str] = frozenset()) -> set[str]:
    """A distribution and all it requires here, by name."""
    try:
        required = distribution(name).requires or []
    except PackageNotFoundError:  # of another platform
        return set()
    found = {name}
    for text in required:
        requirement = Requirement(text)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and requirement.name not in visited | found:
            found |= _needed_by(requirement.name, visited | found)
    return found
