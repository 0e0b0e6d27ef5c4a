"""An oracle that keeps its answers on disk, so that no answer is bought twice or mixed."""

import contextlib
import hashlib
import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stingy_attacker_eval.datasets.datasets import Images
from stingy_attacker_eval.errors import AnswersError, BudgetExhausted, TransferError
from stingy_attacker_eval.files import defer_interrupt, write_json
from stingy_attacker_eval.oracle.oracle import (
    Answers,
    Oracle,
    changed_fields,
    check_answers,
    endpoint_identity,
)
from stingy_clients import ApiError, ClientError, ModelInfo

SCHEMA = "stingy.answers/1"

_DIGEST = 16
_MOST = 2**62  # images


class CachedOracle:
    """An oracle that keeps each answer on disk by the digest of its image's pixels.

    FOLDER/answers.bin grows by one record per image as soon as the image is answered.
    FOLDER/ledger.json says which endpoint answered and what it charged. The caller locks the
    folder, because only one process may use it.
    """

    def __init__(self, oracle: Oracle, *, folder: Path, budget: int | None = None) -> None:
        """Open the folder, or create it.

        budget: the most images that may be sent, in this process and former ones; None for no
            limit.

        Raises TransferError if the folder belongs to another endpoint or is damaged.
        """
        self._oracle = oracle
        self._folder = folder
        self._budget = budget
        self._info = oracle.describe()
        self._rows: dict[bytes, tuple[NDArray[np.int64], NDArray[np.float32] | None]] = {}
        self._queries = self._charged = 0
        # The key's count before requests that are not reconciled yet, and their images.
        self._charged_before: int | None = None
        self._in_flight = 0
        self._record = np.dtype(
            [
                ("digest", "u1", (_DIGEST,)),
                ("indices", "<i8", (self._info.support,)),
                ("scores", "<f4", (self._info.support,)),
                ("checksum", "<u4"),
            ]
        )
        self._open()
        self.reconcile_charges()  # a former process may have lost a request

    @property
    def queries(self) -> int:
        """Images sent to the endpoint and answered, in this process and former ones."""
        return self._queries

    def describe(self) -> ModelInfo:
        """Return the endpoint's description when this object was made."""
        return self._info

    def charged(self) -> int:
        """Return the endpoint's count for the whole key."""
        return self._oracle.charged()

    def reconcile_charges(self) -> int:
        """Return what the endpoint charged for the images sent, a lost request included.

        Call it before another user of the key sends images. A lost request counts as charged for
        its images at most, because the key may have had another use since, or be another key.
        """
        if self._charged_before is not None:
            difference = self._oracle.charged() - self._charged_before
            self._charged += min(max(0, difference), self._in_flight)
            self._charged_before, self._in_flight = None, 0
            self._write_ledger()
        return self._charged

    def count_answered(self, images: Images) -> int:
        """Return how many of the images have an answer on disk."""
        return sum(digest in self._rows for digest in image_digests(images))

    def count_missing(self, images: Images) -> int:
        """Return how many distinct images have no answer yet, and so would be sent."""
        return len(set(image_digests(images)) - self._rows.keys())

    def query(self, images: Images) -> Answers:
        """Return the answers. Send each image without an answer once, all in one request.

        Raises BudgetExhausted, before anything is sent, if those images exceed the budget.
        """
        digests = image_digests(images)
        missing: dict[bytes, int] = {}
        for row, digest in enumerate(digests):
            if digest not in self._rows:
                missing.setdefault(digest, row)
        if missing:
            self._buy(images[list(missing.values())], list(missing))
        return self._look_up(digests)

    def _buy(self, images: Images, digests: Sequence[bytes]) -> None:
        if self._budget is not None and self._queries + len(images) > self._budget:
            raise BudgetExhausted(
                f"expected at most {self._budget - self._queries} images more for this endpoint, "
                f"got {len(images)}: raise the protocol's budget"
            )
        if self._charged_before is None:
            self._charged_before = self._oracle.charged()
        self._in_flight += len(images)
        self._write_ledger()
        with defer_interrupt():
            try:
                answers = check_answers(self._oracle.query(images), len(images), self._info)
            except ApiError:
                with contextlib.suppress(ClientError):
                    self.reconcile_charges()  # now, because the refusal is known to be the end
                raise
            self._save(digests, answers)
            self.reconcile_charges()  # at once, because other endpoints may share the key

    def _save(self, digests: Sequence[bytes], answers: Answers) -> None:
        records = np.zeros(len(answers), self._record)
        records["digest"] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, _DIGEST)
        records["indices"] = answers.indices
        if answers.scores is not None:
            records["scores"] = answers.scores
        records["checksum"] = _checksums(records)
        with (self._folder / "answers.bin").open("ab") as file:
            file.write(records.tobytes())
        self._queries += len(answers)
        self._remember(digests, answers)

    def _remember(self, digests: Sequence[bytes], answers: Answers) -> None:
        for row, digest in enumerate(digests):
            scores = None if answers.scores is None else answers.scores[row]
            self._rows[digest] = answers.indices[row], scores

    def _look_up(self, digests: Sequence[bytes]) -> Answers:
        rows = [self._rows[digest] for digest in digests]
        scores = [scores for _, scores in rows if scores is not None]
        return Answers(
            np.stack([indices for indices, _ in rows]),
            np.stack(scores) if scores else None,
            self._info.num_classes,
            self._info.scores,
        )

    def _open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / "answers.bin"
        if self._read_ledger():
            self._read_answers(path)
        elif path.exists():
            raise TransferError(f"expected a ledger beside {path}, got none: choose a new folder")

    def _read_ledger(self) -> bool:
        """Read ledger.json and return whether it is there."""
        path = self._folder / "ledger.json"
        if not path.exists():
            return False
        try:
            ledger = json.loads(path.read_bytes())
            if ledger["schema"] != SCHEMA:
                raise ValueError
            endpoint = dict(ledger["endpoint"])
            self._charged = _count(ledger["charged"])
            self._in_flight = _count(ledger.get("in_flight", _MOST))  # 0.1.0 did not write it
            before = ledger["charged_before"]
            self._charged_before = None if before is None else _count(before)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise TransferError(f"expected a {SCHEMA} ledger at {path}, got another") from None
        changed = changed_fields(endpoint, self._info)
        if changed:
            raise TransferError(
                f"expected the answers in {self._folder} to be of the same endpoint, got another "
                f"{', '.join(changed)}: answers are never mixed, choose a new folder"
            )
        return True

    def _read_answers(self, path: Path) -> None:
        content = path.read_bytes() if path.exists() else b""
        complete = len(content) - len(content) % self._record.itemsize
        if complete < len(content):  # The process was killed while writing: buy that answer again.
            with path.open("r+b") as file:
                file.truncate(complete)
        if not complete:
            return
        records = np.frombuffer(content[:complete], self._record)
        has_scores = self._info.scores != "none"
        try:
            if (records["checksum"] != _checksums(records)).any():
                raise AnswersError("expected records with their checksum, got others")
            if len(np.unique(records["digest"], axis=0)) < len(records):
                raise AnswersError("expected one answer for each image, got two")
            answers = Answers(
                records["indices"].astype(np.int64).reshape(len(records), self._info.support),
                records["scores"].astype(np.float32) if has_scores else None,
                self._info.num_classes,
                self._info.scores,
            )
        except AnswersError:
            raise TransferError(
                f"expected the answers that were saved in {path}, got a damaged file: delete it "
                "to buy them again"
            ) from None
        self._queries = len(records)
        self._remember([digest.tobytes() for digest in records["digest"]], answers)

    def _write_ledger(self) -> None:
        ledger = {
            "schema": SCHEMA,
            "endpoint": endpoint_identity(self._info),
            "charged": self._charged,
            "charged_before": self._charged_before,
            "in_flight": self._in_flight,
        }
        write_json(self._folder / "ledger.json", ledger)


def _count(value: object) -> int:
    """Return a number of images as it is. Raises ValueError if it is none."""
    if type(value) is not int or not 0 <= value <= _MOST:
        raise ValueError
    return value


def image_digests(images: Images) -> list[bytes]:
    """Return a digest of each image's shape and pixels."""
    shape = str(images.shape[1:]).encode()
    return [
        hashlib.blake2b(
            np.ascontiguousarray(image).tobytes(), digest_size=_DIGEST, salt=shape[:16]
        ).digest()
        for image in images
    ]


def _checksums(records: NDArray[np.void]) -> NDArray[np.uint32]:
    """Return the CRC-32 of each record, without the checksum at its end."""
    return np.array([zlib.crc32(record.tobytes()[:-4]) for record in records], np.uint32)
