"""An oracle under a budget, for attacks that ask while they run; no question goes uncounted."""

import numpy as np
import torch
from torch import Tensor

from stingy_attacker_eval.errors import AnswersError, BudgetExhausted, TransferError
from stingy_attacker_eval.oracle.oracle import Answers, Oracle, as_described, join_answers
from stingy_clients import ClientError, ModelInfo


class QuerySession:
    """What one run of an attack may ask: `budget` images, of any Oracle.

    `spent` counts every image asked for, whether the audit had its answer already or not: it is
    what the attack costs an attacker who runs it alone.
    """

    def __init__(self, oracle: Oracle, *, budget: int) -> None:
        self._oracle = oracle
        self._budget = budget
        self._spent = 0
        self.info: ModelInfo = oracle.describe()

    @property
    def spent(self) -> int:
        """Images asked for so far."""
        return self._spent

    @property
    def remaining(self) -> int:
        """Images that may still be asked for."""
        return self._budget - self._spent

    def query(self, images: Tensor) -> Answers:
        """The answers for images uint8 `[n, 3, H, W]`, n >= 1, in as few requests as allowed.

        Raises BudgetExhausted, before anything is asked, when n is more than is left;
        TransferError when the endpoint fails; AnswersError when it answers otherwise than it
        described.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or not len(images):
            raise AnswersError(
                f"expected images uint8 [n, 3, H, W], got {images.dtype} {list(images.shape)}"
            )
        if len(images) > self.remaining:
            raise BudgetExhausted(
                f"expected at most {self.remaining} images more, got {len(images)}: "
                f"{self._spent} of {self._budget} are spent"
            )
        pixels = np.ascontiguousarray(images.permute(0, 2, 3, 1).cpu().numpy())
        parts: list[Answers] = []
        for start in range(0, len(pixels), self.info.max_batch):
            part = pixels[start : start + self.info.max_batch]
            try:
                answers = self._oracle.query(part)
            except ClientError as error:
                raise TransferError(
                    f"{self._spent} of {self._budget} images were asked; the endpoint failed: "
                    f"{error}"
                ) from None
            self._spent += len(part)
            parts.append(as_described(answers, len(part), self.info))
        return join_answers(parts)
