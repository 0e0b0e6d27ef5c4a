"""An oracle whose answers stay on disk: none is bought twice."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stingy_attacker_eval.datasets.datasets import Images
from stingy_attacker_eval.errors import AnswersError, BudgetExhausted, TransferError
from stingy_attacker_eval.files import defer_interrupt, write_json
from stingy_attacker_eval.oracle.oracle import Answers, Oracle, as_described, endpoint_identity
from stingy_clients import ModelInfo

_DIGEST = 16


class CachedOracle:
    """An oracle whose answers stay on disk by the digest of their pixels: none is bought twice.

    FOLDER/answers.bin grows by a record an image, at once; FOLDER/ledger.json says what the
    endpoint charged. `budget` is for all that is ever sent. Raises TransferError when the folder
    is of another endpoint or damaged.
    """

    def __init__(self, oracle: Oracle, *, folder: Path, budget: int) -> None:
        self._oracle = oracle
        self._folder = folder
        self._budget = budget
        self._info = oracle.describe()
        self._rows: dict[bytes, tuple[NDArray[np.int64], NDArray[np.float32] | None]] = {}
        self._queries = self._charged = 0
        self._charged_before: int | None = None  # the key's count while something is unsettled
        self._record = np.dtype(
            [
                ("digest", "u1", (_DIGEST,)),
                ("indices", "<i8", (self._info.support,)),
                ("scores", "<f4", (self._info.support,)),
            ]
        )
        self._open()
        self.reconcile_charges()  # of a request that was lost, before anything else is asked

    @property
    def queries(self) -> int:
        """Images sent to the endpoint through this object, in this process and former ones."""
        return self._queries

    def describe(self) -> ModelInfo:
        """As the endpoint says."""
        return self._info

    def charged(self) -> int:
        """As the endpoint says, for the whole key."""
        return self._oracle.charged()

    def reconcile_charges(self) -> int:
        """Images the endpoint charged for what was `asked`; call it before others use the key."""
        if self._charged_before is not None:
            # Less than before: the key is another, and the former one's last request failed.
            self._charged += max(0, self._oracle.charged() - self._charged_before)
            self._charged_before = None
            self._write_ledger()
        return self._charged

    def add(self, images: Images, answers: Answers) -> None:
        """Know these answers too, bought elsewhere; nothing is written."""
        self._remember(_digests(images), answers)

    def query(self, images: Images) -> Answers:
        """As the endpoint's, but only images not seen before are sent, each once.

        Raises BudgetExhausted before sending when they are more than the budget allows.
        """
        digests = _digests(images)
        new: dict[bytes, int] = {}
        for row, digest in enumerate(digests):
            if digest not in self._rows:
                new.setdefault(digest, row)
        if new:
            self._buy(images[list(new.values())], list(new))
        return self._look_up(digests)

    def _buy(self, images: Images, digests: Sequence[bytes]) -> None:
        if self._queries + len(images) > self._budget:
            raise BudgetExhausted(
                f"expected at most {self._budget - self._queries} images more for this endpoint, "
                f"got {len(images)}: raise the protocol's budget"
            )
        if self._charged_before is None:
            self._charged_before = self._oracle.charged()
            self._write_ledger()
        with defer_interrupt():
            answers = as_described(self._oracle.query(images), len(images), self._info)
            self._save(digests, answers)
            self.reconcile_charges()  # at once: other endpoints may be asked with the same key

    def _save(self, digests: Sequence[bytes], answers: Answers) -> None:
        records = np.zeros(len(answers), self._record)
        records["digest"] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, _DIGEST)
        records["indices"] = answers.indices
        if answers.scores is not None:
            records["scores"] = answers.scores
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
        path = self._folder / "ledger.json"
        if path.exists():
            try:
                found = json.loads(path.read_bytes())
                endpoint, self._charged = found["endpoint"], found["charged"]
                self._charged_before = found["charged_before"]
            except (ValueError, KeyError, TypeError):
                raise TransferError(f"expected a ledger of ours at {path}, got another") from None
            if endpoint != endpoint_identity(self._info):
                raise TransferError(
                    f"expected the answers in {self._folder} to be of the same endpoint, got "
                    "those of another: answers are never mixed, choose a new folder"
                )
        kept = self._folder / "answers.bin"
        if not kept.exists():
            return
        content = kept.read_bytes()
        whole = len(content) - len(content) % self._record.itemsize
        if whole < len(content):  # killed while writing: that tail is bought again
            with kept.open("r+b") as file:
                file.truncate(whole)
        records = np.frombuffer(content[:whole], self._record)
        has_scores = self._info.scores != "none"
        try:
            answers = Answers(
                records["indices"].astype(np.int64).reshape(len(records), self._info.support),
                records["scores"].astype(np.float32) if has_scores else None,
                self._info.num_classes,
                self._info.scores,
            )
        except AnswersError:
            raise TransferError(
                f"expected the answers that were saved in {kept}, got a damaged file: delete it "
                "to buy them again"
            ) from None
        self._queries = len(records)
        self._remember([digest.tobytes() for digest in records["digest"]], answers)

    def _write_ledger(self) -> None:
        ledger = {
            "endpoint": endpoint_identity(self._info),
            "charged": self._charged,
            "charged_before": self._charged_before,
        }
        write_json(self._folder / "ledger.json", ledger)


def _digests(images: Images) -> list[bytes]:
    shape = str(images.shape[1:]).encode()
    return [
        hashlib.blake2b(
            np.ascontiguousarray(image).tobytes(), digest_size=_DIGEST, salt=shape[:16]
        ).digest()
        for image in images
    ]
