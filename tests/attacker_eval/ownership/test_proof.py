"""`stingy prove`: the sentence, the document and the page, and every bad input in a sentence."""

import json
from html import unescape
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from exhibits import (
    innocent_answers,
    make_exhibit,
    suspect_server,
    thief_answers,
    write_predictions,
)
from stingy_attacker_eval.cli import app
from stingy_attacker_eval.ownership.interview import Interview
from stingy_attacker_eval.ownership.proof import LIMITS, Proof, Verdict, judge_suspect
from stingy_clients.documents.exhibit import DOCUMENT, Exhibit

RUN = CliRunner()


def prove_file(folder: Path, answers: dict[str, str], *options: str) -> tuple[int, str, str]:
    predictions = write_predictions(folder / "p.json", answers)
    arguments = ["prove", str(folder / "e"), str(predictions), "--out", str(folder / "out")]
    result = RUN.invoke(app, [*arguments, *options])
    return result.exit_code, result.stdout, result.stderr


def proof_of(folder: Path, answers: dict[str, str]) -> Proof:
    status, output, errors = prove_file(folder, answers, "--json")
    assert status == 0, errors
    return Proof.model_validate_json(output)


def test_thief_is_found_and_innocent_is_not(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name, answers, verdict in (
        ("a", thief_answers, Verdict.MATCH),
        ("b", innocent_answers, Verdict.NO_MATCH),
    ):
        exhibit = make_exhibit(tmp_path / name / "e")
        proof = proof_of(tmp_path / name, answers(exhibit))
        assert proof.verdict is verdict
        assert proof.limits == LIMITS
        assert proof.keys == {"key0": 30, "key1": 30}
        assert proof.controls.placebo is not None
        assert proof.digest == exhibit.digest


def test_sentence_has_matches_chance_and_p_value(tmp_path: Path) -> None:
    exhibit = make_exhibit(tmp_path / "e")
    status, output, _ = prove_file(tmp_path, thief_answers(exhibit, share=1.0))
    assert status == 0
    assert output.splitlines()[0] == (
        "Match: the suspect gave the marked class for 60 of 60 marked inputs, where an independent "
        "model would give 20.0 by chance (p = 2.4e-29), so the suspect's answers depend on marks "
        "that only this endpoint gave."
    )


def test_page_has_the_verdict_limits_and_inputs_offline(tmp_path: Path) -> None:
    exhibit = make_exhibit(tmp_path / "e", marked=40, controls=40)
    proof = proof_of(tmp_path, thief_answers(exhibit))
    page = unescape((tmp_path / "out" / "proof.html").read_text())
    assert proof.sentence in page
    assert "://" not in page
    assert "<script" not in page
    for item in exhibit.marked:
        assert item.sha256 in page
    assert exhibit.commitment in page
    document = json.loads((tmp_path / "out" / "proof.json").read_text())
    assert Proof.model_validate(document) == proof


def test_Z3_changed_byte_breaks_the_exhibit(tmp_path: Path) -> None:
    exhibit = make_exhibit(tmp_path / "e", marked=8, controls=8)
    for name in (DOCUMENT, exhibit.items[3].file, exhibit.items[12].file):
        path = tmp_path / "e" / name
        whole = path.read_bytes()
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        status, output, errors = prove_file(tmp_path, {})
        assert (status, output) == (2, "")
        assert len(errors.splitlines()) == 1
        path.write_bytes(whole)
    assert prove_file(tmp_path, thief_answers(exhibit))[0] == 0


def test_Z2_few_marks_give_the_missing_number_and_no_p_value(tmp_path: Path) -> None:
    exhibit = make_exhibit(tmp_path / "e", marked=6, controls=40)
    proof = proof_of(tmp_path, thief_answers(exhibit, share=1.0))
    assert proof.verdict is Verdict.TOO_LITTLE_EVIDENCE
    assert proof.marked.p_value is None
    assert "about 1 marked inputs are missing" in proof.sentence


def test_Z2_suspect_of_other_classes_gets_no_p_value(tmp_path: Path) -> None:
    exhibit = make_exhibit(tmp_path / "e")
    answers = thief_answers(exhibit)
    renamed = {item: f"wolf {label}" for item, label in answers.items()}
    proof = proof_of(tmp_path, renamed)
    assert (proof.verdict, proof.marked.p_value) == (Verdict.OTHER_CLASSES, None)
    assert '"wolf class 0"' in proof.sentence


@pytest.mark.parametrize("kind", ["shifted", "constant"])
def test_Z2_unrelated_suspect_gets_no_p_value(tmp_path: Path, kind: str) -> None:
    exhibit = make_exhibit(tmp_path / "e")
    shifted = {exhibit.labels[i]: exhibit.labels[(i + 1) % 10] for i in range(10)}
    answers = {
        item: shifted[label] if kind == "shifted" else "class 0"
        for item, label in thief_answers(exhibit).items()
    }
    proof = proof_of(tmp_path, answers)
    assert (proof.verdict, proof.marked.p_value) == (Verdict.OTHER_CLASSES, None)
    assert "another order" in proof.sentence


def test_single_runner_up_is_compared_with_the_controls(tmp_path: Path) -> None:
    exhibit = make_exhibit(tmp_path / "e", runners_up=1)
    proof = proof_of(tmp_path, thief_answers(exhibit))
    assert proof.verdict is Verdict.MATCH
    assert proof.controls.placebo is None
    assert "Fisher" in (tmp_path / "out" / "proof.html").read_text()


def test_exhibit_without_marks_is_refused(tmp_path: Path) -> None:
    make_exhibit(tmp_path / "e", marked=0)
    status, _, errors = prove_file(tmp_path, {})
    assert status == 2
    assert "no answer was marked yet" in errors


def test_missing_predictions_are_counted_and_named(tmp_path: Path) -> None:
    exhibit = make_exhibit(tmp_path / "e")
    answers = thief_answers(exhibit)
    half = dict(list(answers.items())[::2])
    proof = proof_of(tmp_path, half)
    assert (proof.answered, proof.unanswered) == (60, 60)
    assert proof.remarks[0] == "60 questions have no answer."
    assert prove_file(tmp_path, {"a": "class 1"})[0] == 2


def test_controls_that_match_unsold_marks_are_reported(tmp_path: Path) -> None:
    exhibit = make_exhibit(tmp_path / "e")
    interview = Interview({item.id: item.mark for item in exhibit.items})
    relabelled = [item.model_copy(update={"top1": item.mark}) for item in exhibit.controls]
    items = (*exhibit.marked, *relabelled)
    proof = judge_suspect(exhibit.model_copy(update={"items": items}), interview, suspect="s")
    assert any("do not trust this exhibit" in remark for remark in proof.remarks)


def test_suspect_that_refuses_midway_is_judged_by_its_answers(tmp_path: Path) -> None:
    exhibit = make_exhibit(tmp_path / "e")
    by_image = images_of(exhibit, tmp_path / "e", thief_answers(exhibit, share=1.0))
    left = [100]

    def reply(path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        left[0] -= 1
        document = json.dumps({"class": by_image[body]}).encode()
        return (200 if left[0] >= 0 else 403), {}, document

    template = tmp_path / "t.toml"
    template.write_text('label = "class"\n')
    with suspect_server(reply) as server:
        options = ["--template", str(template), "--out", str(tmp_path / "out"), "--json"]
        result = RUN.invoke(app, ["prove", str(tmp_path / "e"), server.url, *options])
    proof = Proof.model_validate_json(result.stdout)
    assert (proof.verdict, proof.answered) == (Verdict.MATCH, 100)
    assert "got 403" in proof.remarks[0]


def images_of(exhibit: Exhibit, folder: Path, answers: dict[str, str]) -> dict[bytes, str]:
    return {(folder / item.file).read_bytes(): answers[item.id] for item in exhibit.items}


def test_suspect_that_refuses_everything_is_a_sentence(tmp_path: Path) -> None:
    make_exhibit(tmp_path / "e", marked=4, controls=4)
    with suspect_server(lambda path, body: (401, {}, b"{}")) as server:
        url = server.url
        options = ["--model", "pets", "--key", "key-1", "--out", str(tmp_path / "out")]
        result = RUN.invoke(app, ["prove", str(tmp_path / "e"), url, *options])
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "expected answers from the suspect, got none: expected the status 200 from the suspect, "
        "got 401"
    ]
    assert "key-1" not in result.output


@pytest.mark.parametrize(
    ("suspect", "options", "text"),
    [
        ("http://x", (), "got neither"),
        ("http://x", ("--model", "m", "--template"), "got both"),
        ("p.json", ("--model", "m"), "got a file"),
        ("absent.json", (), "got none at"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    tmp_path: Path, suspect: str, options: tuple[str, ...], text: str
) -> None:
    make_exhibit(tmp_path / "e", marked=2, controls=2)
    template = tmp_path / "t.toml"
    template.write_text('label = "class"\n')
    filled = [part for o in options for part in ([o, str(template)] if o == "--template" else [o])]
    result = RUN.invoke(app, ["prove", str(tmp_path / "e"), suspect, *filled])
    assert result.exit_code == 2
    assert text in result.stderr
    assert httpx.URL("http://x").host not in result.stdout
