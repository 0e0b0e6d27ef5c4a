"""The statistics of each key: counts and times of its own requests, in this process.

A key gets its own numbers alone, because those of all keys would show the traffic of others. Times
are counted in whole milliseconds. Finer ones would be a clock beside the gate.
"""

import time
from dataclasses import dataclass

from stingy_server.observability.request_record import RequestRecord

MOST_ROWS = 10_000  # of one process; the oldest is dropped


@dataclass(slots=True)
class Usage:
    """The requests of a key for a version of a model, since this process began.

    Attributes:
        images: images answered.
        answered: requests answered.
        failed: requests refused or cancelled. Their times are not counted.
        last_ms: the time of the last answer, in milliseconds since 1970; 0 if there is none.
        answered_ms: milliseconds of the answered requests, from their head to the answer's.
        input_ms: milliseconds of the answered ones before the engine: body, charge, decoding.
        engine_ms: milliseconds of the answered ones in the engine: its queue, network and gate.
    """

    images: int = 0
    answered: int = 0
    failed: int = 0
    last_ms: int = 0
    answered_ms: int = 0
    input_ms: int = 0
    engine_ms: int = 0

    @property
    def output_ms(self) -> int:
        """Milliseconds of the answered ones after the engine: tier, encoding, ledger."""
        return max(0, self.answered_ms - self.input_ms - self.engine_ms)


class KeyStatistics:
    """The usage of each key and version of a model, in one process."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str, str], Usage] = {}

    def count(self, record: RequestRecord, *, seconds: float) -> None:
        """Count a request that has ended after so many seconds, if it named a model."""
        key, endpoint = record.key, record.endpoint
        if key is None or endpoint is None:
            return
        owner = (key.id, endpoint.name, endpoint.manifest.version)
        row = self._rows.get(owner) or self._add(owner)
        began, ended = record.engine_started, record.engine_finished
        if not record.answered or began is None or ended is None:
            row.failed += 1
            return
        row.images += record.answered
        row.answered += 1
        row.last_ms = time.time_ns() // 1_000_000
        row.answered_ms += round(1000 * seconds)
        row.input_ms += round(1000 * (began - record.started))
        row.engine_ms += round(1000 * (ended - began))

    def find(self, key_id: str, model: str, version: str) -> Usage:
        """Return the usage of a key; zeros if there is none."""
        return self._rows.get((key_id, model, version)) or Usage()

    def _add(self, owner: tuple[str, str, str]) -> Usage:
        if len(self._rows) >= MOST_ROWS:
            del self._rows[next(iter(self._rows))]
        row = self._rows[owner] = Usage()
        return row
