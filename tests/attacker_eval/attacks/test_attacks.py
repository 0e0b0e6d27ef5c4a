"""The contract of attacks: declared data only, guarded methods, checked names and settings."""

import ast
import inspect
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from attack_lab import attacker_data, striped_oracle
from audit_fakes import striped
from stingy_attacker_eval import attacks
from stingy_attacker_eval.attacks import (
    Attack,
    AttackContext,
    AttackerData,
    Batch,
    Capability,
    attack_types,
    base,
    build_attacks,
)
from stingy_attacker_eval.attacks.label_only import LabelOnly
from stingy_attacker_eval.attacks.scores.paper_kd import PaperKd
from stingy_attacker_eval.attacks.scores.soft_label import SoftLabel
from stingy_attacker_eval.errors import AnswersError, AttackError, BudgetExhausted
from stingy_attacker_eval.students import cnn
from stingy_attacker_eval.training import TrainResult, TrainSettings, to_device

PIXELS, CLASS_OF = striped(32)
LABELS = torch.from_numpy(CLASS_OF)
REQUIRED: dict[str, dict[str, object]] = {
    "adaptive_knockoff": {"pool": "digits"},
    "collusion": {"partner": "other"},
    "sweep": {"tau": [1.0], "alpha": [1.0]},
}
LOGITS = torch.full((32, 3), -torch.inf).scatter(1, LABELS[:, None], 0.0)
DATA = AttackerData(
    to_device(PIXELS, torch.device("cpu")), labels=LABELS, top1=LABELS, logits=LOGITS
)


def run(attack: Attack, data: AttackerData = DATA) -> TrainResult:
    torch.manual_seed(0)
    settings = TrainSettings(epochs=1, batch=16, lr=0.01)
    return attack.run(cnn(num_classes=3, width=4), data, settings=settings, seed=0)


@dataclass(frozen=True, kw_only=True)
class Plugin(Attack):
    """An attack of a third party."""

    name: ClassVar[str] = "plugin"
    title: ClassVar[str] = "a third party's"
    reference: ClassVar[str] = "none"
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.ANSWERS})

    def loss(self, student_logits: Tensor, batch: Batch) -> Tensor:
        return torch.nn.functional.cross_entropy(student_logits, batch.top1)


@pytest.mark.parametrize("name", ["no_api", "label_only", "paper_kd", "soft_label", "sweep"])
def test_every_attack_has_a_finite_loss_and_a_reference(name: str) -> None:
    for attack in build_attacks(name, {}):
        assert run(attack).finite
        assert attack.title
        assert attack.reference
        assert "References:" in (type(attack).__doc__ or "")


@pytest.mark.parametrize("attack", [LabelOnly(), SoftLabel()])
def test_attacks_without_true_labels_do_not_depend_on_them(
    attack: Attack,
) -> None:
    without = AttackerData(DATA.images, top1=LABELS, logits=LOGITS)
    assert run(attack, without).last_loss == run(attack).last_loss


def test_loss_cannot_read_undeclared_capabilities() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Peeks(Plugin):
        def loss(self, student_logits: Tensor, batch: Batch) -> Tensor:
            return torch.nn.functional.cross_entropy(student_logits, batch.labels)

    with pytest.raises(AttackError, match="requires labels"):
        run(Peeks())


def test_attack_without_a_required_capability_is_refused() -> None:
    with pytest.raises(AnswersError, match="paper_kd needs labels, scores"):
        run(PaperKd(), AttackerData(DATA.images, top1=LABELS))


def test_non_scalar_loss_is_refused_with_the_plugins_name() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Vector(Plugin):
        def loss(self, student_logits: Tensor, batch: Batch) -> Tensor:
            return student_logits.sum(dim=1)

    with pytest.raises(AttackError, match="plugin: expected a scalar loss with a gradient"):
        run(Vector())


def test_non_finite_loss_is_flagged() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Broken(Plugin):
        def loss(self, student_logits: Tensor, batch: Batch) -> Tensor:
            return super().loss(student_logits, batch) * float("inf")

    assert not run(Broken()).finite


