"""Scores of keys for model extraction: one small row a key, shared by all processes.

A row has counts and distances between codes. It has no pixel, no code and no answer.
"""

import json
import math
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields, replace
from enum import StrEnum
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from stingy_server.store.budgets import Budgets, key_owner
from stingy_server.store.database import Database
from stingy_server.store.ledger import Ledger, event_entry
from stingy_server.times import stamp, today

HALF_LIFE = 1000  # compared images after which an old image counts half
DISTANCES = 256  # the latest distances that are kept
MIN_DISTANCES = 100  # for a normality, as in PRADA
NEAR_SHARE = 0.05  # share of near-duplicates among distinct images that is full evidence
MIN_NOVEL = 50  # distinct images before near-duplicates are evidence
NORMAL, ABNORMAL = 0.95, 0.85  # Shapiro-Francia's statistic at which evidence begins and is full
PATIENCE = 200  # images between two actions of the ladder


class Action(StrEnum):
    """The action of an alarm on a key, from the mildest to the strictest."""

    NONE = "none"
    ALARM = "alarm"
    MARK = "mark"
    LABELS = "labels"
    REFUSE = "refuse"


@dataclass(frozen=True)
class Observation:
    """The observations of one process about a key since its last write.

    Attributes:
        images: images answered.
        bits: the leak meter's bits over these answers.
        novel: as in `BatchStats`, over the images that were compared.
        near: as in `BatchStats`, over the images that were compared.
        repeats: as in `BatchStats`, over the images that were compared.
        distances: as in `BatchStats`, over the images that were compared.
        classes: for each model, its number of classes, and the count of each class as top-1.
    """

    images: int = 0
    bits: float = 0.0
    novel: int = 0
    near: int = 0
    repeats: int = 0
    distances: bytes = b""
    classes: Mapping[str, tuple[int, Mapping[int, int]]] = field(default_factory=dict)


@dataclass(frozen=True)
class KeyProfile:
    """The row of one key.

    Attributes:
        key: the key's id.
        updated: the time of the latest observation, in seconds since 1970.
        images: images answered in all.
        bits: the leak meter's bits over all answers.
        novel: as in `Observation`, with less and less weight for old images.
        near: as in `Observation`, with less and less weight for old images.
        repeats: as in `Observation`, with less and less weight for old images.
        classes: JSON, for each model: [number of classes, {class: count}].
        distances: the latest distances, one byte each.
        coverage: 0..1, the entropy of the top-1 classes over its maximum, for the model queried
            most.
        normality: 0..1, Shapiro-Francia's statistic of the distances; None for fewer than 100.
        budget_used_today: 0..1, the share of the key's whole budget used today; 0 without a budget.
        score: 0..1, the result of the function `score`.
        action: the action of the latest alarm.
        since: `images` at the time of that action.
    """

    key: str
    updated: float = 0.0
    images: int = 0
    bits: float = 0.0
    novel: float = 0.0
    near: float = 0.0
    repeats: float = 0.0
    classes: str = "{}"
    distances: bytes = b""
    coverage: float = 0.0
    normality: float | None = None
    # Two columns keep the names that release 0.1.0 gave them.
    budget_used_today: float = field(default=0.0, metadata={"column": "burnt"})
    score: float = 0.0
    action: str = field(default=Action.NONE, metadata={"column": "step"})
    since: int = 0

    @property
    def near_share(self) -> float:
        """The share of near-duplicates among the distinct images compared."""
        return self.near / self.novel if self.novel else 0.0


COLUMN_NAMES = [each.metadata.get("column", each.name) for each in fields(KeyProfile)]
COLUMNS = ", ".join(COLUMN_NAMES)
PLACEHOLDERS = ", ".join("?" * len(COLUMN_NAMES))
# The columns are the fields of the class above. The statements contain nothing of a request.
SELECT = f"SELECT {COLUMNS} FROM watch"  # noqa: S608
NEW_VALUES = ", ".join(f"excluded.{name}" for name in COLUMN_NAMES)
WRITE = (
    f"INSERT INTO watch ({COLUMNS}) VALUES ({PLACEHOLDERS}) "  # noqa: S608
    f"ON CONFLICT (key) DO UPDATE SET ({COLUMNS}) = ({NEW_VALUES})"
)


