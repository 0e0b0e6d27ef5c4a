"""The differences between a state and an earlier backup of it: what a restore brings back."""

from collections.abc import Iterator
from typing import Any

from stingy_server.maintenance.reader import Reader
from stingy_server.store.budgets import key_owner, parts_of_owner

Rows = dict[Any, dict[str, Any]]
LIMITS = ("total", "day_total", "month_total")


def differences(old: Reader, backup: Reader) -> list[str]:
    """Describe what comes back, and what is lost, if a backup takes the place of an old state.

    Raises:
        StoreUnavailable: one of them cannot be read.
    """
    keys = _by(old, "keys", "id")
    names = {key_owner(id): f"key {id} ({key['name']})" for id, key in keys.items()}
    return [
        *_keys(keys, _by(backup, "keys", "id"), names),
        *_budgets(old, backup, names),
        *_alarms(_by(old, "watch", "key"), _by(backup, "watch", "key"), names),
        *_versions(_by(old, "deployments", "name", "version"), backup),
        *_ledger(old, backup),
    ]


def _by(reader: Reader, table: str, *columns: str) -> Rows:
    """Return the rows of a table by these columns."""
    found = {tuple(row[column] for column in columns): row for row in reader.table(table)}
    return {place if len(place) > 1 else place[0]: row for place, row in sorted(found.items())}


def _keys(old: Rows, earlier: Rows, names: dict[str, str]) -> Iterator[str]:
    for id, key in old.items():
        name, before = names[key_owner(id)], earlier.get(id)
        if before is None:
            yield f"{name}: created after the backup; it is gone"
            continue
        if key["revoked"] is not None and before["revoked"] is None:
            yield f"{name}: revoked after the backup; it is valid again until you revoke it"
        changed = {column for column, value in before.items() if key.get(column, value) != value}
        if "digest" in changed:
            yield f"{name}: rotated after the backup; its earlier text is valid, its later one not"
        if others := sorted(changed - {"digest", "revoked"}):
            yield f"{name}: {', '.join(others)} changed after the backup; the earlier are back"


def _budgets(old: Reader, backup: Reader, names: dict[str, str]) -> Iterator[str]:
    earlier = _by(backup, "budgets", "owner")
    kept = _by(backup, "keys", "id").keys()
    for owner, budget in _by(old, "budgets", "owner").items():
        _, key, _ = parts_of_owner(owner)
        if key is not None and key not in kept:
            continue  # the key came after the backup, and is gone with its budgets
        name = names.get(owner, owner.replace(":", " "))
        before = earlier.get(owner, {})  # empty for a budget that came after the backup
        spent = budget["used"] - before.get("used", 0)
        if spent > 0:
            yield f"{name}: {spent} images charged after the backup; they can be spent again"
        if any(budget.get(limit) != before.get(limit) for limit in LIMITS):
            yield f"{name}: budgets changed after the backup; the earlier are back"


def _alarms(old: Rows, earlier: Rows, names: dict[str, str]) -> Iterator[str]:
    for id, row in old.items():
        step, before = row["step"], earlier.get(id, {}).get("step", "none")
        if step != before:
            name = names.get(key_owner(id), f"key {id}")
            yield f"{name}: the watch's step was {step} after the backup; it is {before}"


def _versions(old: Rows, backup: Reader) -> Iterator[str]:
    earlier = _by(backup, "deployments", "name", "version")
    for name, version in sorted(old.keys() - earlier.keys()):
        yield f"{name} {version}: loaded after the backup; it is not served any more"
    for name, version in sorted(earlier.keys() - old.keys()):
        yield f"{name} {version}: unloaded after the backup; it is served again"


def _ledger(old: Reader, backup: Reader) -> Iterator[str]:
    statement = "SELECT COALESCE(MAX(seq), 0) FROM ledger"
    ((latest,),), ((before,),) = [*old.rows(statement)], [*backup.rows(statement)]
    if latest > before:
        yield f"the ledger: the entries {before + 1} to {latest} are gone"
