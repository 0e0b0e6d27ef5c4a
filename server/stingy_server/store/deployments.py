"""Which versions are to be served beside those of the settings, and what each process serves.

The command writes what is wanted into the state; every server on that state reads it, acts, and
writes what became of it. Nothing of this can be asked for over the network.
"""

import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace

from stingy_server.settings import ModelSettings
from stingy_server.store.database import Database

ALIVE_S = 60.0  # a process that has told nothing for so long is gone; loading takes a while


@dataclass(frozen=True)
class Deployment:
    """A version that is to be served until it is withdrawn, over restarts too.

    `bundle` is the `identity` of the one that was there when it was asked for, and no other is
    served in its place; None where an earlier release did not note it.
    """

    name: str
    version: str
    settings: ModelSettings
    bundle: str | None = None

    def with_share(self, share: float | None) -> "Deployment":
        return replace(self, settings=self.settings.model_copy(update={"share": share}))


@dataclass(frozen=True)
class Report:
    """One version in one process; `fault` says why it is not in service there.

    `warnings`: what it and others let out together, a line each.
    """

    process: str
    name: str
    version: str
    policy: str
    share: float | None
    fault: str | None
    seen: float
    warnings: str = ""


class Deployments:
    """The tables in a database.

    Raises:
        StoreUnavailable: from every method.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def ask(self, wanted: Deployment) -> None:
        """Want a version, or want it with other settings."""
        self._database.execute(
            "INSERT INTO deployments (name, version, settings, bundle) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (name, version) DO UPDATE "
            "SET settings = excluded.settings, bundle = excluded.bundle",
            (wanted.name, wanted.version, wanted.settings.model_dump_json(), wanted.bundle),
        )

    def withdraw(self, name: str, version: str) -> bool:
        """Want a version no more; False where it was not wanted."""
        gone = self._database.execute(
            "DELETE FROM deployments WHERE name = ? AND version = ?", (name, version)
        )
        return gone.rowcount == 1

    def wanted(self) -> list[Deployment]:
        rows = self._database.execute(
            "SELECT name, version, settings, bundle FROM deployments ORDER BY name, version"
        )
        return [
            Deployment(name, version, ModelSettings.model_validate_json(settings), bundle)
            for name, version, settings, bundle in rows
        ]

    def tell(self, process: str, reports: Sequence[Report]) -> None:
        """Say what a process serves now, in place of what it said before."""
        with self._database.transaction():
            self._database.execute(
                "DELETE FROM serving WHERE process = ? OR seen < ?",
                (process, time.time() - ALIVE_S),
            )
            for report in reports:
                self._database.execute(
                    "INSERT INTO serving "
                    "(process, name, version, policy, share, fault, seen, warnings) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    astuple(report),
                )

    def told(self) -> list[Report]:
        """What the living processes said last."""
        rows = self._database.execute(
            "SELECT process, name, version, policy, share, fault, seen, warnings FROM serving "
            "WHERE seen >= ? ORDER BY name, version, process",
            (time.time() - ALIVE_S,),
        )
        return [Report(*row) for row in rows]
