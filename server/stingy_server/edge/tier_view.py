"""The policy as a tier presents it. A tier makes answers smaller and never larger."""

import hashlib
from dataclasses import dataclass
from typing import Self

from stingy_protection import Policy, ScoreForm
from stingy_protection.policies.base import describe_answer
from stingy_server.settings import Tier


@dataclass(frozen=True)
class TierView:
    """The promises of a policy under a tier. `fingerprint` identifies policy and tier together."""

    support: int
    form: ScoreForm
    decimals: int
    fingerprint: str

    @classmethod
    def of(cls, policy: Policy, tier: Tier) -> Self:
        decimals = policy.decimals
        fingerprint = policy.fingerprint
        # Marks are no part of the view, so that a key cannot read whether its answers are marked.
        if tier.model_copy(update={"mark": False}) != Tier():
            named = f"{fingerprint} {tier.model_dump_json(exclude={'mark'})}"
            fingerprint = hashlib.sha256(named.encode()).hexdigest()[:12]
        return cls(
            support=min(tier.classes or policy.support, policy.support),
            form=visible_form(policy, tier),
            decimals=decimals if tier.decimals is None else min(tier.decimals, decimals),
            fingerprint=fingerprint,
        )

    def describe(self, num_classes: int) -> str:
        """Describe an answer in words, such as "top 2 of 10 classes, log_prob at 3 decimals"."""
        return describe_answer(
            support=self.support,
            num_classes=num_classes,
            scores=self.form,
            decimals=self.decimals,
        )


def visible_form(policy: Policy, tier: Tier) -> ScoreForm:
    """Return the form of the policy's scores under a tier."""
    if tier.scores == "keep" or policy.scores is ScoreForm.NONE:
        return policy.scores
    return ScoreForm(tier.scores)
