"""The advice: only what no attacker read more from, by need, with the attacks not tried."""

from pathlib import Path
from typing import Any

from audit_results import audit_of, endpoint_of, row, rows_of, utility_of
from stingy_attacker_eval.report.advice import Advice, advice
from stingy_attacker_eval.report.analysis import Audit
from stingy_attacker_eval.report.verdicts import attacker_verdicts
from stingy_attacker_eval.results import NO_ENDPOINT

MORE = {"label_only": 0.1, "soft_label": 3.0}
LESS = {"label_only": 0.1, "soft_label": -0.5}
SHORT = utility_of(top5=80.0, ece=None).model_copy(update={"answer_bytes": 8})
NEAR = {"label_only": 0.1, "soft_label": 0.55}


def advised(audit: Audit) -> Advice:
    return advice(audit, attacker_verdicts(audit))


def chosen(found: Advice) -> dict[str, str | None]:
    choices = found.choices[:-1]  # the last is the budget
    return {choice.need.removeprefix("need "): choice.endpoint for choice in choices}


def made(tmp_path: Path, uplifts: dict[str, dict[str, float]], **other: Any) -> Audit:
    """Write an audit of an open endpoint, a label and the given lists."""
    endpoints = [
        endpoint_of("open", policy="open"),
        endpoint_of("label", support=1, utility=SHORT),
        *(
            endpoint_of(name, utility=utility_of(top5=90.0 - n, ece=9.0 - n))
            for n, name in enumerate(uplifts)
        ),
    ]
    rows = rows_of({"open": MORE, "label": {"label_only": 0.1}, **uplifts})
    return audit_of(tmp_path, rows, endpoints, **other)


def test_needs_are_met_by_lists_that_add_nothing_to_labels(tmp_path: Path) -> None:
    found = advised(made(tmp_path, {"leaky": MORE, "quiet": LESS, "calm": LESS}))
    assert chosen(found) == {"top-1": "label", "first five": "quiet", "probability": "calm"}
    assert "undecided" not in " ".join(choice.text for choice in found.choices)


def test_undecided_list_is_chosen_only_without_another(tmp_path: Path) -> None:
    found = advised(made(tmp_path, {"leaky": MORE, "near": NEAR}))
    assert chosen(found) == {"top-1": "label", "first five": "near", "probability": "near"}
    assert all(c.text.endswith(", undecided") for c in found.choices if c.endpoint == "near")
    assert not any(remark.startswith("Undecided") for remark in found.remarks)
    both = advised(made(tmp_path, {"near": NEAR, "quiet": LESS}))
    assert chosen(both)["first five"] == "quiet"
    assert any("Undecided, and keeping more of the first five: near." in r for r in both.remarks)


def test_no_list_is_chosen_where_each_teaches_more(tmp_path: Path) -> None:
    found = advised(made(tmp_path, {"leaky": MORE}))
    assert chosen(found) == {"top-1": "label", "first five": None, "probability": None}
    assert "each taught more than labels alone" in found.choices[1].text


def test_E7_undecided_open_list_is_none_that_taught_more(tmp_path: Path) -> None:
    endpoints = [endpoint_of(name, policy="open") for name in ("open", "nasty")]
    rows = rows_of({"open": MORE, "nasty": NEAR})
    found = advised(audit_of(tmp_path, rows, endpoints))
    assert found.choices[1].text == "no list of this audit withholds anything"


def test_open_endpoint_is_never_advised(tmp_path: Path) -> None:
    endpoints = [endpoint_of("open", policy="open")]
    found = advised(audit_of(tmp_path, rows_of({"open": LESS}), endpoints))
    assert chosen(found) == {"top-1": None, "a list": None}
    assert "proves none harmless" in found.choices[1].text


def test_list_that_one_attacker_reads_more_from_is_not_advised(tmp_path: Path) -> None:
    audit = made(tmp_path, {"quiet": LESS})
    other = [
        r.model_copy(
            update={
                "attacker": "few",
                "accuracy": r.accuracy + 3 * (r.endpoint == "quiet" and r.attack == "soft_label"),
                "uplift": r.uplift + 3 * (r.endpoint == "quiet" and r.attack == "soft_label"),
            }
        )
        for r in audit.report.rows
    ]
    config = {"attackers": [{"name": "owner"}, {"name": "few", "labelled": 0.5}]}
    both = audit_of(tmp_path, [*audit.report.rows, *other], audit.report.endpoints, config)
    assert chosen(advised(audit))["first five"] == "quiet"
    assert chosen(advised(both))["first five"] is None


