"""Marks in each engine: made where the logits are, and refused at the start where they are not."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from hostile import document, says, tensor, upstream
from marking import IMAGES, SHARE, marked_settings, write_secret
from serving import make_bundle, make_settings, start_one
from stingy_server import ConfigurationError, ModelSettings, Settings, create_app
from stingy_server.inference.flags import Flag
from stingy_server.models.endpoints import start_endpoints, unmarkable
from stingy_server.models.loading import load_bundles
from stingy_server.settings import MarkSettings, Tier
from upstream_edge import edge

pytestmark = pytest.mark.anyio


def flags(count: int, *rows: int) -> list[Flag | None]:
    return [Flag(1, 3, True) if row in rows else None for row in range(count)]


async def test_Y1_flagged_images_share_passes_and_change_no_other(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"), batch_size=7, strict=True)
    engine = start_one(settings).engine
    plain = (await engine.predict(IMAGES, caller="a")).answer
    rows = (0, 6, 7, 20, 41, 127)  # in several parts of a batch
    flagged = flags(len(IMAGES), *rows)
    answers = await asyncio.gather(
        engine.predict(IMAGES[:3], caller="b"),
        engine.predict(IMAGES, caller="a", flags=flagged),
        *(engine.predict(IMAGES[row : row + 1], caller="c") for row in rows),
    )
    await engine.close()
    changed = [row for row in range(len(IMAGES)) if not same(answers[1].answer, plain, row)]
    assert changed == [*rows]
    for row in rows:
        each = flagged[row]
        assert each is not None
        assert answers[1].answer.indices[row, 0] == each.best[1]
        assert plain.indices[row].tolist() == [*each.best[:2]]
    assert all(same(answers[0].answer, plain, row) for row in range(3))
    for row, answer in zip(rows, answers[2:], strict=True):
        assert torch.equal(answer.answer.indices[0], plain.indices[row])


def same(one: Any, other: Any, row: int) -> bool:
    return torch.equal(one.indices[row], other.indices[row]) and torch.equal(
        one.scores[row], other.scores[row]
    )


async def test_upstream_with_logits_is_marked_at_the_edge(tmp_path: Path) -> None:
    logits = [0.0, 5.0, 1.0, 4.0, 3.0, 2.0, -1.0, -2.0, -3.0, -4.0]
    raw = document(tensor("raw", "FP32", [1, 10], logits))
    with upstream(says(raw)) as url:
        settings = edge(
            tmp_path, url, tensors={"logits": "raw", "datatype": "FP32", "binary": False}
        )
        settings = with_marks(settings, tmp_path)
        engine = start_one(settings).engine
        flagged: list[Flag | None] = [Flag(2, 3, True)]
        marked = await engine.predict(IMAGES[:1], caller="a", flags=flagged)
        plain = await engine.predict(IMAGES[:1], caller="a")
        await engine.close()
    assert plain.answer.indices.tolist() == [[1, 3]]
    assert marked.answer.indices.tolist() == [[4, 3]]  # as if 1 and 4 had exchanged their logits
    assert flagged[0] is not None
    assert flagged[0].best == (1, 3, 4, 5)


def with_marks(settings: Settings, tmp_path: Path) -> Settings:
    marks = MarkSettings(secret_file=write_secret(tmp_path / "secret"), share=SHARE)
    return settings.model_copy(update={"marks": marks, "tiers": {"suspect": Tier(mark=True)}})


@pytest.mark.parametrize("engine", ["torchserve", "oip"])
def test_Y2_engine_that_returns_answers_refuses_marks(tmp_path: Path, engine: Any) -> None:
    bundle = make_bundle(tmp_path / "b")
    model = ModelSettings(bundle=bundle, engine=engine, url="http://127.0.0.1:9/predictions/digits")
    settings = with_marks(make_settings(tmp_path / "s", model), tmp_path)
    models, _ = load_bundles(settings)
    _, faults = start_endpoints(models, settings, secret=bytes(16))
    assert f"digits: expected an engine that gets logits, got {engine}" in "\n".join(faults)
    plain = settings.model_copy(update={"tiers": {}})
    assert unmarkable(models[0], plain, elsewhere=False) == []


def test_Y2_replicas_and_bending_policies_refuse_marks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = marked_settings(tmp_path)
    ((model,), _) = load_bundles(settings)
    assert unmarkable(model, settings, elsewhere=False) == []
    (fault,) = unmarkable(model, settings, elsewhere=True)
    assert "got replicas on Ray" in fault
    monkeypatch.setattr(type(model.policy), "keeps_top1", False)
    (fault,) = unmarkable(model, settings, elsewhere=False)
    assert "expected a policy with the top-1 first" in fault
    with pytest.raises(ConfigurationError, match="top-1 first"):
        create_app(settings)