@pytest.mark.parametrize(
    ("policy", "refused"),
    [
        ("stingy:n=2", False),
        ("stingy:n=2,scores=prob", False),
        ("ranked_labels:n=2", True),
        ("label", True),
    ],
)
def test_attacks_on_scores_skip_answers_without_scores(policy: str, refused: bool) -> None:
    found = attacker_data(striped_oracle(policy))
    for kind in attack_types().values():
        (attack,) = build_attacks(kind.name, REQUIRED.get(kind.name, {}))
        if Capability.SCORES in attack.needs:
            reason = attack.skip_reason(found) or ""
            assert ("has none to learn from" in reason) == refused
    assert LabelOnly().skip_reason(found) is None


def test_every_attack_declares_title_reference_and_capabilities() -> None:
    assert len(attack_types()) >= 28
    for kind in attack_types().values():
        assert kind.title
        assert kind.reference
        assert kind.requires
        (attack, *_) = build_attacks(kind.name, REQUIRED.get(kind.name, {}))
        assert attack.needs <= kind.requires
        assert "References:" in (kind.__doc__ or "")
        assert (Capability.QUERIES in kind.requires) == (kind.budget is not Attack.budget)
        assert (Capability.SECOND_TIER in kind.requires) == (
            kind.partner_name is not Attack.partner_name
        )
        assert (Capability.POOL in kind.requires) == (kind.pool_name is not Attack.pool_name)


def test_labels_that_an_attack_does_not_need_are_kept_from_it() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Peeks(Plugin):
        requires: ClassVar[frozenset[Capability]] = frozenset(
            {Capability.ANSWERS, Capability.LABELS}
        )

        @property
        def needs(self) -> frozenset[Capability]:
            return frozenset({Capability.ANSWERS})

        def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
            _ = context.labels
            raise AssertionError

    assert not Peeks().uses_true_labels
    with pytest.raises(AttackError, match="requires labels"):
        run(Peeks())


def test_plugin_without_loss_or_train_student_is_refused() -> None:
    with pytest.raises(TypeError, match="expected Idle to write loss or train_student"):

        class Idle(Attack):
            pass


def test_plugin_that_overrides_final_methods_is_refused() -> None:
    with pytest.raises(TypeError, match="expected Around not to override run"):

        class Around(Plugin):
            def run(self, *_: object, **__: object) -> TrainResult:  # type: ignore[misc]
                raise AssertionError

    with pytest.raises(TypeError, match="expected Quiet not to override label, skip_reason"):

        class Quiet(Plugin):
            label = "soft_label"  # type: ignore[misc]

            def skip_reason(self, data: AttackerData) -> str | None:  # type: ignore[misc]
                return None


def test_every_final_method_is_protected_from_plugins() -> None:
    tree = ast.parse(inspect.getsource(base))
    marked = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(each, ast.Name) and each.id == "final" for each in node.decorator_list)
    }
    assert marked == set(base._FINAL)


def test_attack_that_edits_its_tensors_changes_no_other_run() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Spoils(Plugin):
        requires: ClassVar[frozenset[Capability]] = frozenset(
            {Capability.ANSWERS, Capability.SCORES, Capability.LABELS, Capability.SECOND_TIER}
        )

        def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
            for each in (context, context.partner):
                for tensor in (each.logits, each.top1, each.indices, each.labels):
                    tensor.fill_(0)
                batch = each.batch(torch.arange(2))
                # Its own batches have its own edits.
                assert not any(part.any() for part in (batch.logits, batch.top1, batch.indices))
            return TrainResult(True, 0.0, 0.0)

    shared = replace(DATA, indices=LABELS[:, None], partner=None)
    shared = replace(shared, partner=shared)
    before = [tensor.clone() for tensor in (LOGITS, LABELS)]
    run(Spoils(), shared)
    assert torch.equal(LOGITS, before[0])
    assert torch.equal(LABELS, before[1])


