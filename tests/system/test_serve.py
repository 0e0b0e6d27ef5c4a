"""A real `stingy serve`, queried by curl and an unmodified Triton client, stopped by signals."""

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton

from serving import (
    STINGY,
    make_bundle,
    png,
    random_images,
    served,
    server_environment,
)
from stingy_clients import AuthError, BudgetExhausted, Client
from stingy_server import Database, Keys

IMAGES = random_images(6)


def stingy(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*STINGY, *arguments], env=server_environment(), capture_output=True, text=True, timeout=60
    )


def create_key(state: Path, *, budget: int) -> dict[str, str]:
    completed = stingy(
        "keys", "create", "alice", "--budget", str(budget), "--state", state, "--json"
    )
    assert completed.returncode == 0, completed.stderr
    printed: dict[str, str] = json.loads(completed.stdout)
    assert set(printed) == {"id", "key"}
    return printed


def list_keys(state: Path) -> list[dict[str, Any]]:
    printed: list[dict[str, Any]] = json.loads(
        stingy("keys", "list", "--state", state, "--json").stdout
    )
    return printed


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "normal"
    return make_bundle(folder, name="normal", policy="stingy:n=4")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Iterator[tuple[str, Path]]:
    """Start a server for several tests, and yield its address and its state folder."""
    state = tmp_path_factory.mktemp("server") / "state"
    with served(bundle, "--policy", "stingy", state=state) as (url, _):
        yield url, state


def test_curl_python_and_triton_clients_get_the_same_answers(
    tmp_path: Path, server: tuple[str, Path]
) -> None:
    url, state = server
    created = create_key(state, budget=500)
    headers = {"Authorization": f"Bearer {created['key']}"}
    (tmp_path / "image.png").write_bytes(png(IMAGES[0]))
    answered = subprocess.run(
        (
            *("curl", "-sS", "--data-binary", f"@{tmp_path / 'image.png'}"),
            *("-H", f"Authorization: {headers['Authorization']}", f"{url}/v1/predict/normal"),
        ),
        capture_output=True,
        check=True,
    )
    classes = json.loads(answered.stdout)["answers"][0]["classes"]
    assert len(classes) == 2

    with Client(url, created["key"]) as client:
        answers = client.predict_batch(IMAGES, model="normal")
        assert [entry.index for entry in answers[0].classes] == [c["index"] for c in classes]
        assert np.isfinite(answers[0].dense()).sum() == 2

    # Each call gets its own headers, because Triton's client writes into them.
    client = triton.InferenceServerClient(url.removeprefix("http://"))
    assert client.is_server_live()
    assert client.is_server_ready()
    metadata = client.get_model_metadata("normal", headers=dict(headers))
    assert metadata["parameters"]["support"] == 2
    for binary in (True, False):
        image = triton.InferInput("image", list(IMAGES.shape), "UINT8")
        image.set_data_from_numpy(IMAGES, binary_data=binary)
        requested = [
            triton.InferRequestedOutput(name, binary_data=binary) for name in ("indices", "scores")
        ]
        for outputs in (requested, None):
            result = client.infer("normal", [image], outputs=outputs, headers=dict(headers))
            assert result.as_numpy("indices").shape == (6, 2)
            assert np.array_equal(
                result.as_numpy("indices"), [answer.indices for answer in answers]
            )
            assert np.isfinite(result.as_numpy("scores")).sum(axis=1).max() <= 2
    dense = triton.InferRequestedOutput("logits", binary_data=True)
    logits = client.infer("normal", [image], outputs=[dense], headers=dict(headers)).as_numpy(
        "logits"
    )
    assert logits.shape == (6, 10)
    assert (np.isfinite(logits).sum(axis=1) == 2).all()
    assert np.array_equal(logits, [answer.dense() for answer in answers])
    with pytest.raises(triton.InferenceServerException):
        client.infer("normal", [image])  # no key
    client.close()

    used = {key["id"]: key["used"] for key in list_keys(state)}
    assert used[created["id"]] == 1 + 6 + 4 * 6 + 6


