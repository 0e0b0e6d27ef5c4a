"""The policy and the tier that are tried: the bundle's own policy, or another, with options."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stingy_protection import (
    Policy,
    PolicyConfigError,
    ScoreForm,
    build_policy,
    parse_policy,
    policy_names,
)
from stingy_server.settings import FULL_TIER, Tier

OPTIONS = ("n", "decimals", "scores")  # those with a control on the page


@dataclass(frozen=True)
class Choice:
    """A policy and a tier.

    Attributes:
        policy: the policy.
        text: the policy as settings have it, such as "stingy:n=3". It builds the same policy.
        tier_name: the name of the tier in the settings, or "full".
        tier: the tier.
    """

    policy: Policy
    text: str
    tier_name: str
    tier: Tier


@dataclass(frozen=True)
class Offer:
    """A policy that can be chosen, with its options as they are at first.

    Attributes:
        n: N, if the policy has the option.
        forms: the forms of scores that it can have.
    """

    name: str
    n: int | None
    decimals: int
    scores: str
    forms: tuple[str, ...]


class Chooser:
    """The policies and tiers that can be tried with a bundle.

    Args:
        own: the text of the bundle's own policy.
        num_classes: K.
        tiers: those of the settings.
    """

    def __init__(self, own: str, *, num_classes: int, tiers: Mapping[str, Tier]) -> None:
        self.own_name, self._own_options = parse_policy(own)
        self._num_classes = num_classes
        self.tiers = {FULL_TIER: Tier(), **tiers}

    def offers(self) -> list[Offer]:
        """Return the policies that need no option without a control, the bundle's own first."""
        names = dict.fromkeys((self.own_name, *policy_names()))
        return [offer for name in names if (offer := self._offer(name)) is not None]

    def choose(self, query: Mapping[str, str]) -> Choice:
        """Build the policy and find the tier of a query.

        Args:
            query: `policy`, its name; `n`, `decimals` and `scores`, its options; and `tier`. What
                is absent is as the bundle has it. Options that a policy does not have are ignored.

        Raises:
            PolicyConfigError: if there is no such policy or tier, or an option is faulty.
        """
        name = query.get("policy", self.own_name)
        options = self._options(name)
        usual = self._build(name, options)
        for option in OPTIONS:
            value, present = query.get(option), getattr(usual, option, None)
            if value is not None and present is not None and value != str(present):
                options[option] = value
        if "n" in options:
            options.pop("ratio", None)
        tier_name = query.get("tier", FULL_TIER)
        if tier_name not in self.tiers:
            raise PolicyConfigError((f"expected one of the tiers {', '.join(self.tiers)}",))
        given = ",".join(f"{option}={value}" for option, value in options.items())
        text = f"{name}:{given}" if given else name
        return Choice(self._build(name, options), text, tier_name, self.tiers[tier_name])

    def _options(self, name: str) -> dict[str, str]:
        return dict(self._own_options) if name == self.own_name else {}

    def _build(self, name: str, options: Mapping[str, Any]) -> Policy:
        return build_policy(name, num_classes=self._num_classes, **options)

    def _offer(self, name: str) -> Offer | None:
        options = self._options(name)
        try:
            policy = self._build(name, options)
        except PolicyConfigError:  # such as class_prototype, which needs a file
            return None
        forms = [form for form in ScoreForm if self._builds(name, {**options, "scores": form})]
        return Offer(
            name, getattr(policy, "n", None), policy.decimals, policy.scores.value, tuple(forms)
        )

    def _builds(self, name: str, options: Mapping[str, Any]) -> bool:
        try:
            self._build(name, options)
        except PolicyConfigError:
            return False
        return True
