"""The description of a server, by which the comparison runs it."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from wire import Wire

SERVERS = Path(__file__).with_name("servers")
sys.path.append(str(SERVERS))  # writing a bundle builds its network, whose module is there


@dataclass(frozen=True)
class Launch:
    """The command, port and environment of a server, and the headers of a request to it."""

    command: list[str]
    port: int
    environment: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Server:
    """One row of the table.

    Attributes:
        lacks: the differences from Stingy that a reader must know to compare them.
        launch: returns a launch, given a Python and an empty folder.
        requirements: packages of the server's own environment; none if it runs in Stingy's.
        group: "stingy", "ablation", "engine", "bare" or "peer".
    """

    name: str
    lacks: str
    wire: Wire
    launch: Callable[[Path, Path], Launch]
    group: str
    requirements: tuple[str, ...] = ()
    start_timeout_s: float = 60.0


def make_empty(folder: Path) -> Path:
    """Make a folder, or empty it, and return it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
