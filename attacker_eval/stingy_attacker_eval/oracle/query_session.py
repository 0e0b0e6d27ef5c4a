"""An oracle with a budget, for attacks that query while they run; every image is counted."""

import numpy as np
import torch
from torch import Tensor

from stingy_attacker_eval.errors import AnswersError, BudgetExhausted, TransferError
from stingy_attacker_eval.oracle.oracle import Answers, Oracle, check_answers, join_answers
from stingy_clients import ClientError, ModelInfo


class QuerySession:
    """The queries of one run of an attack: at most `budget` images, of any oracle.

    `spent` counts every queried image, even if the audit already had its answer. It is the cost of
    the attack for an attacker who runs nothing else.
    """

    def __init__(self, oracle: Oracle, *, budget: int) -> None:
        self._oracle = oracle
        self._budget = budget
        self._spent = 0
        self.info: ModelInfo = oracle.describe()

    @property
    def spent(self) -> int:
        """Images queried so far."""
        return self._spent

    @property
    def remaining(self) -> int:
        """Images that may still be queried."""
        return self._budget - self._spent

    def query(self, images: Tensor) -> Answers:
        """Return answers for images uint8 `[n, 3, H, W]`, n >= 1, in as few requests as allowed.

        Raises BudgetExhausted, before anything is sent, if n is more than `remaining`. Raises
        TransferError if the endpoint fails, and AnswersError if its answers differ from its
        description.
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
        size = self.info.max_arrays(*pixels.shape[1:3])
        for start in range(0, len(pixels), size):
            part = pixels[start : start + size]
            try:
                answers = self._oracle.query(part)
            except ClientError as error:
                raise TransferError(
                    f"{self._spent} of {self._budget} images were answered; the endpoint failed: "
                    f"{error}"
                ) from None
            self._spent += len(part)
            parts.append(check_answers(answers, len(part), self.info))
        return join_answers(parts)
