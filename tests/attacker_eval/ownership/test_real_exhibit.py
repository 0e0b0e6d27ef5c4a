"""The exhibit of a real server convicts a suspect that repeats its answers, and no other."""

from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from exhibits import write_predictions
from infer_requests import outputs, tensor
from marking import IMAGES, SECRET, marked_key, marked_settings
from serving import running
from stingy_attacker_eval.cli import app
from stingy_attacker_eval.ownership.proof import Proof, Verdict
from stingy_clients.documents.exhibit import Exhibit
from stingy_server import Database
from stingy_server.marks.export import Subject, export
from stingy_server.marks.secret import MarkSecret

RUN = CliRunner()
LABELS = tuple(f"class {number}" for number in range(10))


async def export_marks(folder: Path) -> Exhibit:
    """Answer the images with marks, and export the exhibit to `e`."""
    settings = marked_settings(folder)
    headers = {"Authorization": f"Bearer {marked_key(settings.state)}"}
    async with running(settings) as (client, _):
        response = await client.post(
            "/v2/models/digits/infer", json=tensor(IMAGES), headers=headers
        )
        assert outputs(response)
    assert settings.marks is not None
    with closing(Database(settings.state, create=False)) as database:
        return export(
            database,
            MarkSecret(SECRET.value.hex().encode()),
            folder / "e",
            subject=Subject("digits", LABELS, (8, 8)),
            settings=settings.marks,
            key=None,
            detail={},
        ).exhibit


@pytest.mark.anyio
async def test_servers_exhibit_convicts_its_answers_alone(tmp_path: Path) -> None:
    exhibit = await export_marks(tmp_path)
    assert len(exhibit.marked) >= 7
    for name, verdict in (("answer", Verdict.MATCH), ("top1", Verdict.TOO_LITTLE_EVIDENCE)):
        answers = {
            item.id: LABELS[item.answer[0] if name == "answer" else item.top1]
            for item in exhibit.items
        }
        path = write_predictions(tmp_path / f"{name}.json", answers)
        arguments = ["prove", str(tmp_path / "e"), str(path), "--out", str(tmp_path / name)]
        result = RUN.invoke(app, [*arguments, "--json"])
        proof = Proof.model_validate_json(result.stdout)
        assert proof.verdict is verdict
        assert proof.questions[0].writer is not None
