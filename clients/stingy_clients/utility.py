"""The utility of answers for honest clients: pure functions of answers and true labels."""

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

_BINS = 15
_INDEX_BYTES, _SCORE_BYTES = 8, 4


class Utility(BaseModel):
    """The utility of an endpoint's answers to some images for an honest client.

    top1, top5: percent whose true class is first, or among the first five.
    ece: expected calibration error of the first class's probability, in points; None if the
        answers have no probability.
    answer_bytes: one answer in the binary form, without headers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    images: int
    top1: float
    top5: float
    ece: float | None
    answer_bytes: int


def utility(
    indices: NDArray[np.int64],
    scores: NDArray[np.float32] | None,
    form: str,
    labels: NDArray[np.int64],
) -> Utility:
    """Compute the utility of answers.

    indices: answered classes `[n, N]`, best first.
    scores: `[n, N]`, None if the answers have none.
    form: score form of the answers.
    labels: true classes `[n]`.

    Raises ValueError if the shapes do not fit together.
    """
    if indices.ndim != 2 or labels.shape != indices.shape[:1] or not len(labels):
        raise ValueError(
            f"expected indices [n, N] and labels [n], got {indices.shape} and {labels.shape}"
        )
    if scores is not None and scores.shape != indices.shape:
        raise ValueError(f"expected scores {indices.shape}, got {scores.shape}")
    hits = indices == labels[:, None]
    confidence = top1_probability(scores, form)
    per_class = _INDEX_BYTES + (0 if scores is None else _SCORE_BYTES)
    return Utility(
        images=len(labels),
        top1=100 * float(hits[:, 0].mean()),
        top5=100 * float(hits[:, :5].any(axis=1).mean()),
        ece=None if confidence is None else calibration_error(confidence, hits[:, 0]),
        answer_bytes=indices.shape[1] * per_class,
    )


def top1_probability(scores: NDArray[np.float32] | None, form: str) -> NDArray[np.float64] | None:
    """Return the probability of the first class `[n]`; None if the answers give none.

    The probabilities of an answer are over the answered classes.
    """
    if scores is None or form not in ("prob", "log_prob", "logit"):
        return None
    values = scores.astype(np.float64)
    if form == "prob":
        return values[:, 0].clip(0, 1)
    if form == "log_prob":
        return np.exp(values[:, 0]).clip(0, 1)
    shares = np.exp(values - values.max(axis=1, keepdims=True))
    first: NDArray[np.float64] = shares[:, 0] / shares.sum(axis=1)
    return first


def calibration_error(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> float:
    """Compute the expected calibration error in points, over 15 equal bins.

    Guo et al. 2017, equation 3.
    """
    bins = np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)
    gaps = np.bincount(bins, weights=confidence - correct, minlength=_BINS)
    return 100 * float(np.abs(gaps).sum() / len(confidence))
