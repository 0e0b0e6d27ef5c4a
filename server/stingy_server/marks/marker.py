"""The marks of one process: which images are flagged for the worker, and what is kept of them."""

import asyncio
import logging
import random
import time
from collections import Counter
from functools import partial
from typing import NamedTuple

import numpy as np

from stingy_protection import SparseLogits
from stingy_protection.marks import Chooser
from stingy_server.codec.images import Pixels
from stingy_server.inference.flags import Flag
from stingy_server.marks.evidence import Answered, Evidence
from stingy_server.marks.mark_store import LOCKS, MarkStore
from stingy_server.marks.secret import MarkSecret
from stingy_server.observability.metrics import Metrics
from stingy_server.observability.request_record import RequestRecord
from stingy_server.settings import MarkSettings
from stingy_server.store.database import Database
from stingy_server.store.group_commit import GroupCommit, log_failed_write
from stingy_server.store.ledger import Entry, Ledger, event_entry
from stingy_server.times import stamp

log = logging.getLogger("stingy")
_random = random.Random()  # noqa: S311  of its own, so that nobody else's seed decides

# An entry of the ledger counts the marked answers of so long, so that it shows none of them.
COUNT_EVERY_S = 3600.0
LATER_S = (0.5, 1.5)  # after an answer, what is kept of it is written
INLINE_BYTES = 2**20  # pixels up to this size are reduced on the event loop, in about 1 ms


class Plan(NamedTuple):
    """The plan for a batch.

    Attributes:
        flags: one for each image.
        kept: the rows that are kept, each with the code of its coarse pixels.
    """

    flags: list[Flag]
    kept: dict[int, bytes]


class _Waiting(NamedTuple):
    """An answered input that is not written yet."""

    flag: Flag
    code: bytes
    record: RequestRecord
    version: str
    time: str
    answer: SparseLogits  # of one row
    pixels: Pixels


class Marker:
    """The marks of a process.

    Args:
        database: the state, which keeps the marked inputs and the controls.
        secret: the secret of the marks.
    """

    def __init__(
        self,
        database: Database,
        secret: MarkSecret,
        *,
        settings: MarkSettings,
        writes: GroupCommit,
        ledger: Ledger,
        metrics: Metrics,
    ) -> None:
        self._secret = secret
        self._settings = settings
        self._chooser = Chooser(secret.value, share=settings.share, runners_up=settings.runners_up)
        self._store = MarkStore(database, secret)
        self._writes = writes
        self._ledger = ledger
        self._metrics = metrics
        self._uncounted: Counter[tuple[str, str]] = Counter()  # by key and model
        self._count_at = 0.0  # on the clock of `time.monotonic`
        self._waiting: list[_Waiting] = []

    def start(self) -> None:
        """Make the secret that of the state at the first use.

        Raises:
            StoreUnavailable: the state was first used with another secret, or cannot be used.
        """
        self._store.adopt()

    async def plan(self, model: str, images: Pixels, *, num_classes: int) -> Plan:
        """Flag the images of a batch, and choose which of them are kept.

        Args:
            model: the name of the model.
            images: [batch, height, width, 3].
            num_classes: K, the number of the model's classes.
        """
        if self._uncounted and time.monotonic() >= self._count_at:
            entries = self._take_counts()
            appended = self._writes.submit(partial(self._ledger.append_all, entries))
            appended.add_done_callback(partial(log_failed_write, "cannot write the ledger entry"))
        if images.nbytes <= INLINE_BYTES:
            return self._plan(model, images, num_classes)
        return await asyncio.to_thread(self._plan, model, images, num_classes)

    def _plan(self, model: str, images: Pixels, num_classes: int) -> Plan:
        plan = Plan([], {})
        most = self._chooser.most(num_classes)
        for row, code in enumerate(self._chooser.codes(images)):
            choice = self._chooser.choose(model, code, num_classes=num_classes)
            plan.flags.append(Flag(choice.place, most, choice.marked))
            if choice.kept:
                plan.kept[row] = code
        return plan

    def keep(
        self,
        plan: Plan,
        record: RequestRecord,
        images: Pixels,
        answer: SparseLogits,
        *,
        version: str,
    ) -> None:
        """Keep what was chosen of an answered batch, about a second later.

        The time of an answer would show whether an image was chosen, if the answer waited for the
        write or shared its turn. What cannot be written is lost, and the log says so.

        Args:
            record: the request, with its key and its model.
            answer: the answers that leave.
            version: the version of the model.
        """
        if plan.kept and not self._waiting:
            asyncio.get_running_loop().call_later(_random.uniform(*LATER_S), self.write_waiting)
        for row, code in plan.kept.items():
            pixels = np.array(images[row])  # a copy, because the batch is freed
            one = answer.rows(row, row + 1)
            self._waiting.append(
                _Waiting(plan.flags[row], code, record, version, stamp(), one, pixels)
            )

    def write_waiting(self) -> None:
        """Queue the writes of what waits. A timer and the drain call it."""
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            answered = self._answered(each)
            if answered.answer[0] != (answered.mark if each.flag.marked else answered.top1):
                continue  # two equal logits, whose exchange changes nothing
            if each.flag.marked:
                self._count(answered)
            kept = self._writes.submit(
                partial(self._store.add, Evidence(answered, each.pixels), kept=self._settings.kept),
                locks=LOCKS,
            )
            kept.add_done_callback(partial(self._count_kept, answered.model))

    def write_counts(self) -> None:
        """Write the counts that the ledger does not have yet. A stop calls it.

        Raises:
            StoreUnavailable: the ledger cannot be written.
        """
        if self._uncounted:
            self._ledger.append(*self._take_counts())

    def _answered(self, waiting: _Waiting) -> Answered:
        flag, record, answer = waiting.flag, waiting.record, waiting.answer
        return Answered(
            marked=flag.marked,
            key=record.caller,
            model=record.model,
            version=waiting.version,
            request=record.request_id,
            time=waiting.time,
            coarse=self._secret.derive("coarse", record.model.encode(), waiting.code).hex(),
            top1=flag.best[0],
            runners_up=flag.best[1:],
            mark=flag.best[flag.place],
            answer=tuple(answer.indices[0].tolist()),
            scores=None if answer.scores is None else tuple(answer.scores[0].tolist()),
        )

    def _count(self, answered: Answered) -> None:
        self._metrics.count_marked(answered.model)
        if not self._uncounted:
            self._count_at = time.monotonic() + COUNT_EVERY_S
        self._uncounted[answered.key, answered.model] += 1

    def _take_counts(self) -> list[Entry]:
        counted, self._uncounted = self._uncounted, Counter()
        return [
            event_entry(stamp(), "marked", key=key, model=model, detail={"answers": count})
            for (key, model), count in counted.items()
        ]

    def _count_kept(self, model: str, kept: "asyncio.Future[bool]") -> None:
        if (error := kept.exception()) is not None:
            log.error("cannot keep a marked input or a control: %s", error)
        elif kept.result():
            self._metrics.count_evidence(model)
