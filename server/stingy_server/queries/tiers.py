"""The tier of a query: that of its key, or after an alarm a smaller one or one with marks."""

import logging

from stingy_protection import ScoreForm, SparseLogits, tighten
from stingy_server.detection.key_profiles import Action
from stingy_server.errors import REFUSED, SUSPENDED, ServiceError
from stingy_server.observability.request_record import RequestRecord
from stingy_server.service import Service
from stingy_server.settings import FULL_TIER, Settings, Tier

log = logging.getLogger("stingy")

FULL = Tier()
LABELS = Tier(classes=1, scores="none")  # the smallest tier
MARKED = Tier(mark=True)
# A key whose answers are marked keeps its marks. Otherwise a second query would show them.
MARKED_LABELS = Tier(classes=1, scores="none", mark=True)


def find_tier(service: Service, record: RequestRecord) -> Tier:
    """Return the tier of the caller's key, or after an alarm a smaller one or one with marks.

    Raises:
        ServiceError: refused, if the settings do not have the key's tier; suspended, after an
            alarm that refuses; internal, if the watch has failed.
    """
    if record.key is None:
        raise ServiceError(REFUSED)
    action = service.watch.action(record.key.id)
    if action is Action.REFUSE:
        raise ServiceError(SUSPENDED)
    if action is Action.LABELS:
        marks = "mark" in service.settings.watch.ladder or _marks(service.settings, record.key.tier)
        return MARKED_LABELS if marks else LABELS
    if record.key.tier == FULL_TIER:
        return FULL if action is not Action.MARK else MARKED
    tier = service.settings.tiers.get(record.key.tier)
    if tier is None:
        log.error("a key has a tier that the settings do not have")
        raise ServiceError(REFUSED)
    return tier if action is not Action.MARK else tier.model_copy(update={"mark": True})


def tighten_to_tier(answer: SparseLogits, tier: Tier) -> SparseLogits:
    """Make an answer as small as a tier demands."""
    form = None if tier.scores == "keep" else ScoreForm(tier.scores)
    return tighten(answer, classes=tier.classes, decimals=tier.decimals, form=form)


def _marks(settings: Settings, tier: str) -> bool:
    return tier in settings.tiers and settings.tiers[tier].mark
