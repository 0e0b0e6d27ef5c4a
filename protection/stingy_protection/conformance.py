"""What every policy must pass. Invariant: one promise after the other, and all faults are told."""

import dataclasses
import json
import random
from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor

from stingy_protection.answers import SparseLogits
from stingy_protection.errors import PolicyViolation, ProtectionError
from stingy_protection.gate import gate
from stingy_protection.policies.base import NoisyPolicy, Policy, Proposal

REPEATS = 32
Check: TypeAlias = Callable[[Policy, Tensor], Iterator[str]]


def check_policy(policy: Policy) -> None:
    """Check a policy against everything the gate and the server rely on.

    Call it from the tests of a policy of your own, with options as you would serve it. It asks
    the policy some dozens of times with made-up logits; a fault that shows only rarely may pass.

    Raises:
        PolicyViolation: naming every promise that does not hold.
    """
    if not isinstance(policy, Policy):
        raise PolicyViolation("expected an instance of Policy, got another type")
    logits = _probes(policy.num_classes)
    faults: list[str] = []
    for check in (_is_a_value, _is_pure, _keeps_its_hands_off, _passes_the_gate, _minds_its_row):
        faults += _told(check, policy, logits)
    if faults:
        raise PolicyViolation("; ".join(dict.fromkeys(faults)))


def _told(check: Check, policy: Policy, logits: Tensor) -> list[str]:
    """The faults that a check tells, and the error that ended it early."""
    faults = []
    try:
        for fault in check(policy, logits.clone()):
            faults.append(fault)
    except ProtectionError as error:
        faults.append(str(error))
    return faults


def _probes(num_classes: int) -> Tensor:
    """Rows `[16, classes]` that tempt: flat, tied, peaked, wide, nearly equal, ordered."""
    generator = torch.Generator().manual_seed(20)
    noise = torch.randn(6, num_classes, generator=generator)
    ramp = torch.arange(num_classes, dtype=torch.float32)
    peak = torch.zeros(num_classes)
    peak[-1] = 30.0
    return torch.stack(
        [
            noise[0],
            noise[1] * 5,
            noise[2] * 30,
            noise[3] * 1e4,
            noise[4].round(),
            noise[5] * 1e-6,
            torch.zeros(num_classes),
            -torch.ones(num_classes),
            ramp,
            ramp.flip(0),
            ramp // 2,
            peak,
            -peak,
            noise[0] + 100.0,
            noise[1] * 5,
            noise[0],
        ]
    )


def _noise(policy: Policy, logits: Tensor) -> Tensor | None:
    """Noise that goes with the row, for a policy that takes noise: up to three deviations."""
    places = torch.arange(logits.shape[1])
    return 3 * torch.sin(7919 * logits + places) if isinstance(policy, NoisyPolicy) else None


def _propose(policy: Policy, logits: Tensor) -> Proposal:
    return gate.propose(policy, logits, _noise(policy, logits))


def _sanitize(policy: Policy, logits: Tensor) -> SparseLogits:
    return gate.sanitize(policy, logits, noise=_noise(policy, logits))


def _is_a_value(policy: Policy, logits: Tensor) -> Iterator[str]:
    own = vars(type(policy)).get("__dataclass_params__")
    if own is None or not own.frozen:
        yield "expected @dataclass(frozen=True) on the policy's own class, got another"
    try:
        hash(policy)
    except TypeError:
        yield "expected a hashable policy, got options that cannot be hashed"
    try:
        json.dumps(policy.options(), allow_nan=False)
    except (TypeError, ValueError):
        yield "expected options that fit into JSON, got another type"
        return
    twin = dataclasses.replace(policy)
    if twin != policy or twin.fingerprint != policy.fingerprint:
        yield "expected a copy to be equal and to have the same fingerprint, got another"


def _is_pure(policy: Policy, logits: Tensor) -> Iterator[str]:
    random_state, torch_state = random.getstate(), torch.get_rng_state()
    first = _propose(policy, logits.clone())
    first_indices, first_logits = first.indices.clone(), first.logits.clone()
    twin = dataclasses.replace(policy)
    for _ in range(REPEATS):
        again = _propose(policy, logits.clone())
        _propose(policy, logits.flip(0) + 1.0)  # something else in between
        fresh = _propose(twin, logits.clone())
        for other in (again, fresh):
            if not (
                torch.equal(other.indices, first_indices)
                and torch.equal(other.logits, first_logits)
            ):
                yield "expected the same proposal for the same logits, got another"
                return
    if random.getstate() != random_state or not torch.equal(torch.get_rng_state(), torch_state):
        yield "expected a policy that draws no random numbers, got one that does"


def _keeps_its_hands_off(policy: Policy, logits: Tensor) -> Iterator[str]:
    before = logits.clone()
    proposal = _propose(policy, logits)
    if not torch.equal(logits, before):
        yield "expected the logits to be left as they are, got a policy that changes them"
    storage = logits.untyped_storage().data_ptr()
    if storage in (
        proposal.indices.untyped_storage().data_ptr(),
        proposal.logits.untyped_storage().data_ptr(),
    ):
        yield "expected a proposal with storage of its own, got a view of the logits"


def _passes_the_gate(policy: Policy, logits: Tensor) -> Iterator[str]:
    for row in logits.unsqueeze(1).unbind():
        _sanitize(policy, row)
    _sanitize(policy, logits)
    yield from ()


def _minds_its_row(policy: Policy, logits: Tensor) -> Iterator[str]:
    together = _sanitize(policy, logits)
    rows = len(together)
    generator = torch.Generator().manual_seed(21)
    order = torch.randperm(rows, generator=generator)
    others = torch.randn(logits.shape, generator=generator) * 3
    alone = [_sanitize(policy, row) for row in logits.unsqueeze(1).unbind()]
    shuffled = _sanitize(policy, logits[order])
    crowded = _sanitize(policy, torch.cat([others, logits]))
    for row in range(rows):
        place = int((order == row).nonzero())
        if not _same(together.rows(row, row + 1), alone[row]):
            yield "expected a row's answer alone as in a batch, got another"
        if not _same(together.rows(row, row + 1), shuffled.rows(place, place + 1)):
            yield "expected a row's answer at any place of the batch, got another"
        if not _same(together.rows(row, row + 1), crowded.rows(rows + row, rows + row + 1)):
            yield "expected a row's answer beside any other rows, got another"


def _same(left: SparseLogits, right: SparseLogits) -> bool:
    if not torch.equal(left.indices, right.indices):
        return False
    if left.scores is None or right.scores is None:
        return left.scores is right.scores
    return torch.equal(left.scores, right.scores)
