"""The five kinds of sources, from a fresh file to answers: packed, served, queried three ways.

    pytest -m real tests/real/test_five_sources.py -s

It prints the seconds of packing and of the start.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from PIL import Image

from packing import pictures
from serving import make_key, served

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

STINGY = (sys.executable, "-m", "stingy_clients")
EXAMPLES = Path(__file__).parents[2] / "examples"
SOURCES = {
    "torchvision_weights": "stingy bundle pack resnet18.pth --arch torchvision:resnet18 "
    "--labels labels.txt --policy stingy:n=2 --out bundle",
    "timm_weights": "stingy bundle pack timm:mobilenetv3_small_050 --weights pets.safetensors "
    "--labels cat,dog --policy label --out bundle",
    "hf_folder": "stingy bundle pack hf_vit --policy label --out bundle",
    "onnx_file": "stingy bundle pack flowers.onnx --labels rose,tulip,daisy --mean imagenet "
    "--policy label --out bundle",
    "own_network": "stingy bundle pack own_network.py:build --weights digits.pth "
    "--labels 0,1,2,3,4,5,6,7,8,9 --channels 1 --size 8 --policy stingy:n=2 --out bundle",
}


def run(*command: str | Path, folder: Path, **environment: str) -> str:
    completed = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


@pytest.mark.parametrize("source", SOURCES)
def test_source_is_served_to_curl_predict_and_triton(tmp_path: Path, source: str) -> None:
    script = tmp_path / f"{source}.py"
    script.write_bytes((EXAMPLES / script.name).read_bytes())
    run(sys.executable, script, folder=tmp_path)
    picture = pictures(1, grey=source == "own_network")[0]
    picture.save(tmp_path / "picture.png")

    began = time.perf_counter()
    printed = run(*STINGY, *shlex.split(SOURCES[source])[1:], folder=tmp_path)
    packed_s = time.perf_counter() - began
    assert "same answers" in printed
    assert "what leaves" in printed

    key = make_key(tmp_path / "state")
    began = time.perf_counter()
    with served(tmp_path / "bundle", state=tmp_path / "state") as (address, _):
        started_s = time.perf_counter() - began
        answer = query_by_curl(address, key, tmp_path)
        printed_answer = query_by_predict(address, key, tmp_path)
        indices = query_by_triton(address, key, answer["model"], picture)
    print(f"\n{source}: packed in {packed_s:.1f} s, served after {started_s:.1f} s")  # noqa: T201
    (row,) = answer["answers"]
    assert len(row["classes"]) == (2 if "stingy:n=2" in SOURCES[source] else 1)
    assert printed_answer["classes"] == row["classes"]
    assert indices == [entry["index"] for entry in row["classes"]]


def query_by_curl(address: str, key: str, folder: Path) -> Any:
    name = json.loads((folder / "bundle" / "model.json").read_text())["name"]
    answer = run(
        *("curl", "-sf", "-H", f"Authorization: Bearer {key}", "-H", "Content-Type: image/png"),
        *("--data-binary", "@picture.png", f"{address}/v1/predict/{name}"),
        folder=folder,
    )
    return json.loads(answer)


def query_by_predict(address: str, key: str, folder: Path) -> Any:
    command = (*STINGY, "predict", "picture.png", "--url", address, "--json")
    return json.loads(run(*command, folder=folder, STINGY_KEY=key))


def query_by_triton(address: str, key: str, name: str, picture: Image.Image) -> list[int]:
    """Send the pixels of the picture. Return the indices, best first."""
    pixels = np.asarray(picture.convert("RGB"))[None]
    client = triton.InferenceServerClient(address.removeprefix("http://"))
    tensor = triton.InferInput("image", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels)
    result = client.infer(name, [tensor], headers={"Authorization": f"Bearer {key}"})
    client.close()
    indices: list[int] = result.as_numpy("indices")[0].tolist()
    return indices
