"""The demo's audit buys the same transfer set from every engine, or differs in few last digits."""

import importlib.util
import json
import os
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Sequence
from contextlib import closing
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

import stingy_attacker_eval
from model_servers import mlserver, needs_mlserver, needs_torchserve, stingy, torchserve
from ray_servers import needs_ray, on_ray
from serving import STINGY, make_key, served
from stingy_attacker_eval.datasets.datasets import load_dataset
from stingy_attacker_eval.lab.teachers import train_teachers
from stingy_server import Database, Keys

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
DEMO = files(stingy_attacker_eval) / "protocols" / "digits.toml"
POLICIES = {"normal": "open", "nasty": "open", "stingy": "stingy"}
IMAGES = 1797  # bought from each endpoint: 1,297 for training, 500 for comparison
# The content of the files that an audit has bought, by their names.
RunFiles = dict[str, bytes]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Train the demo's teachers and pack a bundle for each endpoint, as the demo serves them."""
    folder = tmp_path_factory.mktemp("bundles")
    torch.set_num_threads(1)
    teachers = {
        teacher.name: teacher.bundle
        for teacher in train_teachers(load_dataset("digits"), out=folder / "trained")
    }
    for name, policy in POLICIES.items():
        shutil.copytree(teachers["nasty" if name == "nasty" else "normal"], folder / name)
        manifest = folder / name / "model.json"
        document = json.loads(manifest.read_text("utf-8")) | {"name": name, "policy": policy}
        manifest.write_text(json.dumps(document), "utf-8")
    return [folder / name for name in POLICIES]


@pytest.fixture(scope="module")
def embedded(bundles: list[Path], tmp_path_factory: pytest.TempPathFactory) -> RunFiles:
    folder = tmp_path_factory.mktemp("embedded")
    return buy_from_settings(folder, settings(folder, bundles))


def settings(
    folder: Path,
    bundles: list[Path],
    *,
    model: Callable[[Path], str] = lambda bundle: "",
    top: str = "",
) -> Path:
    """Write a settings file for some bundles.

    Args:
        model: returns more settings for the model of a bundle.
        top: settings before the models.
    """
    tables = [f'[[models]]\nbundle = "{bundle}"\n{model(bundle)}' for bundle in bundles]
    file = folder / "stingy.toml"
    file.write_text("\n".join(["allow_open = true", top, *tables]), "utf-8")
    return file


def buy_from_settings(
    folder: Path, config: Path, *, endpoints: Sequence[str] = tuple(POLICIES)
) -> RunFiles:
    """Serve with these settings and return the files that the demo's audit buys."""
    state = folder / "state"
    key = make_key(state, budget=IMAGES * len(endpoints))
    with served("--config", config, state=state, OMP_NUM_THREADS="1") as (url, _):
        return buy_by_url(folder, url, key, endpoints=endpoints)


