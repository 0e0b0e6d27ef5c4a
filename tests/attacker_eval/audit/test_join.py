"""Audits of different seeds become one: the same numbers as in one folder, and no other audit."""

import json
import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from audit_fakes import FakeOracle, audit, numbers, save_striped, tiny_protocol
from stingy_attacker_eval.audit.join import join_audits
from stingy_attacker_eval.audit.protocol import Protocol
from stingy_attacker_eval.audit.run_folder import read_predictions
from stingy_attacker_eval.audit.runner import run_audit
from stingy_attacker_eval.cli import app
from stingy_attacker_eval.errors import AuditError, ProtocolError
from stingy_attacker_eval.report.html import read_audit, render
from stingy_attacker_eval.report_schema import SkippedAttack, read_report
from stingy_attacker_eval.results import Row, summarise

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def protocol(tmp_path_factory: pytest.TempPathFactory) -> Protocol:
    data = save_striped(tmp_path_factory.mktemp("data"))
    return tiny_protocol(data, seeds=SEEDS, attacks=('"label_only"',))


@pytest.fixture(scope="module")
def parts(protocol: Protocol, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return a folder for each seed."""
    folder = tmp_path_factory.mktemp("parts")
    for seed in SEEDS:
        audit(protocol.with_seeds([seed]), folder / str(seed))
    return [folder / str(seed) for seed in SEEDS]


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def test_joined_seeds_give_the_numbers_of_one_folder(
    parts: list[Path], protocol: Protocol, tmp_path: Path
) -> None:
    join_audits(parts, out=tmp_path / "joined")
    joined, whole = read(tmp_path / "joined"), audit(protocol, tmp_path / "whole")

    def ordered(report: dict[str, Any]) -> list[dict[str, Any]]:
        return sorted(numbers(report), key=lambda row: (row["attack"], row["seed"]))

    assert ordered(joined) == ordered(whole)
    assert joined["config"] == whole["config"]
    assert joined["summary"] == whole["summary"]
    for row in joined["rows"]:
        assert len(read_predictions(tmp_path / "joined", Row(**row))) == 48


def test_joined_queries_are_the_sums_of_the_folders(parts: list[Path], tmp_path: Path) -> None:
    join_audits(parts, out=tmp_path / "joined")
    (endpoint,) = read(tmp_path / "joined")["endpoints"]
    assert endpoint["queries_spent"] == endpoint["queries_charged"] == 3 * 144
    assert endpoint["queries_transfer"] == 96


def test_joined_selection_seeds_choose_and_are_not_reported(
    parts: list[Path], tmp_path: Path
) -> None:
    report = join_audits(parts, out=tmp_path / "joined", selection_seeds=(1,))
    assert (report.config.seeds, report.config.selection_seeds) == ((0, 2), (1,))
    (found,) = [s for s in report.summary if s.attack == "label_only"]
    assert found.n == 2
    by_seed = {row.seed: row for row in report.rows if row.attack == "label_only"}
    base = {row.seed: row for row in report.rows if row.attack == "no_api"}
    assert found.selection_mean == pytest.approx(by_seed[1].accuracy - base[1].accuracy)


def test_joined_audit_can_be_joined_with_a_further_seed(parts: list[Path], tmp_path: Path) -> None:
    join_audits(parts[:2], out=tmp_path / "two")
    report = join_audits([tmp_path / "two", parts[2]], out=tmp_path / "three")
    assert report.config.seeds == SEEDS


def test_seed_that_chose_in_a_joined_folder_still_chooses(
    parts: list[Path], tmp_path: Path
) -> None:
    join_audits(parts[:2], out=tmp_path / "two", selection_seeds=(0,))
    report = join_audits([tmp_path / "two", parts[2]], out=tmp_path / "three")
    assert (report.config.seeds, report.config.selection_seeds) == ((1, 2), (0,))


def test_joined_folders_name_every_commit_and_day(parts: list[Path], tmp_path: Path) -> None:
    for name, part, commit in (("a", parts[0], "1" * 40), ("b", parts[1], "2" * 40)):
        shutil.copytree(part, tmp_path / name)
        report = read(tmp_path / name)
        report["environment"] |= {"commit": commit, "date": f"2026-11-2{commit[0]}T00:00:00+00:00"}
        (tmp_path / name / "report.json").write_text(json.dumps(report))
    join_audits([tmp_path / "a", tmp_path / "b"], out=tmp_path / "joined")
    page = render(read_audit(tmp_path / "joined"))
    assert "<span>1111111, 2222222</span>" in page
    assert "<span>2026-11-21, 2026-11-22</span>" in page


def test_broken_baselines_of_all_choosing_seeds_are_named(
    parts: list[Path], tmp_path: Path
) -> None:
    shutil.copytree(parts[0], tmp_path / "broken")
    report = read(tmp_path / "broken")
    for row in report["rows"]:
        row["finite"] = row["attack"] != "no_api"
    rows = [Row(**row) for row in report["rows"]]
    report["summary"] = [each.model_dump(mode="json") for each in summarise(rows)]
    (tmp_path / "broken" / "report.json").write_text(json.dumps(report))
    folders = [tmp_path / "broken", parts[1]]
    wanted = "finite no-API baseline of owner for .* with a seed that chooses, got none: train it"
    with pytest.raises(AuditError, match=wanted):
        join_audits(folders, out=tmp_path / "joined", selection_seeds=(0,))
    assert not (tmp_path / "joined").exists()


def test_folder_with_files_is_refused_and_untouched(parts: list[Path], tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(AuditError, match="expected a new folder"):
        join_audits(parts, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_seed_in_two_folders_is_refused(parts: list[Path], tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="expected the seed 0 in one folder, got it in several"):
        join_audits([parts[0], parts[0]], out=tmp_path / "joined")
    assert not (tmp_path / "joined").exists()


def test_attack_that_ran_in_one_folder_alone_is_refused(parts: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(parts[1], other)
    report = read_report(other)
    skipped = SkippedAttack(endpoint=report.endpoints[0].name, attack="dafl", reason="needs more")
    report.model_copy(update={"skipped": (*report.skipped, skipped)}).write(other)
    with pytest.raises(AuditError, match="got one alone ran dafl"):
        join_audits([parts[0], other], out=tmp_path / "joined")


def test_seeds_that_all_choose_are_refused(parts: list[Path], tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="expected a seed that is reported") as caught:
        join_audits(parts, out=tmp_path / "joined", selection_seeds=(*SEEDS, 9))
    assert "expected rows of the seed 9" in str(caught.value)


def test_other_schedule_or_other_endpoint_is_refused(
    parts: list[Path], protocol: Protocol, tmp_path: Path
) -> None:
    other = protocol.model_copy(update={"lr": 0.04, "seeds": (5,)})
    oracle = replace(FakeOracle(), fingerprint="b" * 12)
    run_audit(
        other,
        oracles={"stingy": oracle},
        out=tmp_path / "other",
        console=Console(file=StringIO()),
    )
    with pytest.raises(AuditError) as caught:
        join_audits([parts[0], tmp_path / "other"], out=tmp_path / "joined")
    assert "expected the lr of" in str(caught.value)
    assert "expected the fingerprint of stingy as in" in str(caught.value)


@pytest.mark.parametrize("policy", ["keyed_noise", "stingy"])
def test_only_a_policy_with_a_secret_may_answer_otherwise(
    policy: str, parts: list[Path], tmp_path: Path
) -> None:
    folders = []
    for name, part, top5, ece in (("a", parts[0], 90.0, 3.0), ("b", parts[1], 93.0, 6.0)):
        shutil.copytree(part, tmp_path / name)
        report = read(tmp_path / name)
        (endpoint,) = report["endpoints"]
        endpoint["policy"] = policy
        endpoint["utility"] |= {"top5": top5, "ece": ece}
        (tmp_path / name / "report.json").write_text(json.dumps(report))
        folders.append(tmp_path / name)
    if policy == "stingy":
        with pytest.raises(AuditError, match="expected the utility of stingy as in"):
            join_audits(folders, out=tmp_path / "joined")
        return
    join_audits(folders, out=tmp_path / "two")
    report = read(parts[2])
    report["endpoints"][0] |= {"policy": policy}
    report["endpoints"][0]["utility"] |= {"top5": 90.0, "ece": 6.0}
    shutil.copytree(parts[2], tmp_path / "c")
    (tmp_path / "c" / "report.json").write_text(json.dumps(report))
    joined = join_audits([tmp_path / "two", tmp_path / "c"], out=tmp_path / "three")
    found = joined.endpoints[0].utility
    assert [found.top5, found.ece] == pytest.approx([91.0, 5.0])


def test_join_command_writes_the_report_of_all_seeds(parts: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "joined"
    folders = [str(part) for part in parts]
    result = CliRunner().invoke(app, ["audit", "join", *folders, "--out", str(out)])
    assert result.exit_code == 0
    assert (out / "report.html").exists()
    assert read(out)["config"]["seeds"] == [0, 1, 2]


def test_seeds_of_a_run_keep_their_part_in_the_choice(protocol: Protocol) -> None:
    both = protocol.model_copy(update={"selection_seeds": (7, 8)})
    found = both.with_seeds([7, 1])
    assert (found.seeds, found.selection_seeds) == ((1,), (7,))
    only = both.with_seeds([8])
    assert (only.seeds, only.selection_seeds) == ((8,), ())
    assert both.with_seeds([]) == both
    with pytest.raises(ProtocolError, match="expected seeds out of 7, 8, 0, 1, 2, got 9"):
        both.with_seeds([9])
