"""The data of each attacker, and what it cannot do with them."""

from dataclasses import replace

import torch
from torch import Tensor

from stingy_attacker_eval.attacks import Attack, AttackerData, Capability
from stingy_attacker_eval.attacks.guess import Guess
from stingy_attacker_eval.attacks.no_api import NoApi
from stingy_attacker_eval.report_schema import Attacker

BASELINES = (NoApi.name, Guess.name)


def baseline_attack(attacker: Attacker) -> Attack:
    """Return what the attacker does without the API."""
    return NoApi() if attacker.labelled else Guess()


def baseline_data(attacker: Attacker, images: Tensor, labels: Tensor, count: int) -> AttackerData:
    """Return the data of the attacker without the API: the images whose true labels it owns.

    Without a label it still owns images. Its student takes as many steps as all others.

    images: all of the protocol, class by class in turn, uint8 `[n, 3, H, W]`.
    labels: their true classes, int64 `[n]`.
    count: images it may use, out of the first.
    """
    known = attacker.labels(count) if attacker.labelled else count
    return _first(AttackerData(images, labels=labels), known)


def purchased_data(attacker: Attacker, data: AttackerData, count: int) -> AttackerData:
    """Return the data of the attacker that bought answers for its images.

    Where it owns no true label, the label is the endpoint's top-1, which it has bought.

    data: all images of the protocol, class by class in turn, with true labels and answers.
    count: images it may use, out of the first.
    """
    found, known = _first(data, count), attacker.labels(count)
    if known == count or found.labels is None or found.top1 is None:
        return found
    partner = found.partner
    if partner is not None:
        partner = purchased_data(attacker, partner, count)
    labels = torch.cat([found.labels[:known], found.top1[known:]])
    return replace(found, labels=labels, partner=partner)


def buys_answers(attack: Attack, attacker: Attacker, images: int) -> bool:
    """Return whether the attack trains on the answers that were bought once.

    It also does if it uses labels that the attacker had to buy. An attack that queries its own
    images buys their labels with them.
    """
    if attack.needs & {Capability.ANSWERS, Capability.SCORES}:
        return True
    lacks_labels = attack.uses_true_labels and attacker.labels(images) < images
    return lacks_labels and Capability.QUERIES not in attack.needs


def impossible_reason(attack: Attack, attacker: Attacker, images: int) -> str | None:
    """Return why the attacker cannot make this attack; None if it can.

    The reason continues "the attack ...".

    images: that the attacker may use.
    """
    joins = Capability.SECOND_TIER in attack.needs and not attack.partner_is_truth
    if joins and attacker.accounts == 1:
        return "needs a second account, and the attacker has one"
    if attacker.answers is None:
        return None
    used = images * buys_answers(attack, attacker, images) + attack.budget(images)
    if used > attacker.answers * images:
        return (
            f"needs {used:,} answers, and the attacker gets {attacker.answers} for each of its "
            f"{images:,} images"
        )
    return None


def _first(data: AttackerData, count: int) -> AttackerData:
    return data if count == len(data.images) else data.first(count)
