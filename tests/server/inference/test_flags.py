"""Flags: marked answers keep the promises of every policy, and other answers do not change."""

from typing import Any

import pytest
import torch
from torch import Tensor

from serving import random_images
from stingy_protection import (
    LogitsRejected,
    NoisyPolicy,
    Policy,
    PolicyViolation,
    Proposal,
    ScoreForm,
    SparseLogits,
    build_policy,
    keyed_noise,
    parse_policy,
    sanitize,
)
from stingy_server.inference.engine import apply_gate
from stingy_server.inference.flags import Flag, Flags

SECRET = bytes(16)
PIXELS = torch.from_numpy(random_images(6))
LOGITS = torch.randn(6, 10, generator=torch.Generator().manual_seed(1)) * 3
LISTS = tuple((label, *(other for other in range(10) if other != label)) for label in range(10))


def policy_of(text: str) -> Policy:
    name, options = parse_policy(text)
    return build_policy(name, num_classes=10, **options)


POLICIES = [
    *(f"stingy:n=3,scores={form}" for form in ScoreForm),
    "stingy_smooth:n=3",
    "reversed",
    "label",
    "ranked_labels:n=3",
    "ranked_buckets:n=3",
    "keyed_noise:n=3",
    "reverse_sigmoid",
    "rounded:decimals=1",
    "open",
]


def flag(place: int = 1, *, marked: bool = True, most: int = 3) -> Flag:
    return Flag(place, most, marked)


def gate(policy: Policy, flags: Flags | None, *, logits: Tensor = LOGITS) -> SparseLogits:
    return apply_gate(policy, logits, pixels=PIXELS, secret=SECRET, flags=flags)


def rows_of(answer: SparseLogits) -> list[tuple[Any, Any]]:
    scores = [None] * len(answer) if answer.scores is None else answer.scores.tolist()
    return list(zip(answer.indices.tolist(), scores, strict=True))


def exchanged(row: int, place: int) -> Tensor:
    """Return a row of the logits with its best class and another one exchanged."""
    logits = LOGITS[row].clone()
    order = logits.argsort(descending=True)
    first, other = order[0], order[place]
    logits[first], logits[other] = LOGITS[row, other], LOGITS[row, first]
    return logits[None]


@pytest.mark.parametrize(
    "policy",
    [*map(policy_of, POLICIES), build_policy("class_prototype", num_classes=10, n=3, lists=LISTS)],
    ids=lambda policy: f"{policy.name}-{policy.scores}",
)
def test_Y3_marked_answer_is_the_policys_for_exchanged_logits(policy: Policy) -> None:
    plain = rows_of(gate(policy, None))
    flags: list[Flag | None] = [None, flag(1), flag(2, marked=False), None, flag(3), flag(2)]
    answer = gate(policy, flags)
    for row, each in enumerate(flags):
        if each is None or not each.marked:
            assert rows_of(answer)[row] == plain[row]
            continue
        noise = None
        if isinstance(policy, NoisyPolicy):
            noise = keyed_noise(SECRET, PIXELS[row : row + 1], 10)
        (expected,) = rows_of(sanitize(policy, exchanged(row, each.place), noise=noise))
        assert rows_of(answer)[row] == expected
        assert expected[0][0] == each.best[each.place] != plain[row][0][0]


def test_flags_report_the_best_classes_of_their_images() -> None:
    flags: list[Flag | None] = [flag(1), None, flag(2, marked=False, most=2), None, None, None]
    gate(policy_of("label"), flags)
    order = LOGITS.argsort(dim=1, descending=True).tolist()
    assert [each.best for each in flags if each is not None] == [
        tuple(order[0][:4]),
        tuple(order[2][:3]),
    ]


def test_Y3_answer_of_marks_owns_its_bytes() -> None:
    answer = gate(policy_of("stingy:n=2"), [flag()] * 6)
    assert answer.indices.untyped_storage().nbytes() == 6 * 2 * 8


@pytest.mark.parametrize(
    "logits", [LOGITS.int(), LOGITS[0], LOGITS[:, :9], LOGITS / 0, torch.full((6, 10), torch.nan)]
)
def test_Y3_flags_open_no_way_for_broken_logits(logits: Tensor) -> None:
    with pytest.raises(LogitsRejected):
        gate(policy_of("stingy"), [flag()] * 6, logits=logits)


def test_Y3_policy_that_bends_exchanged_logits_is_refused() -> None:
    class Bent(Policy):
        name = "bent"
        support = 1
        first: Tensor = LOGITS.argmax(dim=1)

        def propose(self, logits: Tensor) -> Proposal:
            best = self.first[: len(logits), None]  # whatever the logits are
            return Proposal(best, logits.gather(1, best))

    policy = Bent(num_classes=10)
    gate(policy, None)
    with pytest.raises(PolicyViolation, match="top-1"):
        gate(policy, [flag(), None, None, None, None, None])


def test_Y5_worker_does_the_same_for_all_flagged_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passed: list[tuple[int, ...]] = []

    def record(policy: Policy, logits: Tensor, *, noise: Tensor | None = None) -> SparseLogits:
        passed.append(tuple(logits.shape))
        return sanitize(policy, logits, noise=noise)

    monkeypatch.setattr("stingy_server.inference.flags.sanitize", record)
    for marked in (True, False):
        gate(policy_of("stingy:n=2"), [flag(marked=marked)] * 6)
    assert passed == [(6, 10)] * 2


def test_two_equal_logits_leave_the_answer_as_it_is() -> None:
    policy = policy_of("stingy:n=2")
    logits = LOGITS.clone()
    order = logits.argsort(dim=1, descending=True)
    logits[0, order[0, 1]] = logits[0, order[0, 0]]
    flags: list[Flag | None] = [flag(1), *[None] * 5]
    assert rows_of(gate(policy, flags, logits=logits)) == rows_of(gate(policy, None, logits=logits))
