"""Counts over the ledger, kept up to date by its latest entries alone.

The ledger has no index on time, key or model. So each read takes the entries whose numbers come
after those that were read before, and the first read begins at the last `FIRST` entries. The
answers of earlier entries are added up by the store, a page at a time.
"""

import math
import time
from collections import Counter, defaultdict, deque
from datetime import datetime
from typing import NamedTuple

from stingy_server.console.series import Bucket
from stingy_server.store.database import Database

FIRST = 20_000  # entries that the first read takes
MOST = 50_000  # entries that one read takes; the next read goes on
PAGE = 200_000  # earlier entries that are added up in one read
SHOWN = 50  # entries of each kind that are kept to be shown
SEARCHED = 200_000  # latest entries among which those of one key are found
SECONDS, MINUTES = 60, 30  # that are counted one by one
SETTLED_S = 2.0  # entries of the latest seconds may still be on their way into the store
LATE_S = 10.0  # after which no entry of PostgreSQL comes in with a number that was passed
ANSWER = "answer"
CANCELLED = "cancelled"


class Shown(NamedTuple):
    """An entry of the ledger as the console shows it, without the digest of its pixels.

    Attributes:
        seq: its number in the store.
        detail: JSON with more about an event, or None.
    """

    seq: int
    time: str
    request: str
    key: str
    model: str
    version: str
    fingerprint: str
    images: int
    answered: int
    bits: float
    status: int
    event: str
    latency_us: int
    requests: int
    detail: str | None

    @property
    def kind(self) -> str:
        """One of "answers", "refusals", "events"."""
        if self.event == ANSWER:
            return "answers"
        return "refusals" if self.status >= 400 or self.event == CANCELLED else "events"


class Endpoint(NamedTuple):
    """A version of a model under one policy."""

    model: str
    version: str
    fingerprint: str


COLUMNS = ", ".join(Shown._fields)
READ = f"SELECT {COLUMNS} FROM ledger WHERE seq > ? ORDER BY seq LIMIT ?"  # noqa: S608
OF_KEY = (
    f"SELECT {COLUMNS} FROM ledger WHERE seq > ? AND key = ? "  # noqa: S608
    "ORDER BY seq DESC LIMIT ?"
)
ADD_UP = (
    "SELECT key, model, version, fingerprint, SUM(answered) FROM ledger "
    "WHERE seq > ? AND seq <= ? GROUP BY key, model, version, fingerprint"
)