def test_endpoint_where_every_attack_broke_is_not_advised(tmp_path: Path) -> None:
    audit = made(tmp_path, {"quiet": LESS})
    rows = [
        r.model_copy(update={"finite": r.endpoint not in ("quiet", "label")})
        for r in audit.report.rows
    ]
    found = advised(audit_of(tmp_path, rows, audit.report.endpoints))
    assert set(chosen(found).values()) == {None}
    broken = [r.model_copy(update={"finite": r.endpoint == NO_ENDPOINT}) for r in rows]
    found = advised(audit_of(tmp_path, broken, audit.report.endpoints))
    assert chosen(found) == {}
    assert "No policy can be chosen" in found.remarks[0]


def test_attacks_that_were_not_tried_or_could_not_run_are_named(tmp_path: Path) -> None:
    skipped = [
        {"endpoint": "quiet", "attack": "inversion", "reason": "needs scores"},
        {"endpoint": "quiet", "attack": "consistent", "reason": "needs answers", "beyond": True},
    ]
    found = advised(made(tmp_path, {"quiet": LESS}, skipped=skipped))
    assert found.unable == ("inversion on quiet",)
    assert "consistent" in found.untried
    assert not {"soft_label", "label_only", "no_api", "guess"} & set(found.untried)


def test_worth_of_labels_alone_is_stated(tmp_path: Path) -> None:
    uplifts = {"open": {"label_only": 5.0, "soft_label": 8.0}}
    found = advised(audit_of(tmp_path, rows_of(uplifts)))
    (said,) = [remark for remark in found.remarks if remark.startswith("Labels alone")]
    assert "close 50 % of the gap for the attacker with true labels" in said


def test_budget_is_advised_by_the_upper_bound_of_its_gain(tmp_path: Path) -> None:
    def remark(*gains: tuple[int, float], spread: float = 0.2) -> str:
        rows = rows_of({"open": {"soft_label": 5.0}})
        for budget, gain in gains:
            for seed, noise in enumerate((spread, -spread, spread / 2)):
                rows.append(row("none", "no_api", seed, 50.0 - noise, budget=budget))
                rows.append(
                    row(
                        "open",
                        "soft_label",
                        seed,
                        50.0 + gain + noise,
                        budget=budget,
                        uplift=gain + noise,
                    )
                )
        return advised(audit_of(tmp_path, rows)).choices[-1].text

    assert "set budgets in the protocol" in remark()
    assert remark((100, 0.0), (500, 9.0)) == (
        "100 images a key: up to there no gain is above 1 point"
    )
    assert remark((100, 9.0), (500, 9.0)) == "even 100 queries gave a measurable gain"
    assert remark((100, 9.0), (500, 0.0)) == "even 100 queries gave a measurable gain"
    assert "undecided: with 100 images no gain was measured, but it may be up to +" in remark(
        (100, 3.0), spread=5.0
    )


def test_E7_one_seed_advises_no_budget(tmp_path: Path) -> None:
    rows = rows_of({"open": {"soft_label": 5.0}})
    rows += [row("none", "no_api", 0, 50.0, budget=100)]
    rows += [row("open", "soft_label", 0, 70.0, budget=100, uplift=20.0)]
    audit = audit_of(tmp_path, [r for r in rows if r.seed == 0], config={"seeds": [0]})
    said = advised(audit).choices[-1].text
    assert said == "not measured: run two seeds or more for the curve"


def test_E7_labels_within_their_error_close_no_gap(tmp_path: Path) -> None:
    uplifts = {"open": {"label_only": 0.3, "soft_label": 8.0}}
    found = advised(audit_of(tmp_path, rows_of(uplifts)))
    assert not [remark for remark in found.remarks if remark.startswith("Labels alone")]
