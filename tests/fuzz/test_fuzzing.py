"""H8, briefly: the fuzzers of benchmarks/fuzz, with the same inputs in each run."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from fuzzing import check_api, check_image, check_oip, fix_checksums, image_seeds, oip_seeds
from serving import make_bundle, make_key, make_settings, served
from stingy_server import create_app

ROOT = Path(__file__).parents[2]
RUN = ROOT / "benchmarks" / "fuzz" / "run.py"


def test_fuzzing_seeds_pass_the_checks() -> None:
    for seed in oip_seeds():
        check_oip(seed)
    for seed in image_seeds():
        check_image(seed)
        assert fix_checksums(seed) == seed


@pytest.mark.skipif(find_spec("atheris") is None, reason="needs atheris: pip install '.[fuzz]'")
@pytest.mark.parametrize(("target", "runs"), [("oip", 20_000), ("image", 2_000)])
def test_H8_no_bytes_break_a_parser(tmp_path: Path, target: str, runs: int) -> None:
    done = subprocess.run(
        [sys.executable, RUN, target, "--runs", str(runs), "--minutes", "2", "--out", tmp_path],
        env={**os.environ, "PYTHONWARNINGS": "default"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"Done {runs} runs" in done.stderr


@pytest.mark.skipif(
    find_spec("schemathesis") is None, reason="needs schemathesis: pip install '.[fuzz]'"
)
@pytest.mark.filterwarnings("default")  # of schemathesis and its dependencies
def test_H8_input_allowed_by_openapi_is_answered_or_refused(tmp_path: Path) -> None:
    state = tmp_path / "state"
    bundle = make_bundle(tmp_path / "bundle")
    app = create_app(make_settings(state, bundle))
    document = app.openapi()
    app.state.service.database.close()
    key = make_key(state)
    with served(bundle, state=state) as (url, process):
        assert check_api(document, url, key, examples=10, fresh=False) > 100
        assert process.poll() is None
        process.terminate()
        process.wait(30)
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