class Traffic:
    """The counts of one ledger.

    Attributes:
        last_s: the time of each key's latest entry, in seconds since 1970.
        answered: for each key and endpoint, the images answered, as far as entries were read.
        fingerprints: the policy of each model and version in its latest answer.
        alarms: for each key, its latest alarm or release among the entries that were read.
        latest: the number of the latest entry.
    """

    def __init__(self) -> None:
        self.last_s: dict[str, float] = {}
        self.answered: defaultdict[str, Counter[Endpoint]] = defaultdict(Counter)
        self.fingerprints: dict[tuple[str, str], str] = {}
        self.alarms: dict[str, Shown] = {}
        self.latest = -1
        self._earlier = (0, 0)  # entries that are not added up yet: above one number, to another
        self._seconds: dict[int, Bucket] = {}
        self._models: dict[tuple[int, str, str], int] = {}
        self._minutes: dict[tuple[str, int], int] = {}
        self._entries = {
            kind: deque[Shown](maxlen=SHOWN) for kind in ("all", "answers", "refusals", "events")
        }
        self._passed: deque[tuple[float, int]] = deque()  # when which number was the latest
        self._known: set[int] = set()  # numbers that may be read once more

    @property
    def complete(self) -> bool:
        """True if all entries of the ledger are in `answered`."""
        return self._earlier[0] >= self._earlier[1]

    def read(self, database: Database, *, now: float) -> None:
        """Read the entries that came since the last read.

        Args:
            now: in seconds since 1970.

        Raises:
            StoreUnavailable: they cannot be read.
        """
        if self.latest < 0:
            (latest,) = database.execute("SELECT MAX(seq) FROM ledger").fetchone()
            self.latest = max(0, (latest or 0) - FIRST)
            self._earlier = (0, self.latest)
        floor = self._floor(late=database.remote)
        for row in database.execute(READ, (floor, MOST)).fetchall():
            entry = Shown(*row)
            if entry.seq not in self._known:
                self._add(entry)
                if database.remote:
                    self._known.add(entry.seq)
        self._add_earlier(database)
        self._forget(now)

    def entries(self, kind: str) -> list[Shown]:
        """Return the latest entries of a kind, or of "all", the latest first."""
        return list(reversed(self._entries[kind]))

    def of_key(self, database: Database, key: str) -> list[Shown]:
        """Return the latest entries of a key among the last `SEARCHED`, the latest first.

        Raises:
            StoreUnavailable: they cannot be read.
        """
        rows = database.execute(OF_KEY, (self.latest - SEARCHED, key, SHOWN)).fetchall()
        return [Shown(*row) for row in rows]

    def seconds(self, now: float) -> list[Bucket]:
        """Return the settled seconds of the last minute, the earliest first."""
        last = math.floor(now - SETTLED_S)
        return [self._seconds.get(last - back, Bucket()) for back in range(SECONDS - 1, -1, -1)]

    def minutes(self, key: str, now: float) -> list[int] | None:
        """Return the images of a key that were answered in each minute; None if there are none."""
        last = int(now // 60)
        found = [self._minutes.get((key, last - back), 0) for back in range(MINUTES - 1, -1, -1)]
        return found if any(found) else None

    def model_rate(self, model: str, version: str, now: float) -> float:
        """Return the images a second that a version answered over the last minute."""
        last = math.floor(now - SETTLED_S)
        wanted = range(last - SECONDS + 1, last + 1)
        return sum(self._models.get((each, model, version), 0) for each in wanted) / SECONDS

    def _floor(self, *, late: bool) -> int:
        """Return the number above which entries are read.

        In PostgreSQL an entry may come in after entries with higher numbers. So the numbers of the
        last `LATE_S` are read once more.
        """
        if not late:
            return self.latest
        now = time.monotonic()
        self._passed.append((now, self.latest))
        while len(self._passed) > 1 and self._passed[1][0] <= now - LATE_S:
            self._passed.popleft()
        floor = self._passed[0][1]
        self._known = {seq for seq in self._known if seq > floor}
        return floor

    def _add(self, entry: Shown) -> None:
        self.latest = max(self.latest, entry.seq)
        at = datetime.fromisoformat(entry.time).timestamp()
        self.last_s[entry.key] = max(at, self.last_s.get(entry.key, 0.0))
        self._entries["all"].append(entry)
        self._entries[entry.kind].append(entry)
        if entry.kind == "events":
            if entry.event.startswith("alarm") or entry.event == "released":
                self.alarms[entry.key] = entry
            return
        second = math.floor(at)
        bucket = self._seconds.setdefault(second, Bucket())
        bucket.requests += entry.requests
        if entry.event != ANSWER:
            bucket.refused += entry.requests
            return
        bucket.answered += entry.answered
        bucket.bits += entry.bits
        bucket.latencies_us.append(entry.latency_us)
        endpoint = Endpoint(entry.model, entry.version, entry.fingerprint)
        self.answered[entry.key][endpoint] += entry.answered
        self.fingerprints[entry.model, entry.version] = entry.fingerprint
        model, minute = (second, entry.model, entry.version), (entry.key, second // 60)
        self._models[model] = self._models.get(model, 0) + entry.answered
        self._minutes[minute] = self._minutes.get(minute, 0) + entry.answered

    def _add_earlier(self, database: Database) -> None:
        """Add up one page of the entries before those of the first read, the latest first."""
        start, end = self._earlier
        if start >= end:
            return
        page = max(start, end - PAGE)
        for key, model, version, fingerprint, answered in database.execute(ADD_UP, (page, end)):
            if answered:
                self.answered[key][Endpoint(model, version, fingerprint)] += int(answered)
        self._earlier = (start, page)

    def _forget(self, now: float) -> None:
        """Forget the counts of seconds and minutes that are no longer shown."""
        second, minute = now - SECONDS - SETTLED_S - 1, now // 60 - MINUTES
        self._seconds = {at: each for at, each in self._seconds.items() if at >= second}
        self._models = {at: each for at, each in self._models.items() if at[0] >= second}
        self._minutes = {at: each for at, each in self._minutes.items() if at[1] >= minute}
