"""How much each key looks like someone who copies a model: one small row a key, for all processes.

A row has counts and distances between codes, and neither a pixel nor a code nor an answer.
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

import numpy as np
import numpy.typing as npt

from stingy_server.store.budgets import Budgets, key_owner, today
from stingy_server.store.database import Database
from stingy_server.store.keys import stamp
from stingy_server.store.ledger import Entry, Ledger

HALF_LIFE = 1000  # images after which an old image counts half
DISTANCES = 256  # the latest that are kept
FEWEST_DISTANCES = 100  # as PRADA, which judges no fewer
NEAR_SHARE = 0.05  # of distinct images: as much as that, and the evidence is full
FEWEST_NOVEL = 50  # images, before which near-duplicates are no evidence
NORMAL, ABNORMAL = 0.95, 0.85  # Shapiro-Francia's statistic, where its evidence begins and is full
PATIENCE = 200  # images between two steps of the ladder


class Action(StrEnum):
    """What an alarm does to a key, from the mildest on."""

    NONE = "none"
    ALARM = "alarm"
    LABELS = "labels"
    REFUSE = "refuse"


@dataclass(frozen=True)
class Observation:
    """What one process has observed of a key since its last write.

    Attributes:
        images: answered; bits: the leak meter's reading over them.
        novel, near, repeats, distances: as in `BatchStats`, of those images that were compared.
        classes: by model, its number of classes and how often each was the top-1.
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
    """One key's row.

    Attributes:
        updated: seconds since 1970.
        images, bits: answered in all, and the leak meter's reading over them.
        novel, near, repeats: as in `Observation`; old ones count less and less.
        classes: JSON, by model: [number of classes, {class: how often}].
        distances: the latest, a byte each.
        coverage: 0..1, entropy of the answered top-1 over that of all classes alike, of the model
            asked most.
        normality: Shapiro-Francia's statistic of the distances, 0..1; None before there are 100.
        budget_used_today: share of the key's whole budget that was used today; 0 without a budget.
        score: 0..1, as the function `score` has it.
        action: of the latest alarm.
        since: `images` at the time of that alarm.
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
    budget_used_today: float = field(default=0.0, metadata={"column": "burnt"})
    score: float = 0.0
    action: str = field(default=Action.NONE, metadata={"column": "step"})
    since: int = 0

    @property
    def near_share(self) -> float:
        """Near-duplicates among the distinct images looked at."""
        return self.near / self.novel if self.novel else 0.0


NAMES = [each.metadata.get("column", each.name) for each in fields(KeyProfile)]
COLUMNS = ", ".join(NAMES)
PLACES = ", ".join("?" * len(NAMES))
# The columns are the fields of the class above; nothing of a request is in the statements.
SELECT = f"SELECT {COLUMNS} FROM watch"  # noqa: S608
GIVEN = ", ".join(f"excluded.{name}" for name in NAMES)
WRITE = (
    f"INSERT INTO watch ({COLUMNS}) VALUES ({PLACES}) "  # noqa: S608
    f"ON CONFLICT (key) DO UPDATE SET ({COLUMNS}) = ({GIVEN})"
)


class KeyProfileStore:
    """The rows in a database.

    Raises:
        StoreUnavailable: from every method.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._budgets = Budgets(database)
        self._ledger = Ledger(database)

    def get(self, key: str) -> KeyProfile:
        row = self._database.execute(f"{SELECT} WHERE key = ?", (key,)).fetchone()
        return KeyProfile(key) if row is None else KeyProfile(*row)

    def all(self) -> list[KeyProfile]:
        """Every key that was watched, the highest score first."""
        rows = self._database.execute(f"{SELECT} ORDER BY score DESC, key").fetchall()
        return [KeyProfile(*row) for row in rows]

    def actions(self) -> dict[str, Action]:
        """Return the keys that an alarm acted on."""
        rows = self._database.execute("SELECT key, step FROM watch WHERE step != 'none'")
        return {key: Action(action) for key, action in rows}

    def scores(self, bounds: Sequence[float]) -> list[int]:
        """How many keys have a score of at most each bound."""
        return [
            self._database.execute(
                "SELECT COUNT(*) FROM watch WHERE score <= ?", (bound,)
            ).fetchone()[0]
            for bound in bounds
        ]

    def add(
        self, key: str, observation: Observation, *, alarm: float, ladder: Sequence[Action]
    ) -> KeyProfile:
        """Add an observation; from the score `alarm` on, escalate and record that in the ledger."""
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
                self._ledger.append(_entry(key, event))
        return after

    def release(self, key: str) -> bool:
        """Undo what an alarm did and begin to count anew; False where there is nothing to undo."""
        with self._database.transaction(locks=(f"watch:{key}",)):
            found = self.get(key)
            if found.action == Action.NONE:
                return False
            fresh = KeyProfile(key, time.time(), found.images, found.bits, since=found.images)
            self._database.execute(WRITE, astuple(fresh))
            self._ledger.append(_entry(key, "released"))
        return True

    def _budget_used_today(self, key: str) -> float:
        budget = self._budgets.get(key_owner(key))
        if budget is None or not budget.total:
            return 0.0
        return min(1.0, (budget.day_used if budget.day >= today() else 0) / budget.total)


