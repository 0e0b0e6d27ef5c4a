"""The lab's endpoint, in this process: a teacher, a policy and marks, as a server has them.

This is the study's only module that imports the protection.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stingy_attacker_eval.attacks.networks import compute_logits
from stingy_attacker_eval.datasets.datasets import Images
from stingy_attacker_eval.mark_study.orders import Int64, order_answers
from stingy_attacker_eval.oracle.oracle import Answers
from stingy_attacker_eval.training import to_device
from stingy_clients import ModelInfo
from stingy_protection import Policy, best_first, build_policy, parse_policy, sanitize
from stingy_protection.marks import Chooser

_MOST_BATCH = 1024
_MODEL = "teacher"


@dataclass(frozen=True, eq=False)
class Choices:
    """The choices for some inputs.

    codes: of the coarse pixels, `[n]`.
    marked: whether the answer of a marked key is marked, bool `[n]`.
    control: whether the input is a control, bool `[n]`.
    places: the place of the mark among the runners-up, int64 `[n]`.
    """

    codes: list[bytes]
    marked: NDArray[np.bool_]
    control: NDArray[np.bool_]
    places: Int64


@dataclass(frozen=True, eq=False)
class Items:
    """Marked inputs and controls of one key, as an exhibit has them.

    images: uint8 `[q, 3, H, W]`.
    marked: bool `[q]`; the others are controls.
    top1: the teacher's classes, int64 `[q]`.
    runners_up: the next m classes, best first, int64 `[q, m]`.
    places: the place of the mark among them, int64 `[q]`.
    """

    images: Tensor
    marked: NDArray[np.bool_]
    top1: Int64
    runners_up: Int64
    places: Int64

    def __len__(self) -> int:
        return len(self.top1)


class MarkingOracle:
    """An endpoint whose key gets marked answers, for the attacks of an audit.

    share: of the inputs that are marked; 0 for an honest key.
    ranks: a secret order of the runners-up for each class, in place of marks; None for none.

    `items` has the marked inputs and the controls of all queries. Of inputs with equal coarse
    pixels it has the first, as an exhibit has.
    """

    def __init__(
        self,
        network: nn.Module,
        policy: Policy,
        *,
        labels: tuple[str, ...],
        side: int,
        secret: bytes,
        share: float,
        runners_up: int,
        ranks: Int64 | None = None,
    ) -> None:
        self._ranks = ranks
        self._network = network
        self._policy = policy
        self._secret = secret
        self._share = share
        self._runners_up = runners_up
        self._codes: set[bytes] = set()
        self._parts: list[Items] = []
        self._charged = 0
        self._info = ModelInfo(
            name=_MODEL,
            version="1",
            num_classes=policy.num_classes,
            labels=labels,
            policy=policy.name,
            support=policy.support,
            scores=policy.scores,
            decimals=policy.decimals,
            fingerprint=policy.fingerprint,
            image_size=(side, side),
            max_batch=_MOST_BATCH,
        )

    def describe(self) -> ModelInfo:
        return self._info

    def charged(self) -> int:
        return self._charged

    def query(self, images: Images) -> Answers:
        self._charged += len(images)
        tensors = to_device(images, torch.device("cpu"))
        logits = compute_logits(self._network, tensors)
        if self._share:
            choices = choose(
                self._secret,
                images,
                share=self._share,
                runners_up=self._runners_up,
                num_classes=self._policy.num_classes,
            )
            best = rank(logits, self._runners_up)
            self._keep(tensors, best, choices)
            logits = exchange(logits, best, choices)
        answer = sanitize(self._policy, logits)
        scores = None if answer.scores is None else answer.scores.numpy()
        found = Answers(answer.indices.numpy(), scores, answer.num_classes, str(answer.form))
        return found if self._ranks is None else order_answers(found, self._ranks)

    def items(self) -> Items:
        """Return the marked inputs and the controls of all queries so far."""
        return Items(
            torch.cat([part.images for part in self._parts]),
            *(
                np.concatenate([getattr(part, name) for part in self._parts])
                for name in ("marked", "top1", "runners_up", "places")
            ),
        )

    def _keep(self, images: Tensor, best: Int64, choices: Choices) -> None:
        found = []
        for row in np.flatnonzero(choices.marked | choices.control):
            code = choices.codes[row]
            if code not in self._codes:
                self._codes.add(code)
                found.append(row)
        rows = np.array(found, np.int64)
        self._parts.append(
            Items(
                images[rows],
                choices.marked[rows],
                best[rows, 0],
                best[rows, 1:],
                choices.places[rows],
            )
        )


def make_policy(text: str, num_classes: int) -> Policy:
    """Build the policy that a bundle would name like this."""
    name, options = parse_policy(text)
    return build_policy(name, num_classes=num_classes, **options)


def rank(logits: Tensor, runners_up: int) -> Int64:
    """Return the best class and the runners-up of each row, best first, int64 `[n, 1 + m]`."""
    most = min(runners_up, logits.shape[1] - 1)
    return best_first(logits, 1 + most)[1].numpy()


def choose(
    secret: bytes, images: Images, *, share: float, runners_up: int, num_classes: int
) -> Choices:
    """Choose marked inputs and controls as a server does, for images `[n, H, W, 3]`."""
    chooser = Chooser(secret, share=share, runners_up=runners_up)
    return choose_codes(chooser, chooser.codes(images), num_classes=num_classes)


def choose_codes(chooser: Chooser, codes: list[bytes], *, num_classes: int) -> Choices:
    """Choose marked inputs and controls by the codes of their coarse pixels."""
    found = [chooser.choose(_MODEL, code, num_classes=num_classes) for code in codes]
    return Choices(
        codes,
        np.array([choice.marked for choice in found], bool),
        np.array([choice.control for choice in found], bool),
        np.array([choice.place - 1 for choice in found], np.int64),
    )


def draw_marks(
    secret: bytes, images: Images, *, shares: Sequence[float], runners_up: int, num_classes: int
) -> Iterator[tuple[float, Int64, Int64]]:
    """Yield each share with the rows that it marks, and the places of their marks, int64 `[q]`.

    Of rows with equal codes only the first is there, as in an exhibit. What a share marks, every
    larger share marks alike, so the largest comes first and the others look among its rows.
    """
    rows = np.arange(len(images))
    codes: list[bytes] | None = None
    for share in sorted(shares, reverse=True):
        chooser = Chooser(secret, share=share, runners_up=runners_up)
        codes = chooser.codes(images) if codes is None else codes
        choices = choose_codes(chooser, codes, num_classes=num_classes)
        first = {codes[row]: row for row in reversed(np.flatnonzero(choices.marked))}
        kept = np.array(sorted(first.values()), np.int64)
        rows, codes = rows[kept], [codes[row] for row in kept]
        yield share, rows, choices.places[kept]


def exchange(logits: Tensor, best: Int64, choices: Choices) -> Tensor:
    """Exchange the logits of the best class and of the mark, where an input is marked."""
    rows = torch.from_numpy(np.flatnonzero(choices.marked))
    if not len(rows):
        return logits
    first = torch.from_numpy(best[:, 0])[rows]
    other = torch.from_numpy(best[np.arange(len(best)), 1 + choices.places])[rows]
    exchanged = logits.clone()
    exchanged[rows, first], exchanged[rows, other] = logits[rows, other], logits[rows, first]
    return exchanged
