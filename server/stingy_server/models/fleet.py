"""The models in service, each in one or more versions, and which version answers whom.

A key that names no version always meets the same one, so what it asks has one answer; the share
of keys that meet a canary is the canary's `share`.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from stingy_protection import BundleManifest, Policy, ScoreForm
from stingy_server.models.endpoints import Endpoint
from stingy_server.models.loading import LoadedModel
from stingy_server.settings import ModelSettings


class Fleet:
    """What is in service now. A change is seen whole by the next request, or not at all.

    Args:
        secret: what decides which keys meet a canary; the same in every process.
    """

    def __init__(self, endpoints: Iterable[Endpoint], *, secret: bytes) -> None:
        self._secret = secret
        self._models: dict[str, tuple[Endpoint, ...]] = {}
        for endpoint in endpoints:
            self.put(endpoint)

    def __iter__(self) -> Iterator[Endpoint]:
        return iter([version for versions in self._models.values() for version in versions])

    def versions(self, name: str) -> tuple[Endpoint, ...]:
        """The versions of a model: the one without a share first."""
        return self._models.get(name, ())

    def find(self, name: str, version: str | None, *, caller: str) -> Endpoint | None:
        """The version that was named or, if none was, the one this caller always meets."""
        versions = self._models.get(name, ())
        if version is not None:
            return next((found for found in versions if found.manifest.version == version), None)
        if len(versions) < 2:
            return versions[0] if versions else None
        place = self._place(name, caller)
        for canary in versions[1:]:
            place -= canary.share or 0.0
            if place < 0:
                return canary
        return versions[0]

    def limited(self, name: str) -> bool:
        """Whether all keys together have a budget for this model, in whichever version."""
        return any(version.limited for version in self._models.get(name, ()))

    def put(self, endpoint: Endpoint) -> None:
        """Take a version into service, in place of one of the same number."""
        others = [
            version
            for version in self._models.get(endpoint.name, ())
            if version.manifest.version != endpoint.manifest.version
        ]
        # The base first; the canaries in an order that does not depend on who came when.
        self._models[endpoint.name] = tuple(
            sorted([*others, endpoint], key=lambda v: (v.share is not None, v.manifest.version))
        )

    def take(self, name: str, version: str) -> Endpoint | None:
        """Take a version out of service; its engine is the caller's to close."""
        found = self.find(name, version, caller="")
        if found is not None:
            left = tuple(other for other in self._models[name] if other is not found)
            self._models = {**self._models, name: left}
            if not left:
                del self._models[name]
        return found

    def set_share(self, endpoint: Endpoint, share: float | None) -> None:
        """Let a version in service meet another share of the keys."""
        settings = endpoint.settings.model_copy(update={"share": share})
        self.put(replace(endpoint, share=share, settings=settings))

    def _place(self, name: str, caller: str) -> float:
        """Where a caller stands, in 0..1; the same every time, and for nobody to choose."""
        digest = hashlib.blake2b(f"{name} {caller}".encode(), digest_size=8, key=self._secret)
        return int.from_bytes(digest.digest()) / 2**64


@dataclass(frozen=True)
class Overlap:
    """Endpoints that together let out more than each of them; `text` says so."""

    endpoints: tuple[Endpoint, ...]
    text: str


def overlaps(endpoints: Iterable[Endpoint]) -> list[Overlap]:
    """The versions of one model, and two policies over the same weights."""
    by_name: dict[str, list[Endpoint]] = defaultdict(list)
    by_weights: dict[str, list[Endpoint]] = defaultdict(list)
    for endpoint in endpoints:
        by_name[endpoint.name].append(endpoint)
        by_weights[endpoint.weights].append(endpoint)
    found = []
    for name, versions in by_name.items():
        if len(versions) > 1:
            numbers = ", ".join(version.manifest.version for version in versions)
            text = (
                f"{name} is served in the versions {numbers}: where they differ, both answers "
                "together tell more than either"
            )
            found.append(Overlap(tuple(versions), text))
    for shared in by_weights.values():
        if len({endpoint.policy for endpoint in shared}) > 1:
            loosest = max(shared, key=lambda endpoint: _looseness(endpoint.policy))
            names = ", ".join(_named(endpoint) for endpoint in shared)
            text = (
                f"{names} serve the same weights: together they are at least as open as "
                f"{_named(loosest)}"
            )
            found.append(Overlap(tuple(shared), text))
    return found


def _named(endpoint: Endpoint) -> str:
    return f"{endpoint.name} {endpoint.manifest.version}"


def _looseness(policy: Policy) -> tuple[bool, bool, int, int]:
    scored = policy.scores not in (ScoreForm.RANK, ScoreForm.NONE)
    return policy.hides_nothing, scored, policy.support, policy.decimals


def version_faults(models: Sequence[LoadedModel | Endpoint]) -> list[str]:
    """What keeps these models from being served side by side."""
    faults = []
    by_name: dict[str, list[tuple[BundleManifest, ModelSettings]]] = defaultdict(list)
    for model in models:
        by_name[model.name].append((model.manifest, model.settings))
    for name, versions in by_name.items():
        numbers = [manifest.version for manifest, _ in versions]
        for number in sorted({number for number in numbers if numbers.count(number) > 1}):
            faults.append(
                f"models: {name} {number} is given {numbers.count(number)} times, expected once; "
                "give another name or version"
            )
        shares = [settings.share for _, settings in versions if settings.share is not None]
        if len(versions) - len(shares) != 1 and len(set(numbers)) == len(numbers):
            faults.append(
                f"{name}: expected a share for every version but one, "
                f"got {len(versions) - len(shares)} of {len(versions)} without"
            )
        if sum(shares) > 1:
            faults.append(f"{name}: expected shares of at most 1 together, got {sum(shares):g}")
        if len({manifest.classes for manifest, _ in versions}) > 1:
            faults.append(f"{name}: expected the same classes in every version, got different ones")
        budgets = {
            (settings.budget, settings.budget_per_day)
            for _, settings in versions
            if (settings.budget, settings.budget_per_day) != (None, None)
        }
        if len(budgets) > 1:
            faults.append(f"{name}: expected one budget for all versions, got {len(budgets)}")
    return faults
