"""The order of the runners-up convicts thieves whose class never is the mark, and no innocent."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from typer.testing import CliRunner

from exhibits import make_exhibit, thief_answers
from stingy_attacker_eval.cli import app
from stingy_attacker_eval.ownership.interview import Interview
from stingy_attacker_eval.ownership.proof import Proof, Verdict, judge_suspect
from stingy_clients.documents.exhibit import Exhibit

RUN = CliRunner()


def scores_of(exhibit: Exhibit, *, learned: float, seed: int = 0) -> NDArray[np.float64]:
    """Score the endpoint's class best, and the mark best of the others for a share of inputs."""
    generator = np.random.default_rng(seed)
    scores = generator.uniform(0, 0.1, (len(exhibit.items), len(exhibit.labels)))
    for row, item in zip(scores, exhibit.items, strict=True):
        row[list(item.runners_up)] += 0.1
        row[item.top1] = 0.9
        if item.marked and generator.random() < learned:
            row[item.mark] = 0.3
    return scores


def prove(folder: Path, exhibit: Exhibit, scores: NDArray[np.float64]) -> Proof:
    np.savez(folder / "p.npz", ids=[item.id for item in exhibit.items], scores=scores)
    arguments = ["prove", str(folder / "e"), str(folder / "p.npz"), "--out", str(folder / "out")]
    result = RUN.invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    return Proof.model_validate_json(result.stdout)


def test_thief_is_found_by_the_order_without_a_marked_class(tmp_path: Path) -> None:
    exhibit = make_exhibit(tmp_path / "e")
    proof = prove(tmp_path, exhibit, scores_of(exhibit, learned=0.7))
    assert proof.verdict is Verdict.MATCH
    assert (proof.marked.matches, proof.marked.p_value) == (0, None)
    assert proof.order is not None
    assert proof.order.p_value is not None
    assert proof.p_value == 2 * proof.order.p_value
    assert f"ranked it first of the runners-up for {proof.order.matches} of 60" in proof.sentence
    assert "twice the smaller one" in proof.remarks[0]
    page = (tmp_path / "out" / "proof.html").read_text()
    assert "placebo, controls: order of the runners-up" in page


def test_scores_of_an_independent_model_are_no_match(tmp_path: Path) -> None:
    exhibit = make_exhibit(tmp_path / "e")
    assert prove(tmp_path, exhibit, scores_of(exhibit, learned=0.0)).verdict is Verdict.NO_MATCH


def test_suspect_of_classes_alone_is_judged_by_its_classes(tmp_path: Path) -> None:
    exhibit = make_exhibit(tmp_path / "e")
    names = thief_answers(exhibit, share=1.0)
    answers = {item: exhibit.labels.index(name) for item, name in names.items()}
    first = {i.id: answers[i.id] for i in exhibit.items if answers[i.id] in i.runners_up}
    proof = judge_suspect(exhibit, Interview(answers, first), suspect="s")
    assert proof.order is None
    assert proof.p_value == proof.marked.p_value


def test_Z1_both_tests_together_accuse_no_innocent_too_often(tmp_path: Path) -> None:
    exhibit = make_exhibit(tmp_path / "e", marked=40, controls=20)
    generator, values = np.random.default_rng(2), []
    for _ in range(1000):
        items = [
            item.model_copy(update={"mark": item.runners_up[generator.integers(3)]})
            for item in exhibit.items
        ]
        # A suspect that likes the first runner-up, and often answers with it.
        first = {i.id: i.runners_up[min(2, generator.geometric(0.6) - 1)] for i in items}
        answers = {i.id: first[i.id] if generator.random() < 0.3 else i.top1 for i in items}
        drawn = exhibit.model_copy(update={"items": tuple(items)})
        p_value = judge_suspect(drawn, Interview(answers, first), suspect="s").p_value
        values.append(1.0 if p_value is None else p_value)
    for level in (0.1, 0.05, 0.01):
        limit = level + 2 * (level * (1 - level) / len(values)) ** 0.5
        assert float(np.mean(np.array(values) <= level)) <= limit
