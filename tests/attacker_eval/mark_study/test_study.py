"""A study runs, goes on where it stopped, and counts thieves and innocents as it says."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from audit_fakes import save_striped
from stingy_attacker_eval.cli import app
from stingy_attacker_eval.errors import StudyError
from stingy_attacker_eval.mark_study.analysis import (
    Results,
    find_chance,
    questions_needed,
)
from stingy_attacker_eval.mark_study.innocents import accuse
from stingy_attacker_eval.mark_study.marking import Items
from stingy_attacker_eval.mark_study.rows import judge_letters, judge_preferred, letters_of
from stingy_attacker_eval.mark_study.settings import load_study
from stingy_attacker_eval.mark_study.thieves import THIEVES, prune_dormant
from stingy_attacker_eval.ownership.statistics import LEVEL
from stingy_attacker_eval.students import cnn

RUN = CliRunner()


def write_study(folder: Path, *, thieves: tuple[str, ...] = ("label_only", "collusion")) -> Path:
    path = folder / "study.toml"
    path.write_text(f"""
title = "striped"
dataset = "{save_striped(folder)}"
side = 8
policy = "stingy:n=2"
student = "cnn_tiny"
clean = 8
seeds = [0, 1]
shares = [0.3]
share = 0.3
runners_up = 2
thieves = {json.dumps(thieves)}
independents = 2
honest = 1
secrets = 4
order_thieves = ["rank_distillation"]
[teacher]
network = "cnn_tiny"
images = 32
epochs = 1
batch = 16
[training]
images = 28
epochs = 1
batch = 14
augment = 1
""")
    return path


def run_study(folder: Path, *options: str) -> Results:
    arguments = ["audit", "mark-study", str(folder / "study.toml"), "--out", str(folder / "out")]
    result = RUN.invoke(app, [*arguments, *options])
    assert result.exit_code == 0, result.output
    return Results.model_validate_json((folder / "out" / "results.json").read_text())


def test_every_thief_trains_and_is_judged(tmp_path: Path) -> None:
    write_study(tmp_path, thieves=tuple(THIEVES))
    results = run_study(tmp_path, "--only", "0/*@*")
    assert [each.student for each in results.thieves] == list(THIEVES)
    for each in results.thieves:
        assert each.answers.questions == each.preferred.questions
        assert each.answers.questions or each.student == "semi_supervised"
    queries = {each.student: each.queries for each in results.thieves}
    assert queries["label_only"] == queries["doubt"] == 28
    assert queries["collusion"] == 56
    assert queries["label_votes"] == 28 * 9
    assert queries["semi_supervised"] == 5


def test_study_goes_on_where_it_stopped(tmp_path: Path) -> None:
    write_study(tmp_path)
    first = run_study(tmp_path, "--only", "0/label_only@0.3")
    assert (first.students, len(first.thieves), first.innocents) == (1, 1, ())
    rows = tmp_path / "out" / "seed0" / "rows.jsonl"
    line = rows.read_text()
    rows.write_text(line + '{"kind": "thi')  # as a kill leaves it
    whole = run_study(tmp_path)
    assert rows.read_text().startswith(line)
    assert whole.students == 2 * 2 + 3 + 2
    assert sorted(row.data for row in whole.orders) == ["innocent"] * 3 + ["thief"] * 2
    assert [each.seeds for each in whole.thieves] == [2, 2]
    assert len(whole.endpoints) == 2
    assert run_study(tmp_path).model_copy(update={"environment": {}}) == whole.model_copy(
        update={"environment": {}}
    )
    pooled = whole.innocents[-1]
    assert (pooled.data, pooled.students, pooled.tried) == ("all", 3, 12)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "collusion" in page
    assert "://" not in page


def test_folder_of_another_study_is_refused(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    run_study(tmp_path, "--only", "0/none")
    path.write_text(path.read_text().replace("secrets = 4", "secrets = 5"))
    result = RUN.invoke(app, ["audit", "mark-study", str(path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "got another: choose a new folder" in result.stderr


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (('"label_only"', '"burglar"'), "thieves out of"),
        (("secrets = 4", "secrets = 0"), "secrets"),
        (("side = 8", "side = "), "TOML"),
    ],
)
def test_faults_of_a_study_are_named(tmp_path: Path, change: tuple[str, str], text: str) -> None:
    path = write_study(tmp_path)
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(StudyError, match=text):
        load_study(str(path))


def test_packaged_studies_load_and_others_are_named() -> None:
    for name in ("prove_cifar10", "prove_tin100"):
        assert load_study(name).independents >= 10
        assert load_study(name).secrets == 1000
    with pytest.raises(StudyError, match="prove_cifar10, prove_tin100"):
        load_study("other")
    with pytest.raises(StudyError, match="no file"):
        load_study("other.toml")


def test_answers_become_letters() -> None:
    items = Items(
        images=torch.zeros(5, 3, 2, 2),
        marked=np.array([True, True, True, True, False]),
        top1=np.full(5, 0),
        runners_up=np.tile([1, 2, 3], (5, 1)),
        places=np.full(5, 1),
    )
    classes = np.array([2, 3, 0, 5, 1])
    assert letters_of(items, classes, True) == "mrto"
    assert letters_of(items, classes, False) == "r"
    test = judge_letters("mrto", 3)
    assert (test.questions, test.informative, test.matches) == (4, 2, 1)
    assert judge_preferred("0110", 3).matches == 2


def test_chance_to_be_found_is_that_of_simulated_thieves() -> None:
    generator = np.random.default_rng(0)
    found = 0
    for _ in range(400):
        informative = generator.random(120) < 0.3
        letters = np.where(informative, np.where(generator.random(120) < 0.7, "m", "r"), "t")
        p = judge_letters("".join(letters), 3).p_value
        found += p is not None and p <= LEVEL
    chance = find_chance(120, 0.3, 0.7, 3)
    assert found / 400 == pytest.approx(chance, abs=3 * (0.25 / 400) ** 0.5)
    needed = questions_needed(0.3, 0.7, 3)
    assert needed is not None
    assert find_chance(needed, 0.3, 0.7, 3) >= 0.9
    assert find_chance(needed - 20, 0.3, 0.7, 3) < 0.9
    assert questions_needed(0.001, 0.34, 3) is None


def test_innocents_are_tried_against_every_secret() -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 255, (300, 8, 8, 3), np.uint8)
    runners_up = np.tile([1, 2, 3], (300, 1))
    innocent = generator.integers(0, 4, 300)
    ((found,),) = accuse(
        [innocent],
        [generator.integers(0, 3, 300)],
        images,
        runners_up,
        shares=(0.1,),
        secrets=60,
        num_classes=10,
    )
    assert (found.tried, found.judged) == (60, 60)
    assert found.at_most["0.1"] <= 60 * 0.1 + 2 * (60 * 0.09) ** 0.5
    assert found.at_most["0.001"] <= found.at_most["0.01"] <= found.at_most["0.1"]


def test_pruned_channels_stay_dormant() -> None:
    student = cnn(num_classes=3, width=4)
    layers = [module for module in student.modules() if isinstance(module, nn.BatchNorm2d)]
    prune_dormant(student, torch.randint(0, 255, (8, 3, 8, 8), dtype=torch.uint8), share=0.5)
    assert int((layers[-1].weight == 0).sum()) == layers[-1].num_features // 2
    assert not (layers[0].weight == 0).any()
