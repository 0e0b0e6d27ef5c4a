"""Checks of promises, used by their tests and by the tests that break them on purpose."""

import ast
import asyncio
import multiprocessing
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from fastapi import FastAPI
from PIL import Image
from prometheus_client import CollectorRegistry
from torch import Tensor

from leaking import disguises
from serving import random_images
from stingy_protection import Looseness, NoisyPolicy, Policy, build_policy, sanitize
from stingy_server import Settings
from stingy_server.codec.decode_pool import DecodePool
from stingy_server.codec.images import Pixels
from stingy_server.detection.fair_sample import FairSample, cut_to_shares
from stingy_server.errors import NO_IMAGE, UNSUPPORTED_IMAGE, ErrorForm, ServiceError, error_form
from stingy_server.models.endpoints import close_endpoints, start_endpoints
from stingy_server.models.loading import load_bundles
from stingy_server.shares import Shares

LOADERS = {"pickle", "joblib", "dill", "cloudpickle", "yaml", "marshal", "shelve"}
SECRETS = {"secret", "digest", "pepper", "token", "text", "authorization", "password"}
PROBES = {"/v2/health/live", "/v2/health/ready", "/ping"}
FOREIGN = ("GIF", "BMP", "TIFF", "PPM", "ICO")


def assert_nowhere(values: Iterable[float], sent: bytes) -> None:
    """Check a promise of L: none of these numbers is in these bytes, in any form."""
    for value in values:
        for form in disguises(value):
            assert form not in sent, (value, form)


def assert_n_largest(logits: Tensor, indices: Tensor, n: int) -> None:
    """Check a promise of P: these are the n largest logits, best first, ties to the lower index."""
    for row, chosen in zip(logits.tolist(), indices.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda index: (-row[index], index))
        assert chosen == order[:n]


def assert_open_is_refused(settings: Settings) -> None:
    """Check a promise of P: the policy of these settings is refused, because it hides nothing."""
    models, faults = load_bundles(settings)
    assert models == []
    assert ["hides nothing" in fault for fault in faults] == [True]


def assert_neither(
    compare: Callable[[Policy, Policy], Looseness], policy: Policy, other: Policy
) -> None:
    """Check a promise of P: neither of these policies is named the looser one."""
    assert compare(policy, other) is compare(other, policy) is Looseness.NEITHER


def all_requests(app: FastAPI) -> list[tuple[str, str]]:
    """List every path of an application with every method, also those that its route lacks."""
    methods = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE")
    paths = sorted(app.openapi()["paths"])
    assert len(paths) > 8
    paths = [path.format(model="digits", version="1") for path in paths]
    return [
        (method, path) for path in [*paths, "/", "/docs", "/openapi.json"] for method in methods
    ]


async def assert_closed(
    client: httpx.AsyncClient, requests: Iterable[tuple[str, str]], headers: dict[bytes, bytes]
) -> None:
    """Check a promise of A: all requests but the probes get 401, with one body of each form."""
    bodies: dict[ErrorForm, set[str]] = defaultdict(set)
    for method, path in requests:
        response = await client.request(method, path, headers=headers)
        if path in PROBES:
            assert response.status_code in (200, 405)
            continue
        assert response.status_code == 401, (method, path)
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.headers["X-Error-Code"] == "unauthenticated"
        if method != "HEAD":
            body = response.text.replace(response.headers["x-request-id"], "")
            bodies[error_form(path)].add(body)
    assert len(bodies) == len(ErrorForm)
    assert all(len(each) == 1 for each in bodies.values())


def granted_to_processes(
    spend: Callable[..., None], state: Path, key: str, *, tries: int, processes: int
) -> int:
    """Count for a promise of Q the images that processes get in all from one budget.

    Args:
        spend: the function of each process.
        tries: the images that each process requests.
    """
    context = multiprocessing.get_context("spawn")
    granted: multiprocessing.Queue[int] = context.Queue()
    spending = [
        context.Process(target=spend, args=(state, key, tries, granted)) for _ in range(processes)
    ]
    for process in spending:
        process.start()
    total = sum(granted.get(timeout=120) for _ in spending)
    for process in spending:
        process.join()
    return total


def assert_plain_headers(headers: Mapping[str, str]) -> None:
    """Check a promise of H: headers forbid caching and sniffing, and name no product."""
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    forbidden = ("server", "x-powered-by", "access-control-allow-origin")
    assert not any(name in headers for name in forbidden)


