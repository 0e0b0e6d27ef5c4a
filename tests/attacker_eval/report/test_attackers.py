"""One sentence and its lines of the table for each attacker, on the seeds that did not choose."""

from pathlib import Path

from audit_results import BASE, audit_of, row, rows_of
from stingy_attacker_eval.report.analysis import Audit, choice_remark, verdict
from stingy_attacker_eval.report.exporters import as_csv, as_json, as_markdown, attacker_table
from stingy_attacker_eval.report.html import render
from stingy_attacker_eval.report.verdicts import headlines
from stingy_attacker_eval.results import NO_ENDPOINT, Row, best_attacks, summarise

ATTACKERS = [{"name": "owner"}, {"name": "few", "labelled": 0.05, "answers": 9}]


def made(tmp_path: Path) -> Audit:
    """Write an audit of two attackers. The second gains more, from another baseline."""
    rows = rows_of({"open": {"label_only": 0.1, "soft_label": 3.0}})
    few = [
        r.model_copy(
            update={
                "attacker": "few",
                "accuracy": r.accuracy - 20 * (r.endpoint == NO_ENDPOINT),
                "uplift": r.uplift + 20 * (r.endpoint != NO_ENDPOINT),
            }
        )
        for r in rows
    ]
    return audit_of(tmp_path, rows + few, config={"attackers": ATTACKERS})


def test_each_attacker_has_a_headline_of_its_own(tmp_path: Path) -> None:
    owner, few = headlines(made(tmp_path))
    assert owner.startswith("An attacker with the true labels of all its images gains +3.0 (")
    assert few.startswith(
        "An attacker with true labels for 5 % of its images and 9 answers an image gains +23.0 ("
    )
    assert "by the best attack of this audit, soft_label on open, after 1,000 queries." in few


def test_table_has_each_attackers_own_baselines(tmp_path: Path) -> None:
    audit = made(tmp_path)
    assert [line[:6] for line in attacker_table(audit)] == [
        ("owner", "open", "70.0", "+0.1 ±0.5 (label_only)", "soft_label", "1,000"),
        ("few", "open", "50.0", "+20.1 ±0.3 (label_only)", "soft_label", "1,000"),
    ]
    for text, base in ((as_markdown(audit), "| 50.0 |"), (render(audit), ">50.0</td>")):
        assert base in text
        assert "9 answers an image" in text
    assert "| attacker | endpoint | attack |" in as_markdown(audit)
    assert '"labelled": 0.05' in as_json(audit)
    assert len(as_csv(audit).splitlines()) == 7
    assert "Each endpoint for the attacker owner:\n\n- **open**: +3.0" in as_markdown(audit)


def test_one_attacker_has_no_table_of_attackers(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, rows_of({"open": {"label_only": 0.1}}))
    assert "| attacker |" not in as_markdown(audit)
    assert '<h2 id="attackers">' not in render(audit)


def chosen(tmp_path: Path) -> Audit:
    """Write an audit in which another attack is best on the choosing seeds than on the others."""

    def rows(attack: str, choosing: float, reported: float) -> list[Row]:
        values = [choosing, choosing + 0.1, reported, reported + 0.1, reported - 0.1]
        return [row("open", attack, seed, BASE + value) for seed, value in enumerate(values)]

    found = [row(NO_ENDPOINT, "no_api", seed, BASE + 0.1 * (seed % 2)) for seed in range(5)]
    found += rows("label_only", 0.0, 0.0) + rows("soft_label", 3.0, 1.0) + rows("subset_kl", 1.0, 5)
    summaries = {"selection_seeds": [0, 1], "seeds": [2, 3, 4]}
    return audit_of(
        tmp_path, found, config=summaries, summary=summarise(found, selection_seeds=(0, 1))
    )


def test_best_attack_is_chosen_on_other_seeds_than_reported(tmp_path: Path) -> None:
    audit = chosen(tmp_path)
    best = audit.best["open"]
    assert (best.attack, best.n) == ("soft_label", 3)
    assert best.uplift_mean is not None
    assert abs(best.uplift_mean - 1.0) < 0.01
    assert audit.label_baselines[0].reader.attack == "soft_label"
    assert {each.seed for each in audit.rows} == {2, 3, 4}
    found = verdict(audit, audit.endpoints[0])
    assert "Chosen out of 3 on 2 other seeds." in found.remark
    assert "chosen by its mean over 2 seeds and reported over 3 others" in render(audit)


def test_one_choosing_seed_is_named_in_the_singular(tmp_path: Path) -> None:
    found = [row(NO_ENDPOINT, "no_api", seed, BASE) for seed in range(2)]
    found += [row("open", "label_only", seed, BASE + seed) for seed in range(2)]
    found += [row("open", "soft_label", seed, BASE + 2 * seed) for seed in range(2)]
    seeds = {"selection_seeds": [0], "seeds": [1]}
    audit = audit_of(tmp_path, found, config=seeds, summary=summarise(found, selection_seeds=(0,)))
    assert choice_remark(audit, "open").endswith("on one other seed.")
    assert "by its mean over 1 seed and reported over 1 other" in render(audit)


def test_attack_without_a_finite_choosing_seed_is_named(tmp_path: Path) -> None:
    def made(*broken: str) -> Audit:
        found = [row(NO_ENDPOINT, "no_api", seed, BASE) for seed in range(3)]
        for attack, gain in (("label_only", 0.1), ("soft_label", 6.0)):
            found += [
                row("open", attack, seed, BASE + gain, finite=seed > 0 or attack not in broken)
                for seed in range(3)
            ]
        seeds = {"selection_seeds": [0], "seeds": [1, 2]}
        summary = summarise(found, selection_seeds=(0,))
        return audit_of(tmp_path, found, config=seeds, summary=summary)

    said = choice_remark(made("soft_label"), "open")
    assert "soft_label has no finite loss with a seed that chooses" in said
    assert "on the reported seeds it gained +6.0" in said
    audit = made("soft_label", "label_only")
    assert "Not chosen: no attack" in verdict(audit, audit.endpoints[0]).sentence


def test_attack_that_broke_on_the_choosing_seeds_is_not_chosen(tmp_path: Path) -> None:
    audit = chosen(tmp_path)
    rows = [
        r.model_copy(update={"finite": False}) if r.attack == "soft_label" and r.seed < 2 else r
        for r in audit.report.rows
    ]
    assert best_attacks(summarise(rows, selection_seeds=(0, 1)))["open"].attack == "subset_kl"