def buy_by_url(
    folder: Path, url: str, key: str, *, endpoints: Sequence[str] = tuple(POLICIES)
) -> RunFiles:
    """Run `stingy audit run` with one student and return the files of bought answers."""
    head, *tables = DEMO.read_text("utf-8").split("[[endpoints]]")
    chosen = [table for table in tables if tomllib.loads(table)["name"] in endpoints]
    protocol = folder / "protocol.toml"
    protocol.write_text("[[endpoints]]".join([head, *chosen]), "utf-8")
    done = subprocess.run(
        [
            *(*STINGY, "audit", "run", protocol, "--out", folder / "audit", "--url", url),
            *("--only", "stingy/label_only/cnn_tiny/0"),
        ],
        env=os.environ | {"STINGY_KEY": key, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    with closing(Database(folder / "state")) as database:
        assert [budget.used for _, budget in Keys(database).all()] == [IMAGES * len(endpoints)]
    out = folder / "audit" / "answers"
    found = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("[!.]*.*")}
    files = ("answers.bin", "ledger.json")
    assert sorted(found) == sorted(f"{name}/{file}" for name in endpoints for file in files)
    return found


def buy_from_torchserve(folder: Path, bundles: list[Path]) -> RunFiles:
    with torchserve(*bundles) as server:

        def model(bundle: Path) -> str:
            url = f"{server.url}/predictions/{bundle.name}"
            return f'engine = "torchserve"\nurl = "{url}"\nkey_file = "{server.key_file}"\n'

        return buy_from_settings(folder, settings(folder, bundles, model=model))


def buy_from_mlserver(
    folder: Path, bundles: list[Path], *, runtime: str = "Gated", tensors: str = "binary = false"
) -> RunFiles:
    with mlserver(*bundles, runtime=runtime) as upstream:

        def model(bundle: Path) -> str:
            url = f"{upstream}/v2/models/{bundle.name}/infer"
            return f'engine = "oip"\nurl = "{url}"\ntensors = {{ {tensors} }}\n'

        return buy_from_settings(folder, settings(folder, bundles, model=model))


def buy_from_mlserver_with_logits(folder: Path, bundles: list[Path]) -> RunFiles:
    tensors = 'datatype = "FP32", logits = "logits", binary = false'
    return buy_from_mlserver(folder, bundles, runtime="Logits", tensors=tensors)


def buy_from_ray(folder: Path, bundles: list[Path]) -> RunFiles:
    replicas = "[ray]\nedge = { num_cpus = 0.1 }\nmodel = { min_replicas = 2, num_cpus = 0.1 }\n"
    settings(folder, bundles, top=f'state = "state"\n{replicas}')
    key = make_key(folder / "state", budget=IMAGES * len(POLICIES))
    with on_ray(folder) as server:
        return buy_by_url(folder, server.url, key)


@pytest.mark.parametrize(
    "buy",
    [
        pytest.param(buy_from_torchserve, marks=needs_torchserve()),
        pytest.param(buy_from_mlserver, marks=needs_mlserver()),
        pytest.param(buy_from_mlserver_with_logits, marks=needs_mlserver()),
        pytest.param(buy_from_ray, marks=needs_ray()),
    ],
)
def test_audit_buys_the_same_bytes_from_every_engine(
    buy: Callable[[Path, list[Path]], RunFiles],
    tmp_path: Path,
    bundles: list[Path],
    embedded: RunFiles,
) -> None:
    found = buy(tmp_path, bundles)
    assert sorted(found) == sorted(embedded)
    assert [name for name in found if found[name] != embedded[name]] == []


def needs_module(name: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(name) is None
    return pytest.mark.skipif(missing, reason=f"{name} is not installed")


@pytest.mark.parametrize(
    "runtime",
    [pytest.param(name, marks=needs_module(name)) for name in ("onnxruntime", "openvino")],
)
def test_other_runtime_moves_no_class_and_few_scores_by_a_step(
    runtime: str, tmp_path: Path, bundles: list[Path], embedded: RunFiles
) -> None:
    """Test only `stingy`: behind `open`, with all ten scores, a runtime may be refused."""
    config = settings(tmp_path, bundles[-1:], top=f'runtime = "{runtime}"\n')
    found = buy_from_settings(tmp_path, config, endpoints=["stingy"])
    assert found.keys() < embedded.keys()
    assert share_moved(found, embedded, "stingy") <= 0.01


@needs_module("onnxruntime")
def test_fused_artefacts_move_no_class_and_few_scores_by_a_step(
    tmp_path: Path, bundles: list[Path], embedded: RunFiles
) -> None:
    artefacts = [tmp_path / bundle.name for bundle in bundles]
    for bundle, artefact in zip(bundles, artefacts, strict=True):
        stingy("bundle", "export", bundle, "--fuse", "--allow-open", "--out", artefact)
    found = buy_from_settings(tmp_path, settings(tmp_path, artefacts))
    assert found.keys() == embedded.keys()
    assert share_moved(found, embedded, "stingy") <= 0.01
    assert max(share_moved(found, embedded, name) for name in ("normal", "nasty")) <= 0.03


def share_moved(found: RunFiles, expected: RunFiles, endpoint: str) -> float:
    """Return the share of images with a moved score.

    The classes must be equal, and no score may differ by more than one step.
    """
    (indices, scores), (same, near) = answers(found, endpoint), answers(expected, endpoint)
    assert len(indices) == IMAGES
    assert np.array_equal(indices, same)
    steps = np.abs(np.rint(1000 * (scores - near))).max(axis=1)
    assert steps.max() <= 1
    return float((steps > 0).mean())


def answers(
    found: RunFiles, endpoint: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the indices and scores of all images, [images, N] each."""
    support = json.loads(found[f"{endpoint}/ledger.json"])["endpoint"]["support"]
    # As `CachedOracle` writes an answer.
    fields = [("digest", "u1", (16,)), ("indices", "<i8", (support,))]
    record = np.dtype([*fields, ("scores", "<f4", (support,)), ("checksum", "<u4")])
    records = np.frombuffer(found[f"{endpoint}/answers.bin"], record)
    return records["indices"], records["scores"]
