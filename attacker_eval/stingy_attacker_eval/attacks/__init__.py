"""The attacks by name: built-in ones and plug-ins of the entry-point group "stingy.attacks"."""

from collections.abc import Mapping
from importlib.metadata import entry_points

from stingy_attacker_eval.attacks.base import Attack, AttackContext, AttackerData, Batch, Capability
from stingy_attacker_eval.attacks.data_free.dafl import Dafl
from stingy_attacker_eval.attacks.data_free.data_free_hard import DataFreeHard
from stingy_attacker_eval.attacks.data_free.data_free_soft import DataFreeSoft
from stingy_attacker_eval.attacks.guess import Guess
from stingy_attacker_eval.attacks.label_only import LabelOnly
from stingy_attacker_eval.attacks.lists.collusion import Collusion
from stingy_attacker_eval.attacks.lists.rank_and_label import RankAndLabel
from stingy_attacker_eval.attacks.lists.rank_distillation import RankDistillation
from stingy_attacker_eval.attacks.nasty.htc import Htc
from stingy_attacker_eval.attacks.nasty.scm import Scm
from stingy_attacker_eval.attacks.nasty.skeptical import Skeptical
from stingy_attacker_eval.attacks.no_api import NoApi
from stingy_attacker_eval.attacks.queries.active import Active
from stingy_attacker_eval.attacks.queries.adaptive_knockoff import AdaptiveKnockoff
from stingy_attacker_eval.attacks.queries.jbda import Jbda
from stingy_attacker_eval.attacks.queries.knockoff import Knockoff
from stingy_attacker_eval.attacks.queries.semi_supervised import SemiSupervised
from stingy_attacker_eval.attacks.recovery.boundary_walk import BoundaryWalk
from stingy_attacker_eval.attacks.recovery.inversion import Inversion
from stingy_attacker_eval.attacks.scores.completion import Completion
from stingy_attacker_eval.attacks.scores.paper_kd import PaperKd
from stingy_attacker_eval.attacks.scores.soft_label import SoftLabel
from stingy_attacker_eval.attacks.scores.subset_kl import SubsetKl
from stingy_attacker_eval.attacks.scores.sweep import Sweep
from stingy_attacker_eval.attacks.scores.tail_fill import TailFill
from stingy_attacker_eval.attacks.two_labels import TwoLabels
from stingy_attacker_eval.attacks.views.augmentation_union import AugmentationUnion
from stingy_attacker_eval.attacks.views.consistent import Consistent
from stingy_attacker_eval.attacks.views.label_votes import LabelVotes
from stingy_attacker_eval.errors import AttackError

__all__ = [
    "Attack",
    "AttackContext",
    "AttackerData",
    "Batch",
    "Capability",
    "attack_types",
    "build_attacks",
]

_GROUP = "stingy.attacks"
_BUILT_IN: tuple[type[Attack], ...] = (
    NoApi,
    Guess,
    LabelOnly,
    TwoLabels,
    PaperKd,
    SoftLabel,
    Sweep,
    SubsetKl,
    TailFill,
    Completion,
    RankDistillation,
    RankAndLabel,
    LabelVotes,
    AugmentationUnion,
    Consistent,
    Inversion,
    BoundaryWalk,
    Skeptical,
    Htc,
    Scm,
    Collusion,
    Knockoff,
    AdaptiveKnockoff,
    Active,
    Jbda,
    SemiSupervised,
    DataFreeSoft,
    DataFreeHard,
    Dafl,
)


def attack_types() -> dict[str, type[Attack]]:
    """Return every attack class by name; a built-in attack wins a name clash.

    Raises AttackError, with the entry point's name, if one does not load to an Attack.
    """
    found: dict[str, type[Attack]] = {}
    for entry in entry_points(group=_GROUP):
        try:
            loaded = entry.load()
        except Exception:  # noqa: BLE001 - a plug-in's import may raise anything; the error names the plug-in
            raise AttackError(f'the attack plug-in "{entry.name}" could not be loaded') from None
        if not (isinstance(loaded, type) and issubclass(loaded, Attack)):
            raise AttackError(
                f'expected the plug-in "{entry.name}" to be an Attack, got another object'
            )
        found[loaded.name] = loaded
    return found | {attack.name: attack for attack in _BUILT_IN}


def build_attacks(name: str, settings: Mapping[str, object]) -> tuple[Attack, ...]:
    """Build the attacks of one protocol entry.

    Raises AttackError, with the known names, if the name is unknown.
    Raises AttackError if the settings do not fit the attack.
    """
    known = attack_types()
    if name not in known:
        raise AttackError(f'expected an attack out of {", ".join(sorted(known))}, got "{name}"')
    try:
        return known[name].expand(settings)
    except (TypeError, ValueError) as error:
        raise AttackError(f"{name}: {error}") from None
