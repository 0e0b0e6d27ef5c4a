"""Whatever runs the model, the demo's audit buys the same transfer set; and where not."""

import importlib.util
import io
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
from stingy_attacker_eval.teachers import train_teachers
from stingy_server import Database, Keys

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
DEMO = files(stingy_attacker_eval) / "protocols" / "digits.toml"
POLICIES = {"normal": "open", "nasty": "open", "stingy": "stingy"}
IMAGES = 1797  # of each endpoint: 1,297 to learn from, and 500 to compare
# What an audit has bought, by the names of its files.
RunFiles = dict[str, bytes]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The demo's teachers, a bundle for each of its endpoints, as the demo serves them."""
    folder = tmp_path_factory.mktemp("bundles")
    torch.set_num_threads(1)
    teachers = {
        teacher.name: teacher.bundle
        for teacher in train_teachers(load_dataset("digits"), out=folder / "taught")
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
    return run_audit_against(folder, settings(folder, bundles))


def settings(
    folder: Path,
    bundles: list[Path],
    *,
    model: Callable[[Path], str] = lambda bundle: "",
    top: str = "",
) -> Path:
    """A settings file for these bundles; `model`: what stands below each, `top`: before them."""
    tables = [f'[[models]]\nbundle = "{bundle}"\n{model(bundle)}' for bundle in bundles]
    file = folder / "stingy.toml"
    file.write_text("\n".join(["allow_open = true", top, *tables]), "utf-8")
    return file


def run_audit_against(
    folder: Path, config: Path, *, endpoints: Sequence[str] = tuple(POLICIES)
) -> RunFiles:
    """What the demo's audit buys from `stingy serve` with these settings."""
    state = folder / "state"
    key = make_key(state, budget=IMAGES * len(endpoints))
    with served("--config", config, state=state, OMP_NUM_THREADS="1") as (url, _):
        return audited(folder, url, key, endpoints=endpoints)


def audited(
    folder: Path, url: str, key: str, *, endpoints: Sequence[str] = tuple(POLICIES)
) -> RunFiles:
    """The answers that `stingy audit run` has on disk afterwards; one student is trained too."""
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
    out = folder / "audit" / "bought"
    found = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("[!.]*.*")}
    for name in endpoints:  # in chunks of 64, and what they were bought from
        assert sum(file.startswith(f"{name}/transfer/") for file in found) == 21 + 1
        assert sum(file.startswith(f"{name}/evaluation/") for file in found) == 8 + 1
    return found


def by_torchserve(folder: Path, bundles: list[Path]) -> RunFiles:
    with torchserve(*bundles) as server:

        def model(bundle: Path) -> str:
            url = f"{server.url}/predictions/{bundle.name}"
            return f'engine = "torchserve"\nurl = "{url}"\nkey_file = "{server.key_file}"\n'

        return run_audit_against(folder, settings(folder, bundles, model=model))


def by_mlserver(
    folder: Path, bundles: list[Path], *, runtime: str = "Gated", tensors: str = "binary = false"
) -> RunFiles:
    with mlserver(*bundles, runtime=runtime) as upstream:

        def model(bundle: Path) -> str:
            url = f"{upstream}/v2/models/{bundle.name}/infer"
            return f'engine = "oip"\nurl = "{url}"\ntensors = {{ {tensors} }}\n'

        return run_audit_against(folder, settings(folder, bundles, model=model))


def by_mlserver_with_logits(folder: Path, bundles: list[Path]) -> RunFiles:
    tensors = 'datatype = "FP32", logits = "logits", binary = false'
    return by_mlserver(folder, bundles, runtime="Logits", tensors=tensors)


def by_ray(folder: Path, bundles: list[Path]) -> RunFiles:
    few = "[ray]\nedge = { num_cpus = 0.1 }\nmodel = { min_replicas = 2, num_cpus = 0.1 }\n"
    settings(folder, bundles, top=f'state = "state"\n{few}')
    key = make_key(folder / "state", budget=IMAGES * len(POLICIES))
    with on_ray(folder) as server:
        return audited(folder, server.url, key)


@pytest.mark.parametrize(
    "by",
    [
        pytest.param(by_torchserve, marks=needs_torchserve()),
        pytest.param(by_mlserver, marks=needs_mlserver()),
        pytest.param(by_mlserver_with_logits, marks=needs_mlserver()),
        pytest.param(by_ray, marks=needs_ray()),
    ],
)
def test_demo_audit_buys_the_same_transfer_set_from_each_engine(
    by: Callable[[Path, list[Path]], RunFiles],
    tmp_path: Path,
    bundles: list[Path],
    embedded: RunFiles,
) -> None:
    found = by(tmp_path, bundles)
    assert sorted(found) == sorted(embedded)
    assert [name for name in found if found[name] != embedded[name]] == []


def needs(name: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(name) is None
    return pytest.mark.skipif(missing, reason=f"{name} is not installed")


@pytest.mark.parametrize(
    "runtime",
    [pytest.param(name, marks=needs(name)) for name in ("onnxruntime", "openvino")],
)
def test_runtime_moves_no_class_and_few_scores_by_one_step(
    runtime: str, tmp_path: Path, bundles: list[Path], embedded: RunFiles
) -> None:
    """Behind `open`, where all ten scores are told, a runtime may be refused at start-up."""
    config = settings(tmp_path, bundles[-1:], top=f'runtime = "{runtime}"\n')
    found = run_audit_against(tmp_path, config, endpoints=["stingy"])
    assert found.keys() < embedded.keys()
    assert moved(found, embedded, "stingy") <= 0.01


@needs("onnxruntime")
def test_fused_artefact_moves_no_class_and_few_scores_by_a_step(
    tmp_path: Path, bundles: list[Path], embedded: RunFiles
) -> None:
    artefacts = [tmp_path / bundle.name for bundle in bundles]
    for bundle, artefact in zip(bundles, artefacts, strict=True):
        stingy("bundle", "export", bundle, "--fuse", "--allow-open", "--out", artefact)
    found = run_audit_against(tmp_path, settings(tmp_path, artefacts))
    assert found.keys() == embedded.keys()
    assert moved(found, embedded, "stingy") <= 0.01
    assert max(moved(found, embedded, name) for name in ("normal", "nasty")) <= 0.03


def moved(found: RunFiles, expected: RunFiles, endpoint: str) -> float:
    """The share of images with a score that differs: each by a step, and no class does."""
    (indices, scores), (same, near) = answers(found, endpoint), answers(expected, endpoint)
    assert len(indices) == IMAGES
    assert np.array_equal(indices, same)
    steps = np.abs(np.rint(1000 * (scores - near))).max(axis=1)
    assert steps.max() <= 1
    return float((steps > 0).mean())


def answers(
    found: RunFiles, endpoint: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Indices and scores of all images, [images, N] each."""
    names = [name for name in sorted(found) if name.startswith(endpoint) and name.endswith(".npz")]
    parts = [np.load(io.BytesIO(found[name]), allow_pickle=False) for name in names]
    return (
        np.concatenate([part["indices"] for part in parts]),
        np.concatenate([part["scores"] for part in parts]),
    )
