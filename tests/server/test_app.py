"""The application: what it refuses to start with, which models it serves, how it drains."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from starlette.types import Message
from torch import nn

import sample_networks
from infer_requests import IMAGES, code, infer, outputs, used
from serving import make_bundle, make_settings, running
from stingy_server import ConfigurationError, ModelSettings, create_app
from stingy_server.store.base import StoreUnavailable

pytestmark = pytest.mark.anyio


async def test_several_models_have_each_their_policy(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    settings = make_settings(
        tmp_path / "s",
        ModelSettings(bundle=bundle, name="generous", policy="open"),
        ModelSettings(bundle=bundle, name="stingy", policy="stingy:n=2"),
        allow_open=True,
    )
    async with running(settings) as (client, _):
        generous = outputs(await infer(client, IMAGES, "generous"))
        stingy = outputs(await infer(client, IMAGES, "stingy"))
        assert generous["indices"]["shape"] == [16, 10]
        assert stingy["indices"]["shape"] == [16, 2]


async def test_a_draining_server_is_not_ready_and_takes_no_more(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))) as (client, app):
        assert (await client.get("/v2/health/ready")).status_code == 200
        app.state.service.draining = True
        assert (await client.get("/v2/health/live")).status_code == 200
        assert code(await client.get("/v2/health/ready")) == (503, "draining")
        assert code(await infer(client, IMAGES)) == (503, "draining")
        app.state.service.draining = False
        assert await used(client) == 0


def test_P6_all_faults_of_all_models_are_reported_before_serving(tmp_path: Path) -> None:
    sound = make_bundle(tmp_path / "sound")
    changed = make_bundle(tmp_path / "changed", name="changed")
    weights = bytearray((changed / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (changed / "weights.safetensors").write_bytes(weights)
    foreign = make_bundle(tmp_path / "foreign", name="foreign")
    manifest = (foreign / "model.json").read_text()
    (foreign / "model.json").write_text(manifest.replace("sample_networks:linear", "os:system"))
    settings = make_settings(
        tmp_path / "s",
        changed,
        foreign,
        tmp_path / "absent",
        ModelSettings(bundle=sound, name="many", policy="stingy:n=11"),
        ModelSettings(bundle=sound, name="misspelt", policy="stingi"),
        ModelSettings(bundle=sound, name="bare", policy="open"),
        ModelSettings(bundle=sound),
        ModelSettings(bundle=sound),
    )
    with pytest.raises(ConfigurationError) as error:
        create_app(settings, faults=["port: out of range"])
    faults = "\n".join(error.value.faults)
    for word in ("port", "changed", "os:system", "absent", "many", "11", "stingi", "allow_open"):
        assert word in faults
    assert "digits 1 is given 2 times" in faults


@pytest.mark.parametrize("error", [RuntimeError, KeyError, RecursionError, AssertionError])
def test_P6_factory_that_raises_is_a_fault_of_its_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))

    def broken(num_classes: int) -> nn.Module:
        raise error("from a factory")

    broken.__module__ = "sample_networks"
    monkeypatch.setattr(sample_networks, "linear", broken)
    with pytest.raises(ConfigurationError) as raised:
        create_app(settings)
    (fault,) = raised.value.faults
    assert fault.startswith(f"digits: sample_networks:linear failed: {error.__name__}")


def test_M1_a_bundle_that_does_not_fit_its_network_is_refused(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    manifest = (bundle / "model.json").read_text()
    (bundle / "model.json").write_text(manifest.replace(":linear", ":convolutional"))
    with pytest.raises(ConfigurationError, match="do not fit"):
        create_app(make_settings(tmp_path / "s", bundle))
    (bundle / "model.json").write_text(manifest.replace(":linear", ":absent"))
    with pytest.raises(ConfigurationError, match="absent"):
        create_app(make_settings(tmp_path / "s", bundle))


async def test_a_torchvision_network_can_be_served(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", factory="torchvision.models:shufflenet_v2_x0_5", gain=1.0)
    async with running(make_settings(tmp_path / "s", bundle)) as (client, _):
        assert outputs(await infer(client, IMAGES[:2]))["indices"]["shape"] == [2, 2]


async def test_lifespan_with_a_locked_state_fails_with_one_sentence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "state"
    app = create_app(make_settings(state, make_bundle(tmp_path / "b")))
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    with closing(sqlite3.connect(state / "stingy.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable):
            await app({"type": "lifespan"}, receive, send)
    assert sent == [{"type": "lifespan.startup.failed"}]
    assert caplog.messages[0].startswith("this process does not serve: ")
    assert all(record.exc_info is None for record in caplog.records)