async def assert_only_three_formats(read: Callable[[bytes], Awaitable[Pixels]]) -> None:
    """Check a promise of I: files of other formats by their content are refused."""
    picture = Image.fromarray(random_images(1)[0])
    foreign = []
    for form in FOREIGN:
        buffer = BytesIO()
        picture.save(buffer, form)
        foreign.append(buffer.getvalue())
    for data in (*foreign, b"<svg/>", b"%PDF-1.7", b"PK\x03\x04", b"hello"):
        with pytest.raises(ServiceError) as error:
            await read(data)
        assert error.value.refusal is UNSUPPORTED_IMAGE
    with pytest.raises(ServiceError) as error:
        await read(b"")
    assert error.value.refusal is NO_IMAGE


def assert_batch_statistics_are_refused(settings: Settings) -> None:
    """Check a promise of B: a model that normalises by the batch does not start."""
    models, faults = load_bundles(settings)
    assert faults == []
    endpoints, faults = start_endpoints(models, settings, secret=bytes(16))
    close_endpoints(endpoints)
    assert any("beside other images" in fault for fault in faults)


def assert_leaves_half(shares: Shares, capacity: int) -> None:
    """Check a promise of S: an owner that takes all it can get leaves half to others."""
    taken = 0
    while shares.take("greedy"):
        taken += 1
    assert taken <= capacity / 2
    assert shares.take("other")


async def assert_served_in_turn(pool: DecodePool) -> None:
    """Check a promise of S: a caller's one unit waits for few of another's hundred.

    Args:
        pool: a pool of one thread.
    """
    done: list[str] = []
    first = threading.Event()
    many = [lambda: first.wait(20), *[lambda: done.append("many")] * 100]
    flood = asyncio.ensure_future(pool.run("many", many, cost=1))
    await asyncio.sleep(0.05)
    single = asyncio.ensure_future(pool.run("one", [lambda: done.append("one")], cost=1))
    await asyncio.sleep(0.05)
    first.set()
    await asyncio.gather(flood, single)
    assert done.index("one") <= 2


def unpickling(source: str) -> list[str]:
    """Find for a promise of M the imports and calls of a module that could load a pickle."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.partition(".")[0] in LOADERS]
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = {alias.name for alias in node.names}
            if module.partition(".")[0] in LOADERS or (module == "torch" and "load" in names):
                found.append(module)
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load":
            found.append("torch.load")
    return found


def compared_secrets(source: str) -> list[str]:
    """Find for a promise of A the comparisons of secrets whose time depends on the guess."""

    def words(node: ast.expr) -> set[str]:
        names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        names |= {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
        return {word for name in names for word in name.lower().strip("_").split("_")}

    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Compare)
        and any(isinstance(operator, ast.Eq | ast.NotEq) for operator in node.ops)
        and any(words(side) & SECRETS for side in (node.left, *node.comparators))
    ]


def metric_labels(registry: CollectorRegistry) -> set[tuple[tuple[str, Any], ...]]:
    """List for a promise of O every set of labels of the metrics."""
    return {
        tuple(sample.labels.items()) for metric in registry.collect() for sample in metric.samples
    }


class UnreadBody:
    """A body that records whether the server read it."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.was_read = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.was_read = True
        yield self.content


async def assert_refused_unread(client: httpx.AsyncClient, path: str, *, code: str) -> None:
    """Check for a promise of R that a query is refused at its head."""
    body = UnreadBody(b"content")
    response = await client.post(path, content=body)
    assert response.headers["X-Error-Code"] == code
    assert not body.was_read


def assert_share_beside_a_flood(
    make: Callable[[int], FairSample], *, order: str = "before", batch: int = 256
) -> None:
    """Check a promise of W: a flood of one key leaves another the images that it sends."""
    sample = make(100)
    answer = sanitize(build_policy("label", num_classes=10), torch.zeros(batch, 10))

    def flood() -> None:
        for _ in range(0, 1024, batch):
            sample.add("flood", "m", random_images(batch), answer, 1.0)

    if order != "after":
        flood()
    for place in range(40):
        if order == "between" and place == 20:
            flood()
        sample.add("key", "m", random_images(1, seed=place), answer.rows(0, 1), 1.0)
    if order == "after":
        flood()
    taken = sample.take()
    cut_to_shares(taken, 100)
    assert {key: len(each.chosen) for key, each in taken.items()} == {"flood": 60, "key": 40}


def assert_support_of_clean_logits(policy: NoisyPolicy) -> None:
    """Check a promise of N: strong noise shows no class beyond the N largest of the logits."""
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(50, policy.num_classes, generator=random)
    noise = 10 * torch.randn(50, policy.num_classes, generator=random)
    answer = sanitize(policy, logits, noise=noise)
    expected = logits.topk(policy.support, dim=1).indices
    assert torch.equal(answer.indices.sort(dim=1).values, expected.sort(dim=1).values)