def test_plugin_error_is_reported_with_the_plugins_name() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Slips(Plugin):
        def loss(self, student_logits: Tensor, batch: Batch) -> Tensor:
            return student_logits[:, 7].mean()

    with pytest.raises(AttackError, match="expected plugin to train its student, got IndexError"):
        run(Slips())


@pytest.mark.parametrize("error", [BudgetExhausted("3 are left"), OSError("disk full")])
def test_audit_errors_and_os_errors_pass_unchanged(error: Exception) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Raises(Plugin):
        def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
            raise error

    with pytest.raises(type(error)) as caught:
        run(Raises())
    assert caught.value is error


def test_train_student_cannot_read_undeclared_capabilities() -> None:
    declared = {
        "images": Capability.IMAGES,
        "labels": Capability.LABELS,
        "top1": Capability.ANSWERS,
        "indices": Capability.ANSWERS,
        "logits": Capability.SCORES,
        "session": Capability.QUERIES,
        "network": Capability.WHITE_BOX,
        "partner": Capability.SECOND_TIER,
    }
    for field, capability in declared.items():

        @dataclass(frozen=True, kw_only=True)
        class Peeks(Plugin):
            requires: ClassVar[frozenset[Capability]] = frozenset({Capability.POOL})

            def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
                getattr(context, field)  # noqa: B023 - run within the loop
                raise AssertionError

        with pytest.raises(AttackError, match=f"requires {capability}"):
            run(Peeks(), attacker_data(striped_oracle()))


def test_pool_without_declaration_is_refused() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Peeks(Plugin):
        def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
            context.pool("synthetic", 1)
            raise AssertionError

    with pytest.raises(AttackError, match="requires pool"):
        run(Peeks())


def test_non_finite_student_is_flagged_despite_the_plugin() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Boasts(Plugin):
        def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
            next(student.parameters()).data.fill_(float("nan"))
            return TrainResult(True, 0.0, 0.0)

    assert not run(Boasts()).finite


def test_train_student_with_another_result_is_a_plugin_error() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Vague(Plugin):
        def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
            return None  # type: ignore[return-value]

    with pytest.raises(AttackError, match="expected a TrainResult from plugin"):
        run(Vague())


def test_white_box_attack_is_marked_in_its_label() -> None:
    for settings in ({}, {"steps": 7}):
        (attack,) = build_attacks("dafl", settings)
        assert attack.label.startswith("dafl[white-box")
    assert attack.label == "dafl[white-box,steps=7]"


def test_sweep_expands_into_its_grid() -> None:
    grid = build_attacks("sweep", {"tau": [1, 4], "alpha": [0.5, 0.9]})
    assert [attack.label for attack in grid] == [
        "sweep[tau=1,alpha=0.5]",
        "sweep[tau=1,alpha=0.9]",
        "sweep[tau=4,alpha=0.5]",
        "sweep[tau=4,alpha=0.9]",
    ]
    assert grid[3].settings() == {"tau": 4.0, "alpha": 0.9}
    assert len(build_attacks("sweep", {})) == 16


def test_label_names_settings_other_than_the_default() -> None:
    assert PaperKd().label == "paper_kd"
    (other,) = build_attacks("paper_kd", {"tau": 4})
    assert other.label == "paper_kd[tau=4]"


def add_entry_point(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint(name="plugin", value=value, group="stingy.attacks")
    monkeypatch.setattr(attacks, "entry_points", lambda group: [point])


def test_entry_point_adds_a_third_partys_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    add_entry_point(f"{__name__}:Plugin", monkeypatch)
    (found,) = build_attacks("plugin", {})
    assert run(found).finite


@pytest.mark.parametrize(
    ("value", "message"),
    [("no_such_module:Attack", "could not be loaded"), ("math:pi", "to be an Attack")],
)
def test_entry_point_that_is_no_attack_is_refused_by_name(
    value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_entry_point(value, monkeypatch)
    with pytest.raises(AttackError, match=message):
        build_attacks("label_only", {})
