"""The rollout: once a second, load and unload versions until the desired ones are in service.

A new version passes the checks of a start and answers an image before it is in service. A version
that fails a check changes nothing for any client. Requests are served meanwhile.
"""

import asyncio
import logging
import os
import secrets
import time
from dataclasses import dataclass

from stingy_server.models.advice import policy_notes
from stingy_server.models.deployed import replaced_bundles
from stingy_server.models.endpoints import Endpoint, start_endpoints
from stingy_server.models.fleet import looser_faults, overlaps, version_faults
from stingy_server.models.loading import load_bundles
from stingy_server.observability.request_record import RequestRecord
from stingy_server.process.gc_tuning import refreeze_gc
from stingy_server.service import Service
from stingy_server.store.base import StoreUnavailable
from stingy_server.store.deployments import Deployment, Deployments, Report
from stingy_server.store.ledger import NO_VALUE

log = logging.getLogger("stingy")

EVERY_S = 1.0


@dataclass(frozen=True)
class _Failed:
    """A deployment that failed to load. It is not tried again until it changes."""

    deployment: Deployment
    fault: str


class Rollout:
    """The rollout of one process.

    Args:
        deployed: the desired versions that the start of the process has put into service.
    """

    def __init__(self, service: Service, deployed: list[Deployment]) -> None:
        self._service = service
        self._deployments = Deployments(service.database)
        self._process = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._served = {(desired.name, desired.version): desired for desired in deployed}
        self._failed: dict[tuple[str, str], _Failed] = {}
        self._closing_tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Reconcile once a second until the task is cancelled."""
        while True:
            try:
                await self.reconcile()
            except StoreUnavailable as error:
                log.error("rollout: %s", error)
            except Exception as error:  # noqa: BLE001  a row of a later release may have any content
                log.error("rollout: %s", type(error).__name__)
            await asyncio.sleep(EVERY_S)

    def close(self) -> None:
        """Report that this process serves no version any more.

        Raises:
            StoreUnavailable: the report cannot be written.
        """
        self._deployments.report(self._process, [])

    async def reconcile(self) -> None:
        """Load the desired versions, unload the others, and write a report.

        Raises:
            StoreUnavailable: the state cannot be read or written.
        """
        executor = self._service.executor
        found = await executor.run(self._deployments.desired)
        desired = {(each.name, each.version): each for each in found}
        for key, served in [*self._served.items()]:
            # The same version may now be desired with other settings, such as another policy.
            if key not in desired or served.with_share(desired[key].settings.share) != desired[key]:
                await self._unload_version(*key)
        for key in [key for key in self._failed if key not in desired]:
            del self._failed[key]
        # Report before loading, which takes a while: a process without a report counts as ended.
        alive = self._reports()
        await executor.run(lambda: self._deployments.report(self._process, alive))
        # A version may be as loose as another that was allowed to be looser, so those come first.
        for key, deployment in sorted(desired.items(), key=lambda item: not item[1].looser):
            if key in self._served:
                await self._update_share(deployment)
            elif key not in self._failed or self._failed[key].deployment != deployment:
                await self._load_version(deployment)
        reports = self._reports()
        await executor.run(lambda: self._deployments.report(self._process, reports))

    async def _load_version(self, deployment: Deployment) -> None:
        key = (deployment.name, deployment.version)
        loop = asyncio.get_running_loop()
        try:
            endpoint, faults = await loop.run_in_executor(None, self._load, deployment)
        except Exception as error:  # noqa: BLE001  a model's factory may raise anything
            endpoint, faults = None, [f"{deployment.name}: failed with {type(error).__name__}"]
        if endpoint is not None and (endpoint.name, endpoint.manifest.version) != key:
            faults.append(f"expected {' '.join(key)} in the bundle, got another name or version")
        if endpoint is None or faults:
            self._failed[key] = _Failed(deployment, "; ".join(faults))
            if endpoint is not None:
                await endpoint.engine.close()
            return
        try:
            # While it loaded, the version may have been deleted, or changed.
            if deployment not in await self._service.executor.run(self._deployments.desired):
                return
            await self._record_event("load", endpoint)
            self._failed.pop(key, None)
            self._served[key] = deployment
            self._service.fleet.put(endpoint)
        finally:
            if key not in self._served:
                await endpoint.engine.close()
        for text in self._warnings(endpoint):
            log.warning("%s", text)

    def _load(self, deployment: Deployment) -> tuple[Endpoint | None, list[str]]:
        """Load, check and try a version. Runs off the event loop."""
        settings = self._service.settings.model_copy(update={"models": (deployment.settings,)})
        models, faults = load_bundles(settings)
        faults += replaced_bundles([deployment], models)
        faults += version_faults([*self._service.fleet, *models])
        if not deployment.looser:
            faults += [
                fault for model in models for fault in looser_faults(model, self._service.fleet)
            ]
        if faults:
            return None, faults
        endpoints, faults = start_endpoints(models, settings, secret=self._service.database.pepper)
        return (endpoints[0] if endpoints else None), faults

    async def _update_share(self, deployment: Deployment) -> None:
        """Apply a changed share. A version with any other change was unloaded before."""
        fleet = self._service.fleet
        found = fleet.find(deployment.name, deployment.version, caller="")
        if found is not None and found.share != deployment.settings.share:
            await self._record_event("share", found)
            fleet.set_share(found, deployment.settings.share)
        self._served[deployment.name, deployment.version] = deployment

    async def _unload_version(self, name: str, version: str) -> None:
        fleet, settings = self._service.fleet, self._service.settings
        endpoint = fleet.find(name, version, caller="")
        if endpoint is not None:
            await self._record_event("unload", endpoint)
            fleet.take(name, version)
            # A client whose request already has this version may still send its body.
            in_use_s = settings.body_timeout_s + settings.deadline_s
            task = asyncio.create_task(_close_later(endpoint, in_use_s))
            self._closing_tasks.add(task)
            task.add_done_callback(self._closing_tasks.discard)
        del self._served[name, version]

    async def _record_event(self, event: str, endpoint: Endpoint) -> None:
        """Record a change before it is made, so that the next round retries it if this fails."""
        record = RequestRecord(NO_VALUE, time.perf_counter(), endpoint=endpoint, event=event)
        entry = record.entry(0)
        await self._service.executor.run(lambda: self._service.ledger.append(entry))

    def _warnings(self, endpoint: Endpoint) -> list[str]:
        """Describe what may surprise: overlaps with others, and scores that never differ."""
        title = f"{endpoint.name} {endpoint.manifest.version}"
        notes = [f"{title}: {note}" for note in policy_notes(endpoint.policy)]
        found = overlaps(self._service.fleet)
        return [overlap.text for overlap in found if endpoint in overlap.endpoints] + notes

    def _reports(self) -> list[Report]:
        now = time.time()
        serving = [
            Report(
                self._process,
                endpoint.name,
                endpoint.manifest.version,
                endpoint.policy.describe(),
                endpoint.share,
                None,
                now,
                "\n".join(self._warnings(endpoint)),
                endpoint.settings.policy or endpoint.manifest.policy,
                endpoint.policy.fingerprint,
            )
            for endpoint in self._service.fleet
        ]
        known = {(report.name, report.version) for report in serving}
        failed = [
            Report(self._process, *key, "", None, failure.fault, now)
            for key, failure in self._failed.items()
            if key not in known
        ]
        return serving + failed


async def _close_later(endpoint: Endpoint, seconds: float) -> None:
    try:
        await asyncio.sleep(seconds)
    finally:
        await endpoint.engine.close()
    del endpoint
    refreeze_gc()
