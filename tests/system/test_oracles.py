"""The audit's two ways to a server, in this process and over HTTP, give the same bytes."""

from pathlib import Path

import pytest

from serving import make_bundle, make_key, make_settings, random_images, served
from stingy_attacker_eval import EvalError, HttpOracle, buy, in_process_client
from stingy_clients import BudgetExhausted, Client
from stingy_server import create_app

IMAGES = random_images(150)


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


@pytest.mark.parametrize("policy", ["stingy:n=4", "label", "rounded", "open"])
def test_transfer_set_in_process_equals_that_over_http(tmp_path: Path, policy: str) -> None:
    bundle = make_bundle(tmp_path / "bundle", name="pets", policy="stingy")
    keys = {way: make_key(tmp_path / way, budget=500) for way in ("in-process", "over-http")}
    settings = make_settings(tmp_path / "in-process", bundle, allow_open=True)
    (model,) = settings.models
    settings = settings.model_copy(
        update={"models": (model.model_copy(update={"policy": policy}),)}
    )
    with in_process_client(create_app(settings), keys["in-process"]) as client:
        oracle = HttpOracle(client, model="pets")
        in_process = buy(oracle, IMAGES, budget=150, folder=tmp_path / "bought" / "in-process")
    with (
        served(
            bundle, "--policy", policy, state=tmp_path / "over-http", STINGY_ALLOW_OPEN="true"
        ) as (
            url,
            _,
        ),
        Client(url, keys["over-http"]) as client,
    ):
        oracle = HttpOracle(client, model="pets")
        over_http = buy(oracle, IMAGES, budget=150, folder=tmp_path / "bought" / "over-http")
    folders = [tmp_path / "bought" / way for way in ("in-process", "over-http")]
    assert read_files(folders[0]) == read_files(folders[1])
    assert in_process.answers.indices.tobytes() == over_http.answers.indices.tobytes()
    assert (in_process.queries, in_process.charged) == (150, 150)
    assert (over_http.queries, over_http.charged) == (150, 150)


def test_in_process_errors_equal_http_and_the_application_stops(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", name="pets")
    app = create_app(make_settings(tmp_path / "state", bundle))
    key = make_key(tmp_path / "state", budget=10)
    with in_process_client(app, key) as client:
        oracle = HttpOracle(client, model="pets")
        with pytest.raises(BudgetExhausted):
            oracle.query(IMAGES[:11])
        assert len(oracle.query(IMAGES[:10])) == oracle.charged() == 10
    # The application has stopped, so the next one can open its store.
    with in_process_client(create_app(make_settings(tmp_path / "state", bundle)), key) as client:
        assert client.usage().used == 10


def test_application_that_does_not_start_raises_eval_error() -> None:
    async def failing(scope: object, receive: object, send: object) -> None:
        raise RuntimeError("no store")

    with (
        pytest.raises(EvalError, match="an application that starts, got RuntimeError"),
        in_process_client(failing, "key"),
    ):
        raise AssertionError
