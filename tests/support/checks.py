"""What a promise is checked by: used by its tests, and by those that break it on purpose."""

import ast
import multiprocessing
from collections.abc import Awaitable, Callable, Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image
from prometheus_client import CollectorRegistry
from torch import Tensor

from leaking import disguises
from serving import random_images
from stingy_server.codec.images import Pixels
from stingy_server.errors import UNSUPPORTED_IMAGE, ServiceError

LOADERS = {"pickle", "joblib", "dill", "cloudpickle", "yaml", "marshal", "shelve"}
SECRETS = {"secret", "digest", "pepper", "token", "text", "authorization", "password"}
FOREIGN = ("GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO")


def assert_nowhere(values: Iterable[float], sent: bytes) -> None:
    """L: none of these numbers is in these bytes, in no form."""
    for value in values:
        for form in disguises(value):
            assert form not in sent, (value, form)


def assert_n_largest(logits: Tensor, indices: Tensor, n: int) -> None:
    """P: the indices are those of the n largest logits, best first, ties to the lower index."""
    for row, found in zip(logits.tolist(), indices.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda index: (-row[index], index))
        assert found == order[:n]


def doors(app: FastAPI) -> list[tuple[str, str]]:
    """Every path of the application with every method, known to the route or not."""
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
    """A: every method and path but the probes is answered 401, with one body."""
    bodies = set()
    for method, path in requests:
        response = await client.request(method, path, headers=headers)
        if path.startswith("/v2/health/"):
            assert response.status_code in (200, 405)
            continue
        assert response.status_code == 401, (method, path)
        assert response.headers["www-authenticate"] == "Bearer"
        if method != "HEAD":
            assert response.json()["error"]["code"] == "unauthenticated"
            bodies.add(response.text.replace(response.headers["x-request-id"], ""))
    assert len(bodies) == 1


def granted_to_processes(
    spend: Callable[..., None], state: Path, key: str, *, tries: int, processes: int
) -> int:
    """Q: how much so many processes that spend from one budget were granted in all."""
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
    """H: the answer is not stored, not guessed at, and names no product."""
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    forbidden = ("server", "x-powered-by", "access-control-allow-origin")
    assert not any(name in headers for name in forbidden)


async def assert_only_jpeg_and_png(read: Callable[[bytes], Awaitable[Pixels]]) -> None:
    """I: what is neither by its content is refused as such, whatever else it is."""
    picture = Image.fromarray(random_images(1)[0])
    foreign = []
    for form in FOREIGN:
        buffer = BytesIO()
        picture.save(buffer, form)
        foreign.append(buffer.getvalue())
    for data in (*foreign, b"", b"<svg/>", b"%PDF-1.7", b"PK\x03\x04", b"hello"):
        with pytest.raises(ServiceError) as error:
            await read(data)
        assert error.value.refusal is UNSUPPORTED_IMAGE


def unpickling(source: str) -> list[str]:
    """M: what in a module could load a pickle."""
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
    """A: the comparisons in a module that would take as long as a guess is right."""

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
    """O: every set of labels that the metrics have."""
    return {
        tuple(sample.labels.items()) for metric in registry.collect() for sample in metric.samples
    }
