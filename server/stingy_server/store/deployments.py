"""The versions to serve beside those of the settings, and the reports of what each process serves.

`stingy models` writes the desired versions into the state. Every server on that state reads them,
loads or unloads them, and writes a report. No request over the network can do this.
"""

import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace

from stingy_server.settings import ModelSettings
from stingy_server.store.database import Database

ALIVE_S = 60.0  # a process without a report for so long has ended; loading takes a while


@dataclass(frozen=True)
class Deployment:
    """A version to serve until it is deleted, also after a restart.

    `bundle` is the `bundle_digest` of the bundle that was there when the version was requested. No
    other bundle is served in its place. `looser` is true if its policy may let out more than, or
    other things than, the policies in service under its name.
    """

    name: str
    version: str
    settings: ModelSettings
    bundle: str
    looser: bool = False

    def with_share(self, share: float | None) -> "Deployment":
        return replace(self, settings=self.settings.model_copy(update={"share": share}))


@dataclass(frozen=True)
class Report:
    """The state of one version in one process.

    Attributes:
        fault: why the version is not in service there, or None.
        reported_at: in seconds since 1970.
        warnings: a line for each set of endpoints that together let out more than each of them.
        written: the policy as the settings or the bundle have it, such as "stingy:n=3".
        fingerprint: of the policy; empty with a fault.
    """

    process: str
    name: str
    version: str
    policy: str
    share: float | None
    fault: str | None
    reported_at: float
    warnings: str = ""
    written: str = ""
    fingerprint: str = ""


class Deployments:
    """The desired versions and the reports in a database.

    Raises:
        StoreUnavailable: from every method.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def upsert(self, deployment: Deployment) -> None:
        """Add a version to the desired ones, or change its settings."""
        self._database.execute(
            "INSERT INTO deployments (name, version, settings, bundle, looser) "
            "VALUES (?, ?, ?, ?, ?) ON CONFLICT (name, version) DO UPDATE "
            "SET settings = excluded.settings, bundle = excluded.bundle, "
            "looser = excluded.looser",
            (
                deployment.name,
                deployment.version,
                deployment.settings.model_dump_json(),
                deployment.bundle,
                int(deployment.looser),
            ),
        )

    def delete(self, name: str, version: str) -> bool:
        """Remove a version from the desired ones; False if it was not one of them."""
        gone = self._database.execute(
            "DELETE FROM deployments WHERE name = ? AND version = ?", (name, version)
        )
        return gone.rowcount == 1

    def desired(self) -> list[Deployment]:
        rows = self._database.execute(
            "SELECT name, version, settings, bundle, looser FROM deployments ORDER BY name, version"
        )
        return [
            Deployment(
                name, version, ModelSettings.model_validate_json(settings), bundle, looser == 1
            )
            for name, version, settings, bundle, looser in rows
        ]

    def report(self, process: str, reports: Sequence[Report]) -> None:
        """Replace the reports of a process. Delete the reports of processes that have ended."""
        with self._database.transaction():
            self._database.execute(
                "DELETE FROM serving WHERE process = ? OR seen < ?",
                (process, time.time() - ALIVE_S),
            )
            for report in reports:
                self._database.execute(
                    "INSERT INTO serving "
                    "(process, name, version, policy, share, fault, seen, warnings, written, "
                    "fingerprint) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    astuple(report),
                )

    def reports(self) -> list[Report]:
        """Return the last reports of the living processes."""
        rows = self._database.execute(
            "SELECT process, name, version, policy, share, fault, seen, warnings, written, "
            "fingerprint FROM serving WHERE seen >= ? ORDER BY name, version, process",
            (time.time() - ALIVE_S,),
        )
        return [Report(*row) for row in rows]