def merged(before: KeyProfile, observation: Observation, *, budget_used_today: float) -> KeyProfile:
    """Return the profile with an observation added; old images count less and less."""
    fading = 0.5 ** ((observation.novel + observation.repeats) / HALF_LIFE)
    classes: dict[str, tuple[int, Counter[str]]] = {
        model: (size, Counter({label: count * fading for label, count in counts.items()}))
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
        novel=before.novel * fading + observation.novel,
        near=before.near * fading + observation.near,
        repeats=before.repeats * fading + observation.repeats,
        classes=json.dumps(kept),
        distances=distances,
        coverage=coverage(kept),
        normality=normality(distances),
        budget_used_today=budget_used_today,
    )
    return replace(after, score=score(after))


def escalate(profile: KeyProfile, *, alarm: float, ladder: Sequence[Action]) -> KeyProfile:
    """Return the profile with the ladder's next action, if it is in alarm and that is stricter."""
    if profile.score < alarm:
        return profile
    rungs = tuple(ladder) or (Action.ALARM,)
    place = rungs.index(Action(profile.action)) + 1 if profile.action in rungs else 0
    if place == len(rungs) or (place and profile.images - profile.since < PATIENCE):
        return profile
    strictness = list(Action)
    if strictness.index(rungs[place]) <= strictness.index(Action(profile.action)):
        return profile
    return replace(profile, action=rungs[place], since=profile.images)


def score(profile: KeyProfile) -> float:
    """How sure the three kinds of evidence are together, 0..1.

    1 - (1 - near)(1 - distances / 2)(1 - bulk * 3 / 4): near-duplicates alone can make an alarm;
    distances that are not normal and a budget used over all classes in a day, never without
    them, at the default threshold.
    """
    near = 0.0
    if profile.novel >= FEWEST_NOVEL:
        near = min(1.0, lower_bound(profile.near, profile.novel) / NEAR_SHARE)
    shape = 0.0
    if profile.normality is not None:
        shape = min(1.0, max(0.0, (NORMAL - profile.normality) / (NORMAL - ABNORMAL)))
    bulk = profile.coverage * profile.budget_used_today
    return 1 - (1 - near) * (1 - shape / 2) * (1 - bulk * 3 / 4)


def lower_bound(part: float, whole: float) -> float:
    """Wilson's: the share is above this with 97.5 %, so that a few images prove nothing."""
    if whole < 1:
        return 0.0
    z = 1.96
    share = min(1.0, part / whole)
    spread = z * math.sqrt(share * (1 - share) / whole + z * z / (4 * whole * whole))
    return max(0.0, (share + z * z / (2 * whole) - spread) / (1 + z * z / whole))


def coverage(classes: Mapping[str, tuple[int, Mapping[str, float]]]) -> float:
    """Entropy of the top-1 answered, over the most it could be, of the model asked most."""
    if not classes:
        return 0.0
    size, counts = max(classes.values(), key=lambda of: sum(of[1].values()))
    total = sum(counts.values())
    if size < 2 or total <= 0:
        return 0.0
    entropy = -sum(n / total * math.log(n / total) for n in counts.values() if n > 0)
    return max(0.0, min(1.0, entropy / math.log(size)))


def normality(distances: bytes) -> float | None:
    """How normal distances are, 0..1, by Shapiro and Francia; None for fewer than 100.

    After PRADA ("PRADA: Protecting against DNN Model Stealing Attacks", Juuti et al., EuroS&P
    2019, section V), with outliers beyond three deviations left out as there. Shapiro-Francia
    for Shapiro-Wilk: nearly the same number at this size, from plain normal scores.
    """
    if len(distances) < FEWEST_DISTANCES:
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


def _entry(key: str, event: str) -> Entry:
    """An event of a key, which is no request."""
    return Entry(stamp(), "-", key, "-", "-", "-", None, 0, 0, 0.0, 0, event, 0)
