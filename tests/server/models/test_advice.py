"""Advice on policies of models with few classes."""

from pathlib import Path

import pytest

from serving import make_bundle, make_settings, running
from stingy_protection import build_policy, hides_nothing, parse_policy
from stingy_server.models.advice import policy_notes
from stingy_server.models.loading import load_bundles
from stingy_server.models.summary import summary


def note_of(policy: str, num_classes: int) -> str:
    name, options = parse_policy(policy)
    return " ".join(policy_notes(build_policy(name, num_classes=num_classes, **options)))


@pytest.mark.parametrize("num_classes", [*range(2, 10), *range(11, 20)])
@pytest.mark.parametrize("policy", ["stingy", "stingy:scores=prob"])
def test_constant_score_is_noted_with_a_policy_that_loads(policy: str, num_classes: int) -> None:
    note = note_of(policy, num_classes)
    assert note.startswith("one class leaves, so its score is always the same; see --policy ")
    advised = note.split("--policy ")[1].split(", which")[0]
    name, options = parse_policy(advised)
    other = build_policy(name, num_classes=num_classes, **options)
    assert not hides_nothing(other)
    assert policy_notes(other) == []
    assert advised == ("label" if num_classes < 4 else "stingy:n=2")


@pytest.mark.parametrize(
    ("policy", "num_classes"),
    [
        ("stingy", 10),
        ("stingy", 20),
        ("stingy:n=2", 5),
        ("label", 5),
        ("stingy:n=1,scores=logit", 5),
        ("ranked_labels:n=1", 5),
    ],
)
def test_policy_whose_scores_differ_has_no_note(policy: str, num_classes: int) -> None:
    assert note_of(policy, num_classes) == ""


@pytest.mark.anyio
async def test_start_warns_of_a_score_that_never_differs(tmp_path: Path) -> None:
    few = make_bundle(tmp_path / "few", num_classes=5, name="few")
    settings = make_settings(tmp_path / "s", few, make_bundle(tmp_path / "ten"))
    async with running(settings) as (_, app):
        lines = summary(app.state.service.fleet, app.state.service.settings)
    (warning,) = [line for line in lines if "warning" in line]
    assert warning == (
        "warning: few 1: one class leaves, so its score is always the same; see --policy "
        "stingy:n=2, which sends scores that differ"
    )


@pytest.mark.parametrize("num_classes", [2, 3, 4, 10])
def test_open_policy_of_few_classes_is_advised_against(tmp_path: Path, num_classes: int) -> None:
    bundle = make_bundle(tmp_path / "b", policy="open", num_classes=num_classes)
    _, (fault,) = load_bundles(make_settings(tmp_path / "s", bundle))
    assert "hides nothing" in fault
    advised = "use the policy label, which sends none" if num_classes < 4 else "allow_open = true"
    assert advised in fault
    assert ("allow_open" in fault) == (num_classes >= 4)
