"""Views of the attacker's own images, each with an answer of its own.

The k-th view of an image is the same in every run and for every number of views. So an audit buys
a view once for all attacks, and attacks with equally many views query the same images.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from stingy_attacker_eval.attacks.base import Attack, AttackContext, AttackerData, Capability
from stingy_attacker_eval.training import TrainResult, augment


def make_views(context: AttackContext, views: int) -> Tensor:
    """Return the own images and `views - 1` copies of each, uint8 `[views * n, 3, H, W]`.

    The images themselves come first, then one copy of every image, and so on. A copy is shifted
    and mirrored as the protocol's `augment` and `flip` say, by up to one pixel if they say nothing.
    """
    settings = replace(context.settings, augment=max(1, context.settings.augment))
    generator = context.generator(seed=0)
    copies = [augment(context.images, settings, generator) for _ in range(1, views)]
    return torch.cat([context.images, *copies])


def buy_views(context: AttackContext, views: int) -> AttackerData:
    """Return the views with their answers, and the true labels if the attack reads them.

    The answers to the images themselves were bought before. Each copy is one query.
    """
    images = make_views(context, views)
    bought = AttackerData(
        images,
        labels=context.labels.repeat(views) if context.has(Capability.LABELS) else None,
        top1=context.top1,
        logits=context.logits if context.has(Capability.SCORES) else None,
        indices=context.indices,
        info=context.info,
        owned=context.owned,
    )
    if views == 1:
        return bought
    images = images[len(context.images) :]
    answers = context.session.query(images)
    copies = AttackerData.from_answers(images, None, answers, context.info)
    return replace(
        bought,
        top1=_join(bought.top1, copies.top1),
        logits=_join(bought.logits, copies.logits),
        indices=_join(bought.indices, copies.indices),
    )


def train_on_views(
    attack: Attack, student: nn.Module, context: AttackContext, data: AttackerData
) -> TrainResult:
    """Run another attack on the views as they are, without further shifts."""
    settings = replace(context.settings, augment=0, flip=False)
    return attack.run(student, data, settings=settings, seed=context.seed)


def _join(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return None if first is None or second is None else torch.cat([first, second])
