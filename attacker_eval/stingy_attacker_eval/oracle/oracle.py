"""The endpoint as a black box: answers, and the oracles that give them."""

import hashlib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stingy_attacker_eval.datasets.datasets import Images
from stingy_attacker_eval.errors import AnswersError, TransferError
from stingy_clients import Client, ModelInfo


@dataclass(frozen=True)
class Answers:
    """The answers of one endpoint for n images, best class first.

    indices: int64 `[n, N]`.
    scores: float32 `[n, N]` in the given score form; None if the policy gives none.

    Raises AnswersError if the parts do not fit together.
    """

    indices: NDArray[np.int64] = field(repr=False)
    scores: NDArray[np.float32] | None = field(repr=False)
    num_classes: int
    form: str

    def __post_init__(self) -> None:
        shape = self.indices.shape
        if len(shape) != 2 or not 1 <= shape[1] <= self.num_classes:
            raise AnswersError(
                f"expected indices [n, N] with N in 1..{self.num_classes}, got {list(shape)}"
            )
        if shape[0] and not 0 <= self.indices.min() <= self.indices.max() < self.num_classes:
            raise AnswersError(f"expected indices in 0..{self.num_classes - 1}, got others")
        if self.scores is not None and self.scores.shape != shape:
            raise AnswersError(f"expected scores {list(shape)}, got {list(self.scores.shape)}")
        if self.scores is not None and not np.isfinite(self.scores).all():
            raise AnswersError("expected finite scores, got others")

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def support(self) -> int:
        """N, the classes in one answer."""
        return int(self.indices.shape[1])

    @property
    def top1(self) -> NDArray[np.int64]:
        """The best class of each answer, int64 `[n]`."""
        return np.ascontiguousarray(self.indices[:, 0])


def join_answers(parts: Sequence[Answers]) -> Answers:
    """Join the answers of one or more requests to one endpoint."""
    scores = [part.scores for part in parts if part.scores is not None]
    return Answers(
        np.concatenate([part.indices for part in parts]),
        np.concatenate(scores) if scores else None,
        parts[0].num_classes,
        parts[0].form,
    )


def digest_labels(answers: Answers) -> str:
    """Return the SHA-256, hex, of the top-1 of the answers, in their order."""
    return hashlib.sha256(answers.top1.tobytes()).hexdigest()


def digest_answers(answers: Answers) -> str:
    """Return the SHA-256, hex, of classes and scores, in their order."""
    scores = b"" if answers.scores is None else answers.scores.tobytes()
    return hashlib.sha256(answers.indices.tobytes() + scores).hexdigest()


def endpoint_identity(info: ModelInfo) -> dict[str, object]:
    """Return the fields that two endpoints must share if their answers are mixed or compared."""
    return {
        "model": info.name,
        "version": info.version,
        "policy": info.policy,
        "fingerprint": info.fingerprint,
        "labels": list(info.labels),
        "support": info.support,
        "scores": info.scores,
    }


def changed_fields(identity: Mapping[str, object], info: ModelInfo) -> list[str]:
    """Return the names of the fields in which the endpoint differs from a recorded identity."""
    return [name for name, value in endpoint_identity(info).items() if identity.get(name) != value]


class Oracle(typing.Protocol):
    """An object that answers images; in practice, a client of a running endpoint."""

    def describe(self) -> ModelInfo:
        """Return the endpoint's description of its model."""
        ...

    def query(self, images: Images) -> Answers:
        """Send one request of at most `describe().max_arrays(H, W)` images; each is charged."""
        ...

    def charged(self) -> int:
        """Return the images charged to the key so far, as the endpoint counts them."""
        ...


class HttpOracle:
    """A model behind a running Stingy server, queried with a customer's key."""

    def __init__(self, client: Client, *, model: str) -> None:
        self._client = client
        self._model = model

    def describe(self) -> ModelInfo:
        return self._client.model(self._model)

    def query(self, images: Images) -> Answers:
        info = self.describe()
        indices, scores = self._client.predict_tensor(images, model=self._model)
        return Answers(indices, scores, info.num_classes, info.scores)

    def charged(self) -> int:
        return self._client.usage().used


class PinnedOracle:
    """An oracle that refuses to go on once its endpoint serves another model or policy."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self._info = oracle.describe()

    def describe(self) -> ModelInfo:
        return self._info

    def query(self, images: Images) -> Answers:
        """Return the answers.

        Raises TransferError if the endpoint's model or policy changed, because answers of two
        endpoints may not be mixed.
        """
        answers = self._oracle.query(images)
        changed = changed_fields(endpoint_identity(self._info), self._oracle.describe())
        if changed:
            raise TransferError(
                f"expected {self._info.name} as it was when this run began, got another "
                f"{', '.join(changed)}: answers are never mixed, choose a new folder"
            )
        return answers

    def charged(self) -> int:
        return self._oracle.charged()


def scores_unsupported_reason(form: str) -> str | None:
    """Return why answers of this score form have no logits; None if they have."""
    if form in ("log_prob", "logit", "prob"):
        return None
    return f'needs scores, and the endpoint\'s score form "{form}" has none to learn from'


def dense_logits(answers: Answers, device: torch.device) -> Tensor:
    """Return the answers as logits float32 `[n, classes]`, -inf for every withheld class.

    Log-probabilities and logits are kept, because a constant in a row changes no softmax.
    Probabilities become their logarithms.

    Raises AnswersError if there are no scores.
    """
    reason = scores_unsupported_reason(answers.form)
    if reason is not None or answers.scores is None:
        raise AnswersError(reason or "expected answers with scores, got indices alone")
    values = torch.from_numpy(answers.scores).to(device)
    indices = torch.from_numpy(answers.indices).to(device)
    if answers.form == "prob":
        values = values.log()
        # If a coarse grid rounded every score of a row to zero, the order still gives the top-1.
        all_zero = values.isinf().all(dim=1)
        values[all_zero, 0] = 0.0
    dense = torch.full((len(answers), answers.num_classes), -torch.inf, device=device)
    return dense.scatter_(1, indices, values)


def check_answers(answers: Answers, count: int, info: ModelInfo) -> Answers:
    """Return the answers.

    count: images in the request.
    info: the endpoint's description.

    Raises AnswersError if the number or the form of the answers is not as described.
    """
    expected = (count, info.support, info.num_classes, info.scores)
    got = (len(answers), answers.support, answers.num_classes, answers.form)
    if expected != got:
        raise AnswersError(
            f"expected (images, N, classes, score form) = {expected} as described, got {got}"
        )
    return answers
