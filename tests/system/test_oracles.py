"""The audit's two ways to a server: in this process and over HTTP; both give the same bytes."""

from pathlib import Path

import pytest

from serving import make_bundle, make_key, make_settings, random_images, served
from stingy_attacker_eval import EvalError, HttpOracle, buy, in_process_client
from stingy_clients import BudgetExhausted, Client
from stingy_server import create_app

IMAGES = random_images(150)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


@pytest.mark.parametrize("policy", ["stingy:n=4", "label", "rounded", "open"])
def test_transfer_set_in_process_equals_that_over_http(tmp_path: Path, policy: str) -> None:
    bundle = make_bundle(tmp_path / "bundle", name="pets", policy="stingy")
    keys = {way: make_key(tmp_path / way, budget=500) for way in ("here", "there")}
    settings = make_settings(tmp_path / "here", bundle, allow_open=True)
    (model,) = settings.models
    settings = settings.model_copy(
        update={"models": (model.model_copy(update={"policy": policy}),)}
    )
    with in_process_client(create_app(settings), keys["here"]) as client:
        oracle = HttpOracle(client, model="pets")
        here = buy(oracle, IMAGES, budget=150, folder=tmp_path / "bought" / "here")
    with (
        served(bundle, "--policy", policy, state=tmp_path / "there", STINGY_ALLOW_OPEN="true") as (
            url,
            _,
        ),
        Client(url, keys["there"]) as client,
    ):
        oracle = HttpOracle(client, model="pets")
        there = buy(oracle, IMAGES, budget=150, folder=tmp_path / "bought" / "there")
    assert files_of(tmp_path / "bought" / "here") == files_of(tmp_path / "bought" / "there")
    assert here.answers.indices.tobytes() == there.answers.indices.tobytes()
    assert (here.queries, here.charged) == (there.queries, there.charged) == (150, 150)


def test_in_process_errors_equal_http_and_the_application_stops(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", name="pets")
    app = create_app(make_settings(tmp_path / "state", bundle))
    key = make_key(tmp_path / "state", budget=10)
    with in_process_client(app, key) as client:
        oracle = HttpOracle(client, model="pets")
        with pytest.raises(BudgetExhausted):
            oracle.query(IMAGES[:11])
        assert len(oracle.query(IMAGES[:10])) == oracle.charged() == 10
    # Stopped, its store is free for the next.
    with in_process_client(create_app(make_settings(tmp_path / "state", bundle)), key) as client:
        assert client.usage().used == 10


def test_application_that_fails_to_start_is_reported() -> None:
    async def fails(scope: object, receive: object, send: object) -> None:
        raise RuntimeError("no store")

    with (
        pytest.raises(EvalError, match="an application that starts, got RuntimeError"),
        in_process_client(fails, "key"),
    ):
        raise AssertionError
