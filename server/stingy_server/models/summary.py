"""The models of a start, in lines for its operator."""

from stingy_server.models.advice import policy_notes
from stingy_server.models.fleet import Fleet, overlaps
from stingy_server.settings import Settings


def summary(fleet: Fleet, settings: Settings) -> list[str]:
    """Describe the policy of each endpoint in a line, and warn of what may surprise.

    Warnings are of weak rate limits, of scores that never differ, and of overlaps.

    An overlap is a set of endpoints that together let out more than each of them.
    """
    lines = []
    if settings.store is not None and settings.rate_store.startswith("memory:"):
        lines.append(
            "warning: this process counts rates in its own memory: if several servers share the "
            "store, a key gets its full rate from each; set rate_store, such as redis://..."
        )
    for endpoint in fleet:
        policy, manifest = endpoint.policy, endpoint.manifest
        title = f"{endpoint.name} {manifest.version}"
        lines.append(f"{title}: {policy.describe()} [{policy.fingerprint}]")
        lines += [f"warning: {title}: {note}" for note in policy_notes(policy)]
    return lines + [f"warning: {overlap.text}" for overlap in overlaps(fleet)]
