"""The models in service, each in one or more versions, and the routing of keys to versions.

A key that names no version always gets the same one, so a repeated query has one answer. A
canary's `share` is the fraction of the keys that are routed to it.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from stingy_protection import BundleManifest, Looseness, Policy, compare_policies
from stingy_server.models.endpoints import Endpoint
from stingy_server.models.loading import LoadedModel
from stingy_server.settings import ModelSettings


class Fleet:
    """The endpoints in service. Changes are atomic: a request gets the old or the new state.

    Args:
        secret: the key of the hash that routes keys to canaries. It is the same in every process.
    """

    def __init__(self, endpoints: Iterable[Endpoint], *, secret: bytes) -> None:
        self._secret = secret
        self._models: dict[str, tuple[Endpoint, ...]] = {}
        for endpoint in endpoints:
            self.put(endpoint)

    def __iter__(self) -> Iterator[Endpoint]:
        return iter([version for versions in self._models.values() for version in versions])

    def versions(self, name: str) -> tuple[Endpoint, ...]:
        """Return the versions of a model, the version without a share first."""
        return self._models.get(name, ())

    def find(self, name: str, version: str | None, *, caller: str) -> Endpoint | None:
        """Return the named version or, if none is named, the caller's usual version.

        Returns None if the model or the named version is not in service.

        Args:
            caller: the id of the key, by which a version is chosen.
        """
        versions = self._models.get(name, ())
        if version is not None:
            return next((each for each in versions if each.manifest.version == version), None)
        if len(versions) < 2:
            return versions[0] if versions else None
        position = self._position(name, caller)
        for canary in versions[1:]:
            position -= canary.share or 0.0
            if position < 0:
                return canary
        return versions[0]

    @property
    def several(self) -> bool:
        """True if more than one model is in service."""
        return len(self._models) > 1

    def limited(self, name: str) -> bool:
        """Return true if any version of the model has a budget that all keys share."""
        return any(version.limited for version in self._models.get(name, ()))

    def put(self, endpoint: Endpoint) -> None:
        """Add a version, in place of a version with the same number."""
        others = [
            version
            for version in self._models.get(endpoint.name, ())
            if version.manifest.version != endpoint.manifest.version
        ]
        # The base comes first. The canaries' order must not depend on when each was added.
        self._models[endpoint.name] = tuple(
            sorted([*others, endpoint], key=lambda v: (v.share is not None, v.manifest.version))
        )

    def take(self, name: str, version: str) -> Endpoint | None:
        """Remove a version from service and return it. The caller closes its engine.

        Returns None if the version is not in service.
        """
        found = self.find(name, version, caller="")
        if found is not None:
            left = tuple(other for other in self._models[name] if other is not found)
            self._models = {**self._models, name: left}
            if not left:
                del self._models[name]
        return found

    def set_share(self, endpoint: Endpoint, share: float | None) -> None:
        """Change the share of the keys that are routed to a version in service."""
        settings = endpoint.settings.model_copy(update={"share": share})
        self.put(replace(endpoint, share=share, settings=settings))

    def _position(self, name: str, caller: str) -> float:
        """Compute a stable, keyed position in [0, 1) that callers cannot choose."""
        digest = hashlib.blake2b(f"{name} {caller}".encode(), digest_size=8, key=self._secret)
        return int.from_bytes(digest.digest()) / 2**64


@dataclass(frozen=True)
class Overlap:
    """Endpoints that reveal more together than each alone, and a warning `text` about them."""

    endpoints: tuple[Endpoint, ...]
    text: str


def overlaps(endpoints: Iterable[Endpoint]) -> list[Overlap]:
    """Find versions of one model, and several policies over the same weights."""
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
                f"{name} is served in the versions {numbers}: where their answers differ, "
                "both together reveal more than one of them"
            )
            found.append(Overlap(tuple(versions), text))
    for shared in by_weights.values():
        if len({endpoint.policy for endpoint in shared}) > 1:
            policies = [endpoint.policy for endpoint in shared]
            loosest = [each for each in shared if _covers(each.policy, policies)]
            names = ", ".join(_full_name(endpoint) for endpoint in shared)
            together = (
                f"together they are at least as open as {_full_name(loosest[0])}"
                if loosest
                else "none of their policies contains the others, so together they reveal more "
                "than any of them"
            )
            text = f"{names} serve the same weights: {together}"
            found.append(Overlap(tuple(shared), text))
    return found


def _full_name(endpoint: LoadedModel | Endpoint) -> str:
    return f"{endpoint.name} {endpoint.manifest.version}"


def _covers(policy: Policy, others: Iterable[Policy]) -> bool:
    """Check whether a policy is at least as loose as each of the others."""
    at_least = (Looseness.EQUAL, Looseness.LOOSER)
    return all(compare_policies(policy, other) in at_least for other in others)


def looser_faults(
    model: LoadedModel | Endpoint, in_service: Iterable[LoadedModel | Endpoint]
) -> list[str]:
    """Return a fault if a new version lets out what no version in service lets out.

    Args:
        in_service: the endpoints of the server. Those with other names do not count.
    """
    versions = [each for each in in_service if each.name == model.name]
    policy = model.policy
    if not versions or any(_covers(each.policy, [policy]) for each in versions):
        return []
    base = min(versions, key=lambda each: each.settings.share is not None)
    more = (
        "lets out more than"
        if compare_policies(policy, base.policy) is Looseness.LOOSER
        else "lets out something else than"
    )
    return [
        f"{_full_name(model)}: its policy {policy.describe()} [{policy.fingerprint}] {more} "
        f"{base.policy.describe()} [{base.policy.fingerprint}] of {_full_name(base)} in service; "
        "load it without --policy to keep that one, or with --looser to allow it"
    ]


def version_faults(models: Sequence[LoadedModel | Endpoint]) -> list[str]:
    """Return the reasons why these models cannot be served side by side."""
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
            (settings.budget, settings.budget_per_day, settings.budget_per_month)
            for _, settings in versions
        }
        budgets.discard((None, None, None))
        if len(budgets) > 1:
            faults.append(f"{name}: expected one budget for all versions, got {len(budgets)}")
    return faults