class KeyProfileStore:
    """The profiles in a database.

    Raises:
        StoreUnavailable: from every method, if the database cannot be read or written.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._budgets = Budgets(database)
        self._ledger = Ledger(database)

    def get(self, key: str) -> KeyProfile:
        """Return the profile of a key, an empty one if there is no row."""
        row = self._database.execute(f"{SELECT} WHERE key = ?", (key,)).fetchone()
        return KeyProfile(key) if row is None else KeyProfile(*row)

    def all(self) -> list[KeyProfile]:
        """Return the profiles of all watched keys, the highest score first."""
        rows = self._database.execute(f"{SELECT} ORDER BY score DESC, key").fetchall()
        return [KeyProfile(*row) for row in rows]

    def actions(self) -> dict[str, Action]:
        """Return the keys that an alarm has acted on, each with its action."""
        rows = self._database.execute("SELECT key, step FROM watch WHERE step != 'none'")
        return {key: Action(action) for key, action in rows}

    def scores(self, bounds: Sequence[float]) -> list[int]:
        """Count, for each bound, the keys with a score of at most this bound."""
        return [
            self._database.execute(
                "SELECT COUNT(*) FROM watch WHERE score <= ?", (bound,)
            ).fetchone()[0]
            for bound in bounds
        ]

    def add(
        self, key: str, observation: Observation, *, alarm: float, ladder: Sequence[Action]
    ) -> KeyProfile:
        """Add an observation. At a score of `alarm` or more, escalate and record that.

        The ledger gets an entry for each new action.
        """
        with self._database.transaction(locks=(f"watch:{key}",)):
            before = self.get(key)
            after = escalate(
                merged(before, observation, budget_used_today=self._budget_used_today(key)),
                alarm=alarm,
                ladder=ladder,
            )
            self._database.execute(WRITE, astuple(after))
            if after.action != before.action:
                event = "alarm" if after.action == Action.ALARM else f"alarm_{after.action}"
                self._ledger.append_all([event_entry(stamp(), event, key=key)])
        return after

    def release(self, key: str, *, detail: Mapping[str, Any] | None = None) -> bool:
        """Undo the action of an alarm and start to count anew. Returns False if there is none.

        Args:
            detail: what the ledger says about it, such as who does it.
        """
        with self._database.transaction(locks=(f"watch:{key}",)):
            found = self.get(key)
            if found.action == Action.NONE:
                return False
            fresh = KeyProfile(key, found.updated, found.images, found.bits, since=found.images)
            self._database.execute(WRITE, astuple(fresh))
            self._ledger.append_all([event_entry(stamp(), "released", key=key, detail=detail)])
        return True

    def _budget_used_today(self, key: str) -> float:
        budget = self._budgets.get(key_owner(key))
        if budget is None or not budget.total:
            return 0.0
        return min(1.0, (budget.day_used if budget.day >= today() else 0) / budget.total)


def merged(before: KeyProfile, observation: Observation, *, budget_used_today: float) -> KeyProfile:
    """Return the profile with an observation added. Old images count less and less."""
    decay = 0.5 ** ((observation.novel + observation.repeats) / HALF_LIFE)
    classes: dict[str, tuple[int, Counter[str]]] = {
        model: (size, Counter({label: count * decay for label, count in counts.items()}))
        for model, (size, counts) in json.loads(before.classes).items()
    }
    for model, (size, counts) in observation.classes.items():
        _, known = classes.setdefault(model, (size, Counter()))
        known.update({str(label): count for label, count in counts.items()})
    kept = {
        model: (size, {label: round(n, 3) for label, n in counts.items() if n > 0.01})
        for model, (size, counts) in classes.items()
    }
    distances = (before.distances + observation.distances)[-DISTANCES:]
    after = replace(
        before,
        updated=time.time(),
        images=before.images + observation.images,
        bits=before.bits + observation.bits,
        novel=before.novel * decay + observation.novel,
        near=before.near * decay + observation.near,
        repeats=before.repeats * decay + observation.repeats,
        classes=json.dumps(kept),
        distances=distances,
        coverage=coverage(kept),
        normality=normality(distances),
        budget_used_today=budget_used_today,
    )
    return replace(after, score=score(after))


def escalate(profile: KeyProfile, *, alarm: float, ladder: Sequence[Action]) -> KeyProfile:
    """Return the profile with the ladder's next action, if in alarm and the action is stricter."""
    if profile.score < alarm:
        return profile
    actions = tuple(ladder) or (Action.ALARM,)
    step = actions.index(Action(profile.action)) + 1 if profile.action in actions else 0
    if step == len(actions) or (step and profile.images - profile.since < PATIENCE):
        return profile
    strictness = list(Action)
    if strictness.index(actions[step]) <= strictness.index(Action(profile.action)):
        return profile
    return replace(profile, action=actions[step], since=profile.images)


