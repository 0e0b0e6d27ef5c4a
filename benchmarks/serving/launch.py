"""What every server of the comparison is, to the one who runs them."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from wire import Wire

SERVERS = Path(__file__).with_name("servers")


@dataclass(frozen=True)
class Launch:
    """How to start a server and ask it: its command, its environment, its port, its key."""

    command: list[str]
    port: int
    environment: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Server:
    """One row of the table.

    Attributes:
        lacks: what a reader must know to compare it.
        launch: from its Python and an empty folder of its own to a launch.
        requirements: of its own environment; none for what runs in Stingy's.
        group: "stingy", "ablation" or "peer".
    """

    name: str
    lacks: str
    wire: Wire
    launch: Callable[[Path, Path], Launch]
    group: str
    requirements: tuple[str, ...] = ()
    start_timeout_s: float = 60.0


def fresh(folder: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
