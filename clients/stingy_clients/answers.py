"""The answer types of a client, and the wire types that the server's OpenAPI document promises.

Invariant: an answer has only the support. Withheld classes exist only as a fill value in
`Answer.dense()`.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from stingy_clients.errors import ClientError

Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]
Images = Annotated[int, Field(ge=0)]

_HEAD_BYTES = 1024  # of a request, beside its images

_Count = Annotated[int, Field(ge=1)]


class _Wire(BaseModel):
    # Unknown fields are ignored, so that a newer server can add fields.
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class ScoredClass(_Wire):
    """A class of an answer: its index, its label and, unless the score form is none, its score."""

    index: Annotated[int, Field(ge=0)]
    label: str
    score: float | None = None


class WireAnswer(_Wire):
    """The answer for one image. `classes` is best first."""

    classes: Annotated[tuple[ScoredClass, ...], Field(min_length=1)]


class PredictResponse(_Wire):
    """The body of `POST /v1/predict/{model}`.

    `scores` is the score form of the answers. Servers of release 0.1.0 do not name it.
    """

    model: str
    version: str
    scores: str | None = None
    answers: tuple[WireAnswer, ...]


class PeriodUsage(_Wire):
    """The use of a budget in the present day or month of UTC.

    Attributes:
        budget: images in the period; None is no limit.
        used: images charged in the period.
        resets: the end of the period, in UTC.
    """

    budget: Images | None
    used: Images
    resets: datetime


class BudgetUsage(_Wire):
    """The use of a budget.

    Attributes:
        budget: images in all; None is no limit.
        used: images charged in all.
        remaining: images left now, by the smallest of all limits; None if there is no limit.
        day: the use in the present day; None from a server that does not say.
        month: the use in the present month; None from a server that does not say.
    """

    budget: Images | None
    used: Images
    remaining: Images | None
    day: PeriodUsage | None = None
    month: PeriodUsage | None = None


class Usage(BudgetUsage):
    """The usage of a key.

    Attributes:
        key: the id of the key.
        models: the budgets that the key has for single models, by their names. A query of such a
            model is charged to both.
    """

    key: str
    models: dict[str, BudgetUsage] = {}


class ServedModel(_Wire):
    """A model that a server serves, as the key of the request gets it.

    Args:
        name: the model's name.
        version: the version that this key gets if it names none.
        versions: all versions that are served.
        num_classes: K, the number of classes.
        image_size: [height, width] of the model's input in pixels. Images may have any size.
        answer: the contents of an answer in words, such as "top 2 of 10 classes, log_prob at 3
            decimals".
        scores: the score form: log_prob, prob, logit, rank or none.
        max_batch: the largest number of images in one request.
        max_pixels: the largest number of pixels in all image files of a request in sum.
        max_bytes: the largest number of bytes of a request.
    """

    name: str
    version: str
    versions: Annotated[tuple[str, ...], Field(min_length=1)]
    num_classes: _Count
    image_size: tuple[int, int]
    answer: str
    scores: str
    max_batch: _Count
    max_pixels: _Count
    max_bytes: _Count


class ModelList(_Wire):
    """The body of `GET /v1/models`, in the order of the names."""

    models: tuple[ServedModel, ...]


class ModelInfo(_Wire):
    """The metadata of a model.

    Args:
        name: the model's name.
        version: the version that these fields describe.
        num_classes: K, the number of classes.
        labels: the K labels, by index.
        policy: the name of the policy.
        support: N, the largest number of classes in an answer.
        scores: the score form: log_prob, prob, logit, rank or none.
        decimals: the grid of the scores, in decimal places.
        fingerprint: the fingerprint of the policy and its options.
        image_size: [height, width] in pixels.
        max_batch: the largest number of images in one request.
        max_pixels: the largest number of pixels in all image files of a request in sum; None if
            the server does not say it.
        max_bytes: the largest number of bytes of a request; None if the server does not say it.
    """

    name: str
    version: str
    num_classes: _Count
    labels: tuple[str, ...]
    policy: str
    support: _Count
    scores: str
    decimals: Annotated[int, Field(ge=0)]
    fingerprint: str
    image_size: tuple[int, int]
    max_batch: _Count
    max_pixels: _Count | None = None
    max_bytes: _Count | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "ModelInfo":
        if len(self.labels) != self.num_classes:
            raise ValueError(f"expected {self.num_classes} labels, got {len(self.labels)}")
        if self.support > self.num_classes:
            raise ValueError(f"expected support <= {self.num_classes}, got {self.support}")
        return self

    @property
    def max_image_bytes(self) -> int | None:
        """The largest number of bytes of all images in one request, or None if it is not known."""
        return None if self.max_bytes is None else max(0, self.max_bytes - _HEAD_BYTES)

    def max_arrays(self, height: int, width: int) -> int:
        """Return the largest number of uint8 images [height, width, 3] in one request, at least 1.

        Args:
            height: in pixels.
            width: in pixels.
        """
        if self.max_image_bytes is None:
            return self.max_batch
        return max(1, min(self.max_batch, self.max_image_bytes // (3 * height * width)))


@dataclass(frozen=True)
class Answer:
    """The answer for one image: N of `num_classes` classes, best first.

    Args:
        classes: the N classes that left the server.
        num_classes: K, the number of the model's classes.
        model: the model's name.
        version: the version that answered.
        form: the form of the scores: log_prob, prob, logit, rank or none.
    """

    classes: tuple[ScoredClass, ...]
    num_classes: int
    model: str
    version: str
    form: str

    @property
    def top1(self) -> ScoredClass:
        """The predicted class."""
        return self.classes[0]

    @property
    def label(self) -> str:
        """The label of the predicted class."""
        return self.top1.label

    @property
    def indices(self) -> Int64:
        """The class indices of the support, int64 [N], best first."""
        return np.array([entry.index for entry in self.classes], dtype=np.int64)

    @property
    def scores(self) -> Float32 | None:
        """The scores of the support, float32 [N], or None if the policy has none."""
        scores = [entry.score for entry in self.classes if entry.score is not None]
        return np.array(scores, dtype=np.float32) if scores else None

    @property
    def withheld(self) -> int:
        """The number of classes that the server withheld, K - N."""
        return self.num_classes - len(self.classes)

    @property
    def probabilities(self) -> Float32 | None:
        """The probabilities of the support, float32 [N], or None for ranks and labels.

        They are computed from the scores and sum to 1 up to the scores' grid. If classes are
        withheld, they are the probabilities among the classes that left.
        """
        scores = self.scores
        if scores is None or self.form not in ("log_prob", "prob", "logit"):
            return None
        values = scores.astype(np.float64)
        if self.form == "logit":
            values -= values.max()
            values -= np.log(np.exp(values).sum())
        return (values if self.form == "prob" else np.exp(values)).astype(np.float32)

    def dense(self, fill: float = -np.inf) -> Float32:
        """Return the scores as a full row, float32 [num_classes].

        Args:
            fill: the value of the classes outside the support.

        Raises:
            ClientError: if the score form is none.
        """
        scores = self.scores
        if scores is None:
            raise ClientError("expected an answer with scores, got labels only: use .indices")
        row = np.full(self.num_classes, fill, dtype=np.float32)
        row[self.indices] = scores
        return row