def test_first_start_makes_one_key_and_shows_it_once(tmp_path: Path, bundle: Path) -> None:
    state = tmp_path / "state"
    logs = []
    for _ in range(2):
        process = subprocess.Popen(
            [*STINGY, "serve", bundle, "--state", state, "--port", "0"],
            env=server_environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        lines: list[str] = []
        while not lines or "listening on http://127.0.0.1:" not in lines[-1]:
            lines.append(process.stderr.readline())
            assert lines[-1]
        process.terminate()
        process.communicate(timeout=30)
        logs.append(lines)
    (shown,) = [line.strip() for line in logs[0] if line.startswith("stingy_")]
    assert not any("stingy_" in line for line in logs[1])
    assert any("top 4 of 10 classes" in line for line in logs[0])
    with closing(Database(state)) as database:
        assert Keys(database).authenticate(shown) is not None


def test_revoked_and_spent_keys_are_refused_by_a_running_server(server: tuple[str, Path]) -> None:
    url, state = server
    created = create_key(state, budget=2)
    with Client(url, created["key"]) as client:
        client.predict_batch(IMAGES[:2], model="normal")
        with pytest.raises(BudgetExhausted):
            client.predict(IMAGES[0], model="normal")
        assert stingy("keys", "revoke", created["id"], "--state", state).returncode == 0
        with pytest.raises(AuthError):
            client.usage()
    repeated = stingy("keys", "revoke", created["id"], "--state", state)
    assert repeated.returncode == 2
    assert f"{created['id']} was revoked already, on 20" in repeated.stderr
    unknown = stingy("keys", "revoke", "none", "--state", state)
    assert unknown.returncode == 2
    assert "expected the id or the name of a key, got none" in unknown.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_drains_and_all_charged_images_are_answered(
    tmp_path: Path, bundle: Path, number: signal.Signals
) -> None:
    state = tmp_path / "state"
    key = create_key(state, budget=1_000_000)["key"]
    answered = 0

    def query(url: str) -> None:
        nonlocal answered
        with Client(url, key, retries=0) as client:
            while True:
                try:
                    answered += len(client.predict_batch(IMAGES, model="normal"))
                except Exception:  # noqa: BLE001  the server is gone
                    return

    with served(bundle, state=state) as (url, process):
        thread = threading.Thread(target=query, args=(url,))
        thread.start()
        while not answered:
            time.sleep(0.05)
        process.send_signal(number)
        thread.join(60)
        assert process.wait(60) == 0
    assert answered > 0
    assert list_keys(state)[0]["used"] == answered


def test_Q2_answered_images_stay_charged_after_a_kill(tmp_path: Path, bundle: Path) -> None:
    state = tmp_path / "state"
    key = create_key(state, budget=1_000_000)["key"]
    answered = 0
    with served(bundle, state=state) as (url, process):
        with Client(url, key, retries=0) as client:
            for _ in range(50):
                answered += len(client.predict_batch(IMAGES, model="normal"))
        process.kill()
        process.wait()
    assert answered > 0
    assert list_keys(state)[0]["used"] == answered


def test_P6_server_with_faulty_settings_ends_before_listening(tmp_path: Path, bundle: Path) -> None:
    file = tmp_path / "stingy.toml"
    file.write_text(
        f"""
        colour = "blue"
        [[models]]
        bundle = "{bundle}"
        policy = "stingy:n=11"
        [[models]]
        name = "bare"
        bundle = "{bundle}"
        policy = "open"
        """
    )
    completed = stingy("serve", "--config", file, "--state", tmp_path / "state", "--port", "0")
    assert completed.returncode == 2
    assert "colour: unknown setting" in completed.stderr
    assert "11" in completed.stderr
    assert "allow_open" in completed.stderr
    assert "listening" not in completed.stderr
    assert "Traceback" not in completed.stderr


def test_taken_port_is_reported(server: tuple[str, Path], bundle: Path) -> None:
    url, state = server
    port = str(httpx.URL(url).port)
    completed = stingy("serve", bundle, "--state", state, "--port", port)
    assert completed.returncode == 2
    assert "cannot listen" in completed.stderr
