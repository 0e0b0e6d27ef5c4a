"""The faults of a protocol's parts, each as a sentence. A protocol without any can be run."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from stingy_attacker_eval.attacks import Attack
from stingy_attacker_eval.audit.attackers import impossible_reason
from stingy_attacker_eval.datasets.datasets import Dataset
from stingy_attacker_eval.datasets.query_pools import is_pool_of, load_pool
from stingy_attacker_eval.errors import EvalError
from stingy_attacker_eval.report_schema import Attacker
from stingy_attacker_eval.students import student_spec

T = TypeVar("T")


def require_no_faults(value: T, faults: Sequence[str]) -> T:
    """Return the value. Raises ValueError, with every fault, if there is one."""
    if faults:
        raise ValueError("; ".join(faults))
    return value


def repetition_faults(kind: str, values: Iterable[object]) -> list[str]:
    """Return a fault for each value that is there several times."""
    return [
        f'expected the {kind} "{v}" once, got it {n} times'
        for v, n in Counter(values).items()
        if n > 1
    ]


def network_faults(networks: Iterable[str]) -> list[str]:
    """Return a fault for each name that is no network."""
    faults = []
    for name in dict.fromkeys(networks):
        try:
            student_spec(name)
        except EvalError as error:
            faults.append(str(error))
    return faults


def unmet_needs(
    attacks: Iterable[Attack], names: Sequence[str], data: Dataset, whole: Dataset
) -> list[str]:
    """List what attacks name and the audit lacks: another endpoint, or a pool of images.

    names: of the endpoints.
    data: the audit's images.
    whole: the data set as it was loaded.
    """
    faults = []
    for attack in attacks:
        partner, pool = attack.partner_name(), attack.pool_name()
        if partner is not None and partner not in names:
            faults.append(
                f'expected a partner out of {", ".join(names)} for {attack.name}, got "{partner}"'
            )
        try:
            if pool is not None:
                load_pool(pool, count=1, size=data.image_size)
                if is_pool_of(pool, data) or is_pool_of(pool, whole):
                    faults.append(
                        f"{attack.label}: expected a pool of other images than the audit's, got "
                        f"its own {data.name}"
                    )
        except EvalError as error:
            faults.append(f"{attack.label}: {error}")
    return faults


def attacker_faults(
    attacker: Attacker,
    data: Dataset,
    whole: Dataset,
    budget: int,
    smaller: Sequence[int],
    load: Callable[[str], Dataset],
) -> list[str]:
    """List what the attacker cannot own.

    data: the protocol's images, class by class in turn.
    whole: the data set as it was loaded.
    budget: the most images that one endpoint may be sent.
    smaller: numbers of images that the attacker tries as well.
    load: the function that loads a data set by name.
    """
    total = len(data.train_x)
    faults = []
    if attacker.images is not None and attacker.images > total:
        faults.append(
            f"expected at most {total} images, as the protocol has, got {attacker.images}"
        )
    images = attacker.owned(total)
    for count in (images, *smaller):
        known = len(np.unique(data.train_y[: attacker.labels(count)]))
        if attacker.labelled and known < data.num_classes:
            faults.append(
                f"expected true labels of all {data.num_classes} classes, got those of {known}: "
                f"{attacker.labels(count)} of its {count} images have a label"
            )
    answers = attacker.answers or 1
    wanted = answers * images + len(data.test_x)
    if answers > 1 and wanted > budget:
        faults.append(
            f"expected a budget of at least {wanted} images ({answers} for each of "
            f"its {images}, {len(data.test_x)} to compare), got {budget}"
        )
    if attacker.pretrained is not None:
        try:
            other = load(attacker.pretrained)
            if any(np.array_equal(other.train_x, own) for own in (whole.train_x, whole.test_x)):
                faults.append(
                    f"expected a network trained on other images than the audit's, got one on its "
                    f"own {data.name}"
                )
        except EvalError as error:
            faults.append(f"pretrained: {error}")
    return [f"{attacker.name}: {fault}" for fault in faults]


def idle_faults(attackers: Sequence[Attacker], attacks: Sequence[Attack], images: int) -> list[str]:
    """List the attackers that can make no attack, and the attacks that no attacker can make.

    images: of the protocol.
    """
    reasons = {
        (attacker.name, attack.label): impossible_reason(attack, attacker, attacker.owned(images))
        for attacker in attackers
        for attack in attacks
    }
    faults = [
        f"{attacker.name}: expected an attack that it can make, got none"
        for attacker in attackers
        if all(reasons[attacker.name, attack.label] is not None for attack in attacks)
    ]
    for attack in {attack.label: attack for attack in attacks}.values():
        found = [reasons[attacker.name, attack.label] for attacker in attackers]
        if all(reason is not None for reason in found):
            faults.append(
                f"expected an attacker that can make {attack.label}, got none: it {found[0]}"
            )
    return faults
