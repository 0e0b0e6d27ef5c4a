"""The key of a call is checked first: before its message is read, for every rpc."""

import asyncio
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from rpc_calls import (
    RpcClient,
    assert_rpcs_closed,
    books,
    end_of,
    infer_message,
    rpc_running,
)
from serving import make_bundle, make_key, make_settings, random_images
from stingy_server import Keys, ModelSettings, Settings
from stingy_server.rpc.methods import RPCS
from stingy_server.shares import Shares
from stingy_server.store.key import KeySettings

pytestmark = pytest.mark.anyio
IMAGES = random_images(2)


def settings_of(tmp_path: Path) -> Settings:
    return make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))


async def test_G1_every_rpc_but_the_probes_needs_a_valid_key(tmp_path: Path) -> None:
    async with rpc_running(settings_of(tmp_path)) as (rpc, _, app):
        stranger = RpcClient(app.state.rpc.port, None)
        valid = f"Bearer {rpc.key}"
        tries = [
            (),
            (("authorization", "Bearer wrong"),),
            (("authorization", str(rpc.key)),),
            (("authorization", "Basic " + str(rpc.key)),),
            (("authorization", "Bearer " + "x" * 5000),),
            (("authorization", valid), ("authorization", valid)),
        ]
        await assert_rpcs_closed(stranger, tries)
        assert (await books(app))[1] == []
        await stranger.channel.close()


async def test_G1_message_without_a_valid_key_is_not_read(tmp_path: Path) -> None:
    async with rpc_running(settings_of(tmp_path)) as (_, _, app):
        stranger = RpcClient(app.state.rpc.port, "wrong")
        for path in RPCS:
            name = path.rpartition("/")[2]
            ended = await asyncio.wait_for(end_of(stranger.start_late(name)), 20)
            probe = name in ("ServerLive", "ServerReady")
            assert ended.status == ("OK" if probe else "UNAUTHENTICATED"), name
        await stranger.channel.close()


async def test_G1_unknown_rpc_is_refused_after_the_key(tmp_path: Path) -> None:
    async with rpc_running(settings_of(tmp_path)) as (rpc, _, _):
        for path in ("RepositoryModelLoad", "ModelStreamInfer", "/a/b"):
            ended = await rpc.call(path)
            assert (ended.status, ended.code) == ("UNIMPLEMENTED", "not_implemented")


async def test_G1_key_revoked_while_the_message_comes_gets_nothing(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    async with rpc_running(settings) as (_, _, app):
        service = app.state.service
        rpc = RpcClient(app.state.rpc.port, make_key(settings.state, budget=100))
        message = infer_message(IMAGES)
        assert (await rpc.call("ModelInfer", message)).status == "OK"
        call = rpc.start_late("ModelInfer")
        await asyncio.sleep(0.2)
        caller = service.known_caller(rpc.key)
        Keys(service.database).revoke(caller.key.id)
        await call.write(message)
        await call.done_writing()
        ended = await end_of(call)
        assert (ended.status, ended.code) == ("UNAUTHENTICATED", "unauthenticated")
        assert (await books(app))[0] == len(IMAGES)
        await rpc.channel.close()


@pytest.mark.parametrize("end", [Keys.revoke, Keys.rotate])
async def test_A1_known_key_over_grpc_is_refused_once_it_ends(
    tmp_path: Path, end: Callable[[Keys, str], object]
) -> None:
    async with rpc_running(settings_of(tmp_path)) as (rpc, _, app):
        service = app.state.service
        message = infer_message(IMAGES)
        assert (await rpc.call("ModelInfer", message)).status == "OK"
        known = service.known_caller(rpc.key)
        with closing(service.database.reopen()) as other_process:
            end(Keys(other_process), known.key.id)
        # The others are refused before their charge, and name no other reason either.
        for sent in (message, infer_message(IMAGES, model="other"), b"\xff", message[:-1]):
            service.charges.known.keep(rpc.key, known)
            ended = await rpc.call("ModelInfer", sent)
            assert (ended.status, ended.code) == ("UNAUTHENTICATED", "unauthenticated")
        assert (await books(app))[0] == len(IMAGES)


async def test_Q12_changed_key_is_answered_and_takes_its_room_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = (make_bundle(tmp_path / "b"), make_bundle(tmp_path / "c", name="other"))
    settings = make_settings(tmp_path / "s", *models)
    async with rpc_running(settings) as (rpc, _, app):
        service = app.state.service
        message = infer_message(IMAGES)
        assert (await rpc.call("ModelInfer", message)).status == "OK"
        taken = []
        take = Shares.take

        def count(shares: Shares, owner: str, amount: int = 1) -> bool:
            taken.append(owner)
            return take(shares, owner, amount)

        monkeypatch.setattr(Shares, "take", count)
        assert (await rpc.call("ModelInfer", message)).status == "OK"
        usual = taken.count("digits")
        taken.clear()
        caller = service.known_caller(rpc.key)
        Keys(service.database).set(
            caller.key.id,
            lambda old: replace(old, key=replace(old.key, rate="900/second")),
            describe=lambda *_: {"by": "operator"},
        )
        assert (await rpc.call("ModelInfer", message)).status == "OK"
        assert taken.count("digits") == usual


async def test_Q11_model_permitted_over_grpc_is_granted_at_once(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    served = (ModelSettings(bundle=bundle), ModelSettings(bundle=bundle, name="letters"))
    async with rpc_running(make_settings(tmp_path / "s", *served)) as (rpc, _, app):
        service, message = app.state.service, infer_message(IMAGES)
        free = service.admission.model_places.free
        ((key, _),) = service.keys.all()
        for models in (frozenset({"letters"}), None):
            service.keys.set(
                key.id,
                lambda old, models=models: KeySettings(replace(old.key, models=models), old.limits),
                describe=lambda old, new: {},
            )
            allowed = models is None
            ended = await rpc.call("ModelInfer", message)
            assert ended.status == ("OK" if allowed else "NOT_FOUND")
        assert service.admission.model_places.free == free


async def test_Q11_rate_raised_over_grpc_is_granted_at_once(tmp_path: Path) -> None:
    async with rpc_running(settings_of(tmp_path)) as (rpc, _, app):
        service, message = app.state.service, infer_message(IMAGES)
        ((key, _),) = service.keys.all()
        for rate, statuses in (("2/day", ["OK", "RESOURCE_EXHAUSTED"]), ("4/day", ["OK"])):
            service.keys.set(
                key.id,
                lambda old, rate=rate: KeySettings(replace(old.key, rate=rate), old.limits),
                describe=lambda old, new: {},
            )
            assert [(await rpc.call("ModelInfer", message)).status for _ in statuses] == statuses
