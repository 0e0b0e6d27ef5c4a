"""The lab's endpoint marks as a server does, and an honest key gets the policy's own answers."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from serving import random_images
from stingy_attacker_eval.attacks.networks import compute_logits
from stingy_attacker_eval.mark_study.marking import (
    MarkingOracle,
    choose,
    draw_marks,
    exchange,
    make_policy,
    rank,
)
from stingy_attacker_eval.training import to_device
from stingy_protection import Policy, sanitize
from stingy_protection.marks import Chooser
from stingy_server.inference.flags import Flag, mark

SECRET = bytes(range(32))
IMAGES = random_images(400, seed=3)
CLASSES = 6


class Sums(nn.Module):
    """A fixed linear map of the pixels, without training."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("map", torch.randn(192, CLASSES, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = images.flatten(1) @ self.get_buffer("map")
        return logits


def oracle(share: float, policy: str = "stingy:n=3") -> MarkingOracle:
    return MarkingOracle(
        Sums(),
        make_policy(policy, CLASSES),
        labels=tuple("abcdef"),
        side=8,
        secret=SECRET,
        share=share,
        runners_up=3,
    )


def test_honest_key_gets_the_policys_own_answers() -> None:
    honest, marked = oracle(0.0).query(IMAGES), oracle(0.1).query(IMAGES)
    choices = choose(SECRET, IMAGES, share=0.1, runners_up=3, num_classes=CLASSES)
    differ = (honest.indices != marked.indices).any(axis=1)
    assert differ.tolist() == choices.marked.tolist()
    assert 10 <= differ.sum() <= 80


@pytest.mark.parametrize("policy", ["label", "stingy:n=3", "open"])
def test_marked_answer_has_the_mark_first(policy: str) -> None:
    server = oracle(0.1, policy)
    answers = server.query(IMAGES)
    items = server.items()
    choices = choose(SECRET, IMAGES, share=0.1, runners_up=3, num_classes=CLASSES)
    rows = np.flatnonzero(choices.marked | choices.control)
    assert len(items) == len({choices.codes[row] for row in rows}) == len(rows)
    marks = items.runners_up[np.arange(len(items)), items.places]
    expected = np.where(items.marked, marks, items.top1)
    assert answers.top1[rows].tolist() == expected.tolist()


def test_query_of_the_same_input_adds_no_item() -> None:
    server = oracle(0.1)
    first = server.query(IMAGES)
    count = len(server.items())
    repeated = server.query(IMAGES[::-1].copy())
    assert len(server.items()) == count
    assert first.indices.tolist() == repeated.indices[::-1].tolist()
    assert server.charged() == 800


def test_exchange_moves_two_logits_of_marked_rows_alone() -> None:
    logits = torch.randn(400, CLASSES, generator=torch.Generator().manual_seed(1))
    best = rank(logits, 3)
    choices = choose(SECRET, IMAGES, share=0.1, runners_up=3, num_classes=CLASSES)
    found = exchange(logits, best, choices)
    assert torch.equal(found.sort(dim=1).values, logits.sort(dim=1).values)
    changed = (found != logits).sum(dim=1)
    assert changed.tolist() == (2 * choices.marked).tolist()
    policy: Policy = make_policy("label", CLASSES)
    assert len(sanitize(policy, found)) == 400


def test_every_share_marks_a_part_of_what_a_larger_one_does() -> None:
    images = np.concatenate([IMAGES, IMAGES[:50]])  # some coarse pixels come twice
    shares = (0.0001, 0.05, 0.3)
    drawn = {
        share: (rows, places)
        for share, rows, places in draw_marks(
            SECRET, images, shares=shares, runners_up=3, num_classes=CLASSES
        )
    }
    assert list(drawn) == [0.3, 0.05, 0.0001]
    for share, (rows, places) in drawn.items():
        alone = choose(SECRET, IMAGES, share=share, runners_up=3, num_classes=CLASSES)
        assert rows.tolist() == np.flatnonzero(alone.marked).tolist()
        assert places.tolist() == alone.places[alone.marked].tolist()


@pytest.mark.parametrize("policy", ["label", "stingy:n=3", "open"])
def test_answers_equal_those_of_the_servers_worker(policy: str) -> None:
    chooser = Chooser(SECRET, share=0.1, runners_up=3)
    flags: list[Flag | None] = []
    for code in chooser.codes(IMAGES):
        choice = chooser.choose("teacher", code, num_classes=CLASSES)
        flags.append(Flag(choice.place, 3, choice.marked))
    logits = compute_logits(Sums(), to_device(IMAGES, torch.device("cpu")))
    gated = make_policy(policy, CLASSES)
    expected = mark(sanitize(gated, logits), flags, policy=gated, logits=logits, noise=None)
    answers = oracle(0.1, policy).query(IMAGES)
    assert answers.indices.tolist() == expected.indices.tolist()
    if expected.scores is not None:
        assert answers.scores is not None
        assert answers.scores.tolist() == expected.scores.tolist()
