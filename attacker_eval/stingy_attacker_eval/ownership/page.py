"""The HTML page of a proof; it opens without a network."""

from pathlib import Path

from stingy_attacker_eval.files import write_atomic, write_json
from stingy_attacker_eval.ownership.proof import Proof, format_p
from stingy_attacker_eval.ownership.statistics import MatchTest
from stingy_attacker_eval.templates import open_templates

DOCUMENT = "proof.json"
PAGE = "proof.html"


def write_proof(folder: Path, proof: Proof) -> Path:
    """Write `proof.json` and `proof.html` to a folder, and return the path of the page."""
    write_json(folder / DOCUMENT, proof.model_dump(mode="json"))
    page = folder / PAGE
    write_atomic(page, render_proof(proof).encode())
    return page


def render_proof(proof: Proof) -> str:
    """Render the whole page."""
    environment = open_templates("stingy_attacker_eval.ownership")
    environment.filters["p"] = format_p
    rows: list[tuple[str, MatchTest | None]] = [
        ("marked inputs: classes", proof.marked),
        ("marked inputs: order of the runners-up", proof.order),
        ("placebo, controls: classes", proof.controls.placebo),
        ("placebo, controls: order of the runners-up", proof.controls.placebo_order),
    ]
    rows = [(title, test) for title, test in rows if test is not None]
    return environment.get_template("proof.html.j2").render(proof=proof, rows=rows)
