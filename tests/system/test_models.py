"""`stingy models` against a real server: load, list, refuse, unload."""

import json
import subprocess
from pathlib import Path

import httpx

from serving import STINGY, make_bundle, make_key, png, random_images, served, server_environment

IMAGE = png(random_images(1)[0])


def models(*arguments: str | Path, state: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*STINGY, "models", *arguments, "--state", state],
        env=server_environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_version_is_loaded_into_and_unloaded_from_a_live_server(tmp_path: Path) -> None:
    state = tmp_path / "state"
    key = make_key(state)
    second = make_bundle(tmp_path / "2", version="2", seed=1)
    with served(make_bundle(tmp_path / "1"), state=state) as (url, _):

        def version(path: str) -> str:
            headers = {"Authorization": f"Bearer {key}"}
            answer = httpx.post(f"{url}{path}", content=IMAGE, headers=headers)
            return str(answer.json().get("version", answer.status_code))

        assert version("/v1/predict/digits") == "1"
        refused = models("load", second, state=state)
        assert refused.returncode == 2
        assert "expected a share" in refused.stderr
        loaded = models("load", second, "--share", "1", state=state)
        assert loaded.returncode == 0, loaded.stderr
        assert "in 1 process." in loaded.stdout
        assert "digits is served in the versions 1, 2" in loaded.stderr
        assert version("/v1/predict/digits") == "2"
        repeated = models("load", second, "--share", "1", state=state)
        assert (repeated.returncode, "is served already" in repeated.stderr) == (2, True)
        listed = json.loads(models("list", "--json", state=state).stdout)
        assert [(row["name"], row["version"], row["share"]) for row in listed] == [
            ("digits", "1", None),
            ("digits", "2", 1.0),
        ]
        assert "the rest" in models("list", state=state).stdout
        assert models("unload", "digits", "1", state=state).returncode == 2  # it is in the settings
        assert models("unload", "digits", "2", state=state).returncode == 0
        assert version("/v1/predict/digits") == "1"
    assert "no server runs" in models("load", second, "--share", "1", state=state).stdout


def test_P7_second_policy_over_one_model_is_named_when_loaded(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    bundle = make_bundle(tmp_path / "1", policy="label")
    with served(bundle, state=state):
        loaded = models("load", bundle, "--name", "wide", "--policy", "stingy:n=5", state=state)
        assert loaded.returncode == 0, loaded.stderr
        assert "same weights: together they are at least as open as wide 1" in loaded.stderr
        twin = models("load", bundle, "--name", "twin", "--policy", "open", state=state)
        assert (twin.returncode, "allow_open" in twin.stderr) == (2, True)


def test_P11_looser_version_is_refused_by_a_live_server(tmp_path: Path) -> None:
    state = tmp_path / "state"
    second = make_bundle(tmp_path / "2", version="2", seed=1, policy="stingy:n=5")
    with served(make_bundle(tmp_path / "1", policy="stingy:n=3"), state=state):
        refused = models("load", second, "--share", "0", "--policy", "stingy:n=5", state=state)
        assert (refused.returncode, "--looser" in refused.stderr) == (2, True)
        inherited = models("load", second, "--share", "0", state=state)
        assert inherited.returncode == 0, inherited.stderr
        assert "the policy in service: stingy: top 3 of 10 classes" in inherited.stdout
        assert models("unload", "digits", "2", state=state).returncode == 0
        looser = ("--policy", "stingy:n=5", "--looser")
        assert models("load", second, "--share", "0", *looser, state=state).returncode == 0
        listed = json.loads(models("list", "--json", state=state).stdout)
        assert [row["written"] for row in listed] == ["stingy:n=3", "stingy:n=5"]
