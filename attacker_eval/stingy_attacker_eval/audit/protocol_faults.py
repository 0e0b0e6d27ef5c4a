"""The faults of a protocol's parts together, each as a sentence. One without any can be run."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set

import numpy as np

from stingy_attacker_eval.attacks import Attack, Capability
from stingy_attacker_eval.audit.attackers import buys_answers, impossible_reason
from stingy_attacker_eval.audit.protocol import EndpointEntry, Protocol
from stingy_attacker_eval.datasets.datasets import Dataset, load_dataset
from stingy_attacker_eval.datasets.query_pools import is_pool_of, load_pool
from stingy_attacker_eval.errors import DatasetError, EvalError
from stingy_attacker_eval.report_schema import Attacker
from stingy_attacker_eval.results import NO_ENDPOINT
from stingy_attacker_eval.students import student_spec

_LEAST_IMAGES = 4
"""A student trains on batches of two images or more, and some attacks on halves of the images."""


def combination_faults(protocol: Protocol, unknown: Set[str] = frozenset()) -> Iterator[str]:
    """Yield each fault of the fields against each other, and against the data sets that they name.

    unknown: the fields that are faulty by themselves, in whole or in part. What follows from them
        alone is no fault.
    """
    yield from _repeated(protocol)
    yield from _lacking(protocol, unknown)
    if "dataset" in unknown:
        return
    try:
        whole = load_dataset(protocol.dataset)
    except DatasetError as error:
        yield from (f"dataset: {fault}" for fault in error.faults)
        return
    data = whole
    try:
        data = whole.reduce(protocol.pixels)
        is_reduced = "pixels" not in unknown
    except DatasetError as error:
        yield from (f"pixels: {fault}" for fault in error.faults)
        is_reduced = False
    if is_reduced:
        yield from _network_faults(protocol, data)
        yield from _pool_faults(_attacks(protocol), data, whole)
    yield from _size_faults(protocol, data)
    owned = protocol.images or len(data.train_x)
    if "images" in unknown or owned > len(data.train_x):
        return
    arranged = protocol.arrange(data)
    for number, attacker in enumerate(protocol.attackers):
        smaller = protocol.budgets if number == 0 and "attackers" not in unknown else ()
        faults = _attacker_faults(attacker, arranged, whole, protocol.budget, smaller)
        yield from (f"{attacker.name}: {fault}" for fault in faults)
    # An audit may run one seed alone, so only what that needs is certain.
    one = protocol.model_copy(update={"selection_seeds": (), "seeds": protocol.all_seeds[:1]})
    yield from budget_faults(one, arranged)
    if "attackers" in unknown or not protocol.attackers:
        return
    base = protocol.attackers[0].owned(owned)
    yield from (
        f"expected budgets below the {base} images that students train on, got {budget}"
        for budget in protocol.budgets
        if budget >= base
    )
    if not unknown & {"attacks", "endpoints"}:
        yield from _idle_faults(protocol.attackers, _attacks(protocol), owned)


def _attacks(protocol: Protocol) -> list[Attack]:
    """Return the attacks on all endpoints and those of each, grids expanded."""
    own = (attack for endpoint in protocol.endpoints for attack in endpoint.variants)
    return [*protocol.variants, *own]


def _repeated(protocol: Protocol) -> Iterator[str]:
    """Yield a fault for each name or number that must be there once and is there more often."""
    common = [attack.label for attack in protocol.variants]
    lists: dict[str, Iterable[object]] = {
        "endpoint": [endpoint.name for endpoint in protocol.endpoints],
        "attacker": [attacker.name for attacker in protocol.attackers],
        "teacher": [teacher.name for teacher in protocol.teachers],
        "student": protocol.students,
        "attack": common,
        "seed": protocol.seeds,
        "selection seed": protocol.selection_seeds,
        "budget": protocol.budgets,
    }
    for kind, values in lists.items():
        yield from _repetition_faults(kind, values)
    for endpoint in protocol.endpoints:
        own = [attack.label for attack in endpoint.variants]
        faults = _repetition_faults("attack", own)
        faults += _repetition_faults("student", endpoint.students)
        yield from (f"{endpoint.name}: {fault}" for fault in faults)
        yield from (
            f'expected the attack "{label}" once for {endpoint.name}, got it twice'
            for label in own
            if label in common
        )
    yield from (
        f"expected seeds that do not choose, got {seed} among both"
        for seed in protocol.seeds
        if seed in protocol.selection_seeds
    )


def _repetition_faults(kind: str, values: Iterable[object]) -> list[str]:
    return [
        f'expected the {kind} "{v}" once, got it {n} times'
        for v, n in Counter(values).items()
        if n > 1
    ]


def _lacking(protocol: Protocol, unknown: Set[str]) -> Iterator[str]:
    """Yield a fault for each empty list, and for each name of a part that is not there."""
    for name in ("endpoints", "attacks", "students", "seeds", "attackers"):
        if name not in unknown and not getattr(protocol, name):
            yield f"{name}: expected one or more, got none"
    names = [endpoint.name for endpoint in protocol.endpoints]
    if NO_ENDPOINT in names:
        yield f'expected an endpoint name other than "{NO_ENDPOINT}", the baseline\'s'
    if "teachers" not in unknown:
        known = {f"{t.name}-{kind}" for t in protocol.teachers for kind in ("normal", "nasty")}
        known -= {f"{teacher.name}-nasty" for teacher in protocol.teachers if not teacher.nasty}
        yield from (
            f"expected a bundle of the teachers for {endpoint.name}, got {endpoint.bundle}"
            for endpoint in protocol.endpoints
            if endpoint.bundle is not None and endpoint.bundle not in known
        )
    if "endpoints" not in unknown:
        yield from _partner_faults(protocol, names)


def _partner_faults(protocol: Protocol, names: Sequence[str]) -> Iterator[str]:
    """Yield a fault for each attack whose second endpoint is not there, or is its only one."""
    for attack in protocol.variants:
        partner = attack.partner_name()
        if partner is not None and not set(names) - {partner}:
            yield f'expected an endpoint beside the partner "{partner}" of {attack.name}, got none'
        elif partner is not None and partner not in names:
            yield _unknown_partner(attack, names, partner)
    for endpoint in protocol.endpoints:
        others = [name for name in names if name != endpoint.name]
        for attack in endpoint.variants:
            partner = attack.partner_name()
            if partner is not None and partner not in others:
                yield _unknown_partner(attack, others, partner)


def _unknown_partner(attack: Attack, names: Sequence[str], partner: str) -> str:
    known = ", ".join(names) or "other endpoints"
    return f'expected a partner out of {known} for {attack.name}, got "{partner}"'


def _network_faults(protocol: Protocol, data: Dataset) -> Iterator[str]:
    """Yield a fault for each network that cannot take the images."""
    networks: list[tuple[str, int | None]] = [(name, None) for name in protocol.students_of(None)]
    networks += [(teacher.network, teacher.width) for teacher in protocol.teachers]
    for name, width in dict.fromkeys(networks):
        try:
            student_spec(name).with_width(width).check(data.num_classes, data.image_size)
        except EvalError as error:
            yield str(error)


def _pool_faults(attacks: Iterable[Attack], data: Dataset, whole: Dataset) -> Iterator[str]:
    """Yield a fault for each attack whose pool of images cannot be used.

    data: the audit's images.
    whole: the data set as it was loaded.
    """
    for attack in attacks:
        pool = attack.pool_name()
        if pool is None:
            continue
        try:
            load_pool(pool, count=1, size=data.image_size)
            if is_pool_of(pool, data) or is_pool_of(pool, whole):
                yield (
                    f"{attack.label}: expected a pool of other images than the audit's, got its "
                    f"own {data.name}"
                )
        except EvalError as error:
            yield f"{attack.label}: {error}"


def _size_faults(protocol: Protocol, data: Dataset) -> Iterator[str]:
    """Yield a fault for each number that is larger than the data set."""
    most = len(data.train_x)
    for size in (protocol.images, *(t.skip + (t.images or 1) for t in protocol.teachers)):
        if size is not None and size > most:
            yield f"expected at most {most} images, as {protocol.dataset} has, got {size}"
    side = min(data.image_size)
    for schedule in (protocol, *protocol.teachers):
        if schedule.augment > side:
            yield f"expected an augment of at most {side}, the images' side, got {schedule.augment}"
    if protocol.transfer_images > len(data.test_x):
        yield (
            f"expected at most {len(data.test_x)} transfer_images, as {protocol.dataset} has, got "
            f"{protocol.transfer_images}"
        )


def _attacker_faults(
    attacker: Attacker, data: Dataset, whole: Dataset, budget: int, smaller: Sequence[int]
) -> Iterator[str]:
    """Yield what the attacker cannot own.

    data: the protocol's images, class by class in turn.
    whole: the data set as it was loaded.
    budget: the most images that one endpoint may be sent.
    smaller: numbers of images that the attacker tries as well.
    """
    total = len(data.train_x)
    if attacker.images is not None and attacker.images > total:
        yield f"expected at most {total} images, as the protocol has, got {attacker.images}"
    images = attacker.owned(total)
    for count in (images, *smaller):
        if count < _LEAST_IMAGES:
            yield f"expected {_LEAST_IMAGES} images or more to train on, got {count}"
        known = len(np.unique(data.train_y[: attacker.labels(count)]))
        if attacker.labelled and known < data.num_classes:
            yield (
                f"expected true labels of all {data.num_classes} classes, got those of {known}: "
                f"{attacker.labels(count)} of its {count} images have a label"
            )
    answers = attacker.answers or 1
    wanted = answers * images + len(data.test_x)
    if answers > 1 and wanted > budget:
        yield (
            f"expected a budget of at least {wanted} images ({answers} for each of "
            f"its {images}, {len(data.test_x)} to compare), got {budget}"
        )
    if attacker.pretrained is None:
        return
    try:
        other = load_dataset(attacker.pretrained)
    except DatasetError as error:
        yield from (f"pretrained: {fault}" for fault in error.faults)
        return
    if any(np.array_equal(other.train_x, own) for own in (whole.train_x, whole.test_x)):
        yield (
            f"expected a network trained on other images than the audit's, got one on its own "
            f"{data.name}"
        )


def _idle_faults(
    attackers: Sequence[Attacker], attacks: Sequence[Attack], images: int
) -> Iterator[str]:
    """Yield what no attack or attacker uses.

    It is an attacker that can make no attack, an attack that no attacker can make, and answers or
    accounts of an attacker that none of its attacks uses.

    images: of the protocol.
    """
    reasons = {
        (attacker.name, attack.label): impossible_reason(attack, attacker, attacker.owned(images))
        for attacker in attackers
        for attack in attacks
    }
    for attacker in attackers:
        able = [attack for attack in attacks if reasons[attacker.name, attack.label] is None]
        if not able:
            yield f"{attacker.name}: expected an attack that it can make, got none"
            continue
        owned = attacker.owned(images)
        used = max(
            -(-(owned * buys_answers(attack, attacker, owned) + attack.budget(owned)) // owned)
            for attack in able
        )
        if attacker.answers is not None and attacker.answers > max(1, used):
            yield (
                f"{attacker.name}: expected an attack that uses its {attacker.answers} answers an "
                f"image, got attacks that use {used} at most"
            )
        joins = any(
            Capability.SECOND_TIER in attack.needs and not attack.partner_is_truth
            for attack in able
        )
        if attacker.accounts is not None and attacker.accounts > 1 + joins:
            yield (
                f"{attacker.name}: expected an attack that uses its {attacker.accounts} accounts, "
                f"got attacks that use {1 + joins} at most"
            )
    for attack in {attack.label: attack for attack in attacks}.values():
        found = [reasons[attacker.name, attack.label] for attacker in attackers]
        if all(reason is not None for reason in found):
            yield f"expected an attacker that can make {attack.label}, got none: it {found[0]}"


def budget_faults(protocol: Protocol, data: Dataset) -> list[str]:
    """Return a fault if an endpoint may be sent more images than the protocol's budget.

    data: the protocol's images.
    """
    extra = max((extra_queries(protocol, each, data) for each in protocol.endpoints), default=0)
    needed = len(data.train_x) + len(data.test_x) + extra
    if protocol.budget >= needed:
        return []
    more = f", {extra} for {extra_text(protocol)}" if extra else ""
    return [
        f"expected a budget of at least {needed} images ({len(data.train_x)} to train on, "
        f"{len(data.test_x)} to compare{more}), got {protocol.budget}"
    ]


def extra_text(protocol: Protocol) -> str:
    """Return in words for what an endpoint is sent more than the answers bought once."""
    examples = ", and adversarial examples" if protocol.transfer_images else ""
    return f"attacks that query while they run{examples}"


def extra_queries(protocol: Protocol, endpoint: EndpointEntry, data: Dataset) -> int:
    """Return the most images that this endpoint is sent beside those that are bought once.

    Attackers with equally many images query the same ones, so their answers are bought once.
    """
    runs = len(protocol.students_of(endpoint)) * len(protocol.all_seeds)
    once: dict[tuple[str, int], int] = {}
    for_each, students = 0, 0
    for attacker in protocol.attackers:
        images = attacker.owned(len(data.train_x))
        for attack in protocol.variants_of(endpoint):
            if impossible_reason(attack, attacker, images) is not None:
                continue
            students += runs * (1 + len(protocol.budgets_of(attacker)))
            if attack.per_run:
                for_each += attack.new_images(images) * runs
            else:
                once[attack.label, images] = attack.new_images(images)
    if endpoint is protocol.endpoints[0]:  # the baselines' examples are sent to it
        baselines = len(protocol.students_of(None)) * len(protocol.all_seeds)
        students += baselines * sum(1 + len(protocol.budgets_of(a)) for a in protocol.attackers)
    return sum(once.values()) + for_each + students * protocol.transfer_images
