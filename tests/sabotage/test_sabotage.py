"""One broken part for each group of promises, on which the check of the group must fail."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

import onnx_files
from broken import (
    CountingPaths,
    FirstComePool,
    FirstComeSample,
    FirstComeShares,
    MemoryHeads,
    NoiseBeforeChoice,
    OpenRoute,
    SegmentParser,
    ServerHeader,
    decode_any_format,
    folder_in_place,
    lingering,
    looser_by_support,
    same_text,
    size_of_any_format,
    spend_unlocked,
    unstable_top,
    with_open_rpc,
)
from checks import (
    all_requests,
    assert_batch_statistics_are_refused,
    assert_closed,
    assert_leaves_half,
    assert_n_largest,
    assert_neither,
    assert_nowhere,
    assert_only_three_formats,
    assert_open_is_refused,
    assert_plain_headers,
    assert_refused_unread,
    assert_served_in_turn,
    assert_share_beside_a_flood,
    assert_support_of_clean_logits,
    compared_secrets,
    granted_to_processes,
    metric_labels,
    unpickling,
)
from decoding import decode_alone
from file_lock import Locker, longest_stall
from image_bytes import END_OF_IMAGE, cut_jpeg, jpeg
from ledgers import assert_verified_after_failures
from packing import assert_failed_pack_writes_nothing
from rpc_calls import assert_rpcs_closed, rpc_running, without_key
from sample_networks import canaries
from segments import assert_same_parse
from serving import make_bundle, make_settings, png, random_images, running
from stingy_protection import (
    KeyedNoise,
    Policy,
    RankedLabels,
    SparseLogits,
    Stingy,
    compare_policies,
    sanitize,
)
from stingy_server import Database, Keys
from stingy_server.admission import Place
from stingy_server.codec import images
from stingy_server.codec.decode_pool import DecodePool
from stingy_server.codec.images import Pixels
from stingy_server.detection.fair_sample import FairSample
from stingy_server.detection.image_hashes import ImageHasher
from stingy_server.errors import ServiceError
from stingy_server.importers import pack
from stingy_server.inference import engine
from stingy_server.models import loading, trial
from stingy_server.observability.request_record import RequestRecord
from stingy_server.process.request_parser import RequestParser
from stingy_server.rpc import server as rpc_server
from stingy_server.rpc.methods import RPCS
from stingy_server.service import Service
from stingy_server.shares import Shares
from stingy_server.store.group_commit import GroupCommit
from stingy_server.store.ledger import Ledger
from timing import differ_by, interleaved, shows_in_a_sort

IMAGE = random_images(1)[0]
N, K = 3, 10


def client_of(app: httpx.ASGITransport) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=app, base_url="http://stingy")


@pytest.mark.anyio
@pytest.mark.parametrize("door", ["answer", "log"])
async def test_L_engine_that_lets_the_row_out_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, door: str
) -> None:
    def leaky(policy: Policy, logits: torch.Tensor, **options: torch.Tensor | None) -> SparseLogits:
        answer = sanitize(policy, logits, **options)
        if door == "log":
            logging.getLogger("stingy").error("answering %s", logits.tolist())
            return answer
        values, indices = logits.sort(dim=1, descending=True)
        return SparseLogits(
            indices, values, num_classes=K, form=answer.form, decimals=answer.decimals
        )

    monkeypatch.setattr(engine, "sanitize", leaky)
    policy = f"stingy:n={N},scores=logit,decimals=6"
    bundle = make_bundle(tmp_path / "b", factory="sample_networks:Canary", policy=policy, gain=1.0)
    async with running(make_settings(tmp_path / "s", bundle)) as (client, _):
        response = await client.post("/v1/predict/digits", content=png(IMAGE))
    sent = response.content + caplog.text.encode()
    with pytest.raises(AssertionError):
        assert_nowhere(canaries(K)[N:].tolist(), sent)


@pytest.mark.parametrize(
    "work",
    [lambda row: time.sleep(2e-3), lambda row: [row.sort() for _ in range(60)]],
    ids=["sleeps", "sorts"],
)
def test_L_gate_whose_time_shows_a_withheld_logit_is_caught(
    work: Callable[[torch.Tensor], object],
) -> None:
    policy = RankedLabels(num_classes=1000, n=5)
    low = torch.arange(1000.0)[None]
    high = low.index_fill(1, torch.tensor([0]), 0.5)
    assert not shows_in_a_sort(partial(sanitize, policy), low, high)
    # A busy machine may need more than one look.
    assert any(shows_in_a_sort(partial(lingering, work, policy), low, high) for _ in range(5))


def test_P_top_n_with_ties_in_any_order_is_caught() -> None:
    logits = torch.tensor([[2.0, 7.0, 7.0, 1.0]])
    assert_n_largest(logits, sanitize(RankedLabels(num_classes=4, n=2), logits).indices, 2)
    with pytest.raises(AssertionError):
        assert_n_largest(logits, unstable_top(logits, 2), 2)


def test_P_openness_by_name_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = "rounded:scores=logit,decimals=6"
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b", policy=policy))
    assert_open_is_refused(settings)
    monkeypatch.setattr(loading, "hides_nothing", lambda policy: policy.name == "open")
    with pytest.raises(AssertionError):
        assert_open_is_refused(settings)


def test_P_order_by_the_number_of_classes_is_caught() -> None:
    ranks = RankedLabels(num_classes=K, n=K)
    scores = Stingy(num_classes=K, n=N)
    assert_neither(compare_policies, scores, ranks)
    with pytest.raises(AssertionError):
        assert_neither(looser_by_support, scores, ranks)


@pytest.mark.anyio
async def test_A_route_without_a_key_is_caught(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))) as (_, app):
        async with client_of(httpx.ASGITransport(app)) as client:
            await assert_closed(client, all_requests(app), {})
        async with client_of(httpx.ASGITransport(OpenRoute(app, "/v1/usage"))) as client:
            with pytest.raises(AssertionError, match="/v1/usage"):
                await assert_closed(client, all_requests(app), {})


def test_A_comparison_that_ends_at_a_difference_is_caught() -> None:
    right = "k" * 43
    calls = [partial(same_text, right, wrong) for wrong in ("x" + right[1:], right[:-1] + "x")]
    # A busy machine may need more than one look.
    assert any(differ_by(*interleaved(*calls, rounds=2000), share=0.05) for _ in range(5))
    for source in ("given == self._secret", "key.digest != digest", "a == 1 == pepper"):
        assert compared_secrets(source) == [source]


def test_Q_counter_without_a_lock_is_caught(tmp_path: Path) -> None:
    with closing(Database(tmp_path / "state")) as database:
        key, _ = Keys(database).create("shared", budget=200)
    state = tmp_path / "state"
    assert granted_to_processes(spend_unlocked, state, key.id, tries=200, processes=2) != 200


@pytest.mark.anyio
async def test_R_server_that_admits_a_spent_key_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def admit_all(self: Service, record: RequestRecord, **options: Any) -> Place:
        record.spent = False
        return await admit(self, record, **options)

    admit = Service.admit
    monkeypatch.setattr(Service, "admit", admit_all)
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings, budget=0) as (client, _):
        with pytest.raises(AssertionError):
            await assert_refused_unread(client, "/v1/predict/digits", code="budget_exhausted")


@pytest.mark.anyio
async def test_D_store_that_is_awaited_on_the_event_loop_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Database(tmp_path / "state")) as database:

        async def stall_of_a_write() -> float:
            writes = GroupCommit(database)
            locker = await asyncio.to_thread(Locker, tmp_path / "state" / "stingy.sqlite3", 2.0)
            stall = await longest_stall(writes.run(lambda: None))
            locker.join()
            writes.close()
            return stall

        assert await stall_of_a_write() < 1.0
        monkeypatch.setattr(database, "try_now", lambda call: call())
        assert await stall_of_a_write() > 1.0


@pytest.mark.anyio
async def test_H_server_that_names_itself_is_caught(tmp_path: Path) -> None:
    async with (
        running(make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))) as (_, app),
        client_of(httpx.ASGITransport(ServerHeader(app))) as client,
    ):
        response = await client.get("/v2/health/live")
    with pytest.raises(AssertionError):
        assert_plain_headers(response.headers)


def test_S_resource_that_one_owner_can_empty_is_caught() -> None:
    assert_leaves_half(Shares(100), 100)
    with pytest.raises(AssertionError):
        assert_leaves_half(FirstComeShares(100), 100)


@pytest.mark.anyio
async def test_S_pool_that_serves_in_order_of_arrival_is_caught() -> None:
    with closing(DecodePool(capacity=100, threads=1)) as pool:
        await assert_served_in_turn(pool)
    with closing(FirstComePool(capacity=100, threads=1)) as pool, pytest.raises(AssertionError):
        await assert_served_in_turn(pool)


@pytest.mark.anyio
async def test_I_decoder_that_completes_a_cut_jpeg_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = jpeg()
    for cut in (cut_jpeg(whole, len(whole) // 2), jpeg(progressive=True)[:-30] + END_OF_IMAGE):
        with pytest.raises(ServiceError):
            await decode_alone([cut])
        with monkeypatch.context() as patched:
            patched.setattr(images, "decode_file", decode_any_format)
            assert (await decode_alone([cut])).shape == (1, 8, 8, 3)


def test_B_trial_that_compares_nothing_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle(tmp_path / "b", factory="odd_networks:BatchStatistics")
    settings = make_settings(tmp_path / "s", bundle, batch_size=4)
    settings = settings.model_copy(update={"trusted_factories": ("odd_networks",)})
    assert_batch_statistics_are_refused(settings)
    monkeypatch.setattr(trial, "_differ", lambda rows, others, tolerance, *, step: False)
    with pytest.raises(AssertionError):
        assert_batch_statistics_are_refused(settings)


def test_B_pack_that_writes_before_its_trial_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "net.onnx"
    source.write_bytes(onnx_files.content(over_batch=True))
    assert_failed_pack_writes_nothing(source, tmp_path / "out")
    monkeypatch.setattr(pack, "_folder_beside", folder_in_place)
    with pytest.raises(AssertionError):
        assert_failed_pack_writes_nothing(source, tmp_path / "out")


@pytest.mark.anyio
async def test_I_reader_of_every_format_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "read_size", size_of_any_format)
    monkeypatch.setattr(images, "decode_file", decode_any_format)

    async def read(data: bytes) -> Pixels:
        return await decode_alone([data])

    with pytest.raises(pytest.fail.Exception):
        await assert_only_three_formats(read)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(file)",
        "from torch import load",
    ],
)
def test_M_loader_of_pickles_is_caught(source: str) -> None:
    assert unpickling(source) != []


def test_C_verdict_that_depends_on_segments_is_caught() -> None:
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    assert_same_parse(RequestParser, request, [20])
    with pytest.raises(AssertionError):
        assert_same_parse(SegmentParser, request, [20])


@pytest.mark.anyio
async def test_O_label_that_clients_invent_is_caught(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))) as (_, app):
        registry = app.state.service.metrics.registry
        before = metric_labels(registry)
        async with client_of(httpx.ASGITransport(CountingPaths(app, registry))) as client:
            for number in range(50):
                await client.get(f"/{number}")
        assert len(metric_labels(registry) - before) >= 50


def test_W_sample_whose_room_goes_to_the_first_is_caught() -> None:
    hasher = ImageHasher(b"secret")
    assert_share_beside_a_flood(lambda limit: FairSample(limit, hasher))
    with pytest.raises(AssertionError):
        assert_share_beside_a_flood(lambda limit: FirstComeSample(limit, hasher))


def test_N_choice_after_the_noise_is_caught() -> None:
    assert_support_of_clean_logits(KeyedNoise(num_classes=10, n=3))
    with pytest.raises(AssertionError):
        assert_support_of_clean_logits(NoiseBeforeChoice(num_classes=10, n=3))


def test_K_chain_that_advances_without_its_commit_is_caught(tmp_path: Path) -> None:
    assert_verified_after_failures(Ledger, tmp_path / "state", None)
    with pytest.raises(AssertionError):
        assert_verified_after_failures(MemoryHeads, tmp_path / "other", None)


@pytest.mark.anyio
async def test_G_rpc_that_needs_no_key_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with rpc_running(settings) as (rpc, _, _):
        await assert_rpcs_closed(without_key(rpc), [()])
    monkeypatch.setattr(rpc_server, "RPCS", with_open_rpc(RPCS, "RepositoryIndex"))
    async with rpc_running(settings) as (rpc, _, _):
        with pytest.raises(AssertionError):
            await assert_rpcs_closed(without_key(rpc), [()])
