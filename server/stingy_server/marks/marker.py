"""The marks of one process: which images are flagged for the worker, and what is kept of them."""

import asyncio
import logging
import time
from collections import Counter
from functools import partial

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
from stingy_server.store.group_commit import GroupCommit
from stingy_server.store.keys import stamp
from stingy_server.store.ledger import Entry, Ledger, event_entry

log = logging.getLogger("stingy")

# An entry of the ledger counts the marked answers of so long, so that it shows none of them.
COUNT_EVERY_S = 3600.0
INLINE_BYTES = 2**20  # pixels up to this size are reduced on the event loop, in about 1 ms


class Plan:
    """The flags of a batch, one for each image, and the codes of the flagged images by row."""

    __slots__ = ("codes", "flags")

    def __init__(self, flags: list[Flag | None], codes: dict[int, bytes]) -> None:
        self.flags = flags
        self.codes = codes


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

    def start(self) -> None:
        """Make the secret that of the state at the first use.

        Raises:
            StoreUnavailable: the state was first used with another secret, or cannot be used.
        """
        self._store.adopt()

    async def plan(self, model: str, images: Pixels, *, num_classes: int) -> Plan | None:
        """Choose the images of a batch to flag, marked ones and controls. None for none at all.

        Args:
            model: the name of the model.
            images: [batch, height, width, 3].
            num_classes: K, the number of the model's classes.
        """
        if self._uncounted and time.monotonic() >= self._count_at:
            entries = self._take_counts()
            appended = self._writes.submit(partial(self._ledger.append_all, entries))
            appended.add_done_callback(_log_if_failed)
        if images.nbytes <= INLINE_BYTES:
            return self._plan(model, images, num_classes)
        return await asyncio.to_thread(self._plan, model, images, num_classes)

    def _plan(self, model: str, images: Pixels, num_classes: int) -> Plan | None:
        flags: list[Flag | None] = []
        codes: dict[int, bytes] = {}
        most = self._chooser.most(num_classes)
        for row, code in enumerate(self._chooser.codes(images)):
            choice = self._chooser.choose(model, code, num_classes=num_classes)
            if choice is None:
                flags.append(None)
                continue
            flags.append(Flag(choice.place, most, choice.marked))
            codes[row] = code
        return Plan(flags, codes) if codes else None

    def keep(
        self,
        plan: Plan,
        record: RequestRecord,
        images: Pixels,
        answer: SparseLogits,
        *,
        version: str,
    ) -> None:
        """Queue what is kept of an answered batch, and count its marked answers.

        Nothing waits for the writes, so that the time of an answer does not show whether an image
        was flagged. What cannot be written is lost, and the log says so.

        Args:
            record: the request, with its key and its model.
            answer: the answers that leave.
            version: the version of the model.
        """
        for row, code in plan.codes.items():
            flag = plan.flags[row]
            if flag is None or not flag.best:
                continue
            answered = self._answered(flag, code, record, answer, row, version)
            if answered.answer[0] != (answered.mark if flag.marked else answered.top1):
                continue  # two equal logits, whose exchange changes nothing
            if flag.marked:
                self._count(record)
            evidence = Evidence(answered, np.array(images[row]))
            kept = self._writes.submit(
                partial(self._store.add, evidence, kept=self._settings.kept), locks=LOCKS
            )
            kept.add_done_callback(partial(self._count_kept, record.model))

    def write_counts(self) -> None:
        """Write the counts that the ledger does not have yet. A stop calls it.

        Raises:
            StoreUnavailable: the ledger cannot be written.
        """
        if self._uncounted:
            self._ledger.append(*self._take_counts())

    def _answered(
        self,
        flag: Flag,
        code: bytes,
        record: RequestRecord,
        answer: SparseLogits,
        row: int,
        version: str,
    ) -> Answered:
        scores = None if answer.scores is None else tuple(answer.scores[row].tolist())
        return Answered(
            marked=flag.marked,
            key=record.caller,
            model=record.model,
            version=version,
            request=record.request_id,
            time=stamp(),
            coarse=self._secret.derive("coarse", record.model.encode(), code).hex(),
            top1=flag.best[0],
            runners_up=flag.best[1:],
            mark=flag.best[flag.place],
            answer=tuple(answer.indices[row].tolist()),
            scores=scores,
        )

    def _count(self, record: RequestRecord) -> None:
        self._metrics.count_marked(record.model)
        if not self._uncounted:
            self._count_at = time.monotonic() + COUNT_EVERY_S
        self._uncounted[record.caller, record.model] += 1

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


def _log_if_failed(appended: "asyncio.Future[list[None]]") -> None:
    if (error := appended.exception()) is not None:
        log.error("cannot write the ledger entry: %s", error)
