"""The conformance kit for policies. Invariant: every promise is checked, every fault listed."""

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
    """Check a policy against everything that the gate and the server rely on.

    Call it from the tests of your own policy, with the options that you serve. It calls the
    policy some dozens of times with artificial logits. So it may miss a fault that shows rarely.

    Args:
        policy: the policy, with its options.

    Raises:
        PolicyViolation: if a promise is broken. It lists every broken promise.
    """
    if not isinstance(policy, Policy):
        raise PolicyViolation("expected an instance of Policy, got another type")
    logits = _make_probes(policy.num_classes)
    faults: list[str] = []
    for check in (
        _check_value,
        _check_purity,
        _check_input_unchanged,
        _check_gate,
        _check_row_independence,
    ):
        faults += _collect_faults(check, policy, logits)
    if faults:
        raise PolicyViolation("; ".join(dict.fromkeys(faults)))


def _collect_faults(check: Check, policy: Policy, logits: Tensor) -> list[str]:
    """Collect the faults that a check yields, and the error that ends it early."""
    faults = []
    try:
        for fault in check(policy, logits.clone()):
            faults.append(fault)
    except ProtectionError as error:
        faults.append(str(error))
    return faults


def _make_probes(num_classes: int) -> Tensor:
    """Make difficult rows `[16, classes]`: flat, tied, peaked, wide, nearly equal, sorted."""
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


def _make_noise(policy: Policy, logits: Tensor) -> Tensor | None:
    """Make noise that depends on the row, up to three deviations, if the policy needs any."""
    places = torch.arange(logits.shape[1])
    return 3 * torch.sin(7919 * logits + places) if isinstance(policy, NoisyPolicy) else None


def _propose(policy: Policy, logits: Tensor) -> Proposal:
    return gate.propose(policy, logits, _make_noise(policy, logits))


def _sanitize(policy: Policy, logits: Tensor) -> SparseLogits:
    return gate.sanitize(policy, logits, noise=_make_noise(policy, logits))


def _check_value(policy: Policy, logits: Tensor) -> Iterator[str]:
    own = vars(type(policy)).get("__dataclass_params__")
    if own is None or not own.frozen:
        yield "expected @dataclass(frozen=True) on the policy's own class, got another class"
    try:
        hash(policy)
    except TypeError:
        yield "expected a hashable policy, got options that cannot be hashed"
    try:
        json.dumps(policy.options(), allow_nan=False)
    except (TypeError, ValueError):
        yield "expected options that JSON can represent, got another type"
        return
    copy = dataclasses.replace(policy)
    if copy != policy or copy.fingerprint != policy.fingerprint:
        yield "expected a copy to be equal and to have the same fingerprint, got another"


def _check_purity(policy: Policy, logits: Tensor) -> Iterator[str]:
    random_state, torch_state = random.getstate(), torch.get_rng_state()
    first = _propose(policy, logits.clone())
    first_indices, first_logits = first.indices.clone(), first.logits.clone()
    copy = dataclasses.replace(policy)
    for _ in range(REPEATS):
        repeated = _propose(policy, logits.clone())
        _propose(policy, logits.flip(0) + 1.0)  # other logits in between
        fresh = _propose(copy, logits.clone())
        for other in (repeated, fresh):
            if not (
                torch.equal(other.indices, first_indices)
                and torch.equal(other.logits, first_logits)
            ):
                yield "expected the same proposal for the same logits, got another"
                return
    if random.getstate() != random_state or not torch.equal(torch.get_rng_state(), torch_state):
        yield "expected a policy that draws no random numbers, got one that does"


def _check_input_unchanged(policy: Policy, logits: Tensor) -> Iterator[str]:
    before = logits.clone()
    proposal = _propose(policy, logits)
    if not torch.equal(logits, before):
        yield "expected a policy that does not change its logits, got one that changes them"
    storage = logits.untyped_storage().data_ptr()
    if storage in (
        proposal.indices.untyped_storage().data_ptr(),
        proposal.logits.untyped_storage().data_ptr(),
    ):
        yield "expected a proposal with its own storage, got a view of the logits"


def _check_gate(policy: Policy, logits: Tensor) -> Iterator[str]:
    for row in logits.unsqueeze(1).unbind():
        _sanitize(policy, row)
    _sanitize(policy, logits)
    yield from ()


def _check_row_independence(policy: Policy, logits: Tensor) -> Iterator[str]:
    batch = _sanitize(policy, logits)
    rows = len(batch)
    generator = torch.Generator().manual_seed(21)
    order = torch.randperm(rows, generator=generator)
    others = torch.randn(logits.shape, generator=generator) * 3
    single = [_sanitize(policy, row) for row in logits.unsqueeze(1).unbind()]
    shuffled = _sanitize(policy, logits[order])
    crowded = _sanitize(policy, torch.cat([others, logits]))
    for row in range(rows):
        place = int((order == row).nonzero())
        if not _are_equal(batch.rows(row, row + 1), single[row]):
            yield "expected the same answer for a row alone and in a batch, got another"
        if not _are_equal(batch.rows(row, row + 1), shuffled.rows(place, place + 1)):
            yield "expected the same answer for a row at any place of a batch, got another"
        if not _are_equal(batch.rows(row, row + 1), crowded.rows(rows + row, rows + row + 1)):
            yield "expected the same answer for a row beside any other rows, got another"


def _are_equal(left: SparseLogits, right: SparseLogits) -> bool:
    if not torch.equal(left.indices, right.indices):
        return False
    if left.scores is None or right.scores is None:
        return left.scores is right.scores
    return torch.equal(left.scores, right.scores)