def score(profile: KeyProfile) -> float:
    """Combine the three kinds of evidence into a score, 0..1.

    The score is 1 - (1 - near)(1 - distances / 2)(1 - bulk * 3 / 4). At the default threshold
    near-duplicates alone can raise an alarm. Distances that are not normal, and a budget used over
    all classes in a day, cannot raise one without near-duplicates.
    """
    near = 0.0
    if profile.novel >= MIN_NOVEL:
        near = min(1.0, lower_bound(profile.near, profile.novel) / NEAR_SHARE)
    shape = 0.0
    if profile.normality is not None:
        shape = min(1.0, max(0.0, (NORMAL - profile.normality) / (NORMAL - ABNORMAL)))
    bulk = profile.coverage * profile.budget_used_today
    return 1 - (1 - near) * (1 - shape / 2) * (1 - bulk * 3 / 4)


def lower_bound(part: float, whole: float) -> float:
    """Return the lower end of Wilson's interval for a share, so that a few images prove nothing.

    The true share is above it with a confidence of 97.5 %.
    """
    if whole < 1:
        return 0.0
    z = 1.96
    share = min(1.0, part / whole)
    spread = z * math.sqrt(share * (1 - share) / whole + z * z / (4 * whole * whole))
    return max(0.0, (share + z * z / (2 * whole) - spread) / (1 + z * z / whole))


def coverage(classes: Mapping[str, tuple[int, Mapping[str, float]]]) -> float:
    """Return the entropy of the top-1 classes over its maximum, for the model queried most."""
    if not classes:
        return 0.0
    size, counts = max(classes.values(), key=lambda sized: sum(sized[1].values()))
    total = sum(counts.values())
    if size < 2 or total <= 0:
        return 0.0
    entropy = -sum(n / total * math.log(n / total) for n in counts.values() if n > 0)
    return max(0.0, min(1.0, entropy / math.log(size)))


def normality(distances: bytes) -> float | None:
    """Return Shapiro-Francia's statistic of distances, 0..1; None for fewer than 100.

    After PRADA ("PRADA: Protecting against DNN Model Stealing Attacks", Juuti et al., EuroS&P
    2019, section V), which also leaves out outliers beyond three standard deviations. PRADA uses
    Shapiro-Wilk. Shapiro-Francia gives nearly the same number at this size and needs only plain
    normal scores.
    """
    if len(distances) < MIN_DISTANCES:
        return None
    values = np.frombuffer(distances, np.uint8).astype(np.float64)
    values = np.sort(values[np.abs(values - values.mean()) <= 3 * values.std()])
    if values[0] == values[-1]:
        return 0.0
    return float(np.corrcoef(values, _normal_scores(len(values)))[0, 1] ** 2)


@lru_cache(maxsize=DISTANCES)
def _normal_scores(count: int) -> npt.NDArray[np.float64]:
    normal = statistics.NormalDist()
    return np.array([normal.inv_cdf((i + 0.625) / (count + 0.25)) for i in range(count)])
