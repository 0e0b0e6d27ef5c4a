"""Parts that each break one promise, to show that the check of that promise fails."""

import asyncio
import contextlib
import io
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from prometheus_client import CollectorRegistry, Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from torch import Tensor

from stingy_protection import (
    KeyedNoise,
    Looseness,
    Policy,
    Proposal,
    SparseLogits,
    best_first,
    sanitize,
)
from stingy_server import Database
from stingy_server.codec.decode_pool import DecodePool, Result
from stingy_server.detection.fair_sample import FairSample, KeySample
from stingy_server.process.request_parser import RequestParser
from stingy_server.rpc.methods import Rpc
from stingy_server.shares import Shares
from stingy_server.store.budgets import key_owner
from stingy_server.store.ledger import Head, Ledger


def spend_unlocked(
    state: Path, key_id: str, tries: int, granted: "multiprocessing.Queue[int]"
) -> None:
    """Spend a budget by reading first and counting later, as a counter without a lock does.

    No process counts before two have read, because one after the other they would count right.
    Puts the number of granted images in `granted`.
    """
    count = 0
    with closing(Database(state, lock_timeout_s=60)) as database:
        owner = key_owner(key_id)
        for _ in range(tries):
            ((total, used),) = database.execute(
                "SELECT total, used FROM budgets WHERE owner = ?", (owner,)
            ).fetchall()
            (state / f"read-{os.getpid()}").touch()
            while len(list(state.glob("read-*"))) < 2:
                time.sleep(0.01)
            if used < total:
                count += 1
                database.execute("UPDATE budgets SET used = ? WHERE owner = ?", (used + 1, owner))
    granted.put(count)


def lingering(work: Callable[[Tensor], object], policy: Policy, logits: Tensor) -> SparseLogits:
    """Do more work than the gate if the first logit, which is withheld, is above 0."""
    if logits[0, 0] > 0:
        work(logits)
    return sanitize(policy, logits)


def looser_by_support(policy: Policy, other: Policy) -> Looseness:
    """Call the policy with more classes the looser one, whatever its scores."""
    return Looseness.LOOSER if policy.support > other.support else Looseness.STRICTER


def unstable_top(logits: Tensor, n: int) -> Tensor:
    """Return the indices of the n largest logits, of equal ones the last, as a partial sort may."""
    return (
        logits.flip(1)
        .sort(dim=1, descending=True, stable=True)
        .indices.mul(-1)
        .add(logits.shape[1] - 1)[:, :n]
    )


@contextlib.contextmanager
def folder_in_place(out: Path) -> Iterator[Path]:
    """Give the folder of a bundle itself, so that a pack writes before its trial."""
    yield out


class FirstComeShares(Shares):
    """Shares that give any owner all that is free."""

    __slots__ = ()

    def take(self, owner: str, amount: int = 1) -> bool:
        if amount > self.free:
            return False
        self.free -= amount
        return True


class FirstComePool(DecodePool):
    """A pool with one queue for all callers."""

    async def run(
        self, caller: str, units: Sequence[Callable[[], Result]], *, cost: int
    ) -> list[Result]:
        calls = (asyncio.wrap_future(self._executor.submit(unit)) for unit in units)
        return await asyncio.gather(*calls)


def decode_any_format(
    data: bytes, size: tuple[int, int], *, exif_rotation: bool = False
) -> Image.Image:
    """Decode a picture of any format to RGB."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def size_of_any_format(data: bytes) -> tuple[int, int]:
    """Return (width, height) of a picture of any format."""
    return Image.open(io.BytesIO(data)).size


class FirstComeSample(FairSample):
    """A sample whose room goes to the keys that come first."""

    def _has_room(self, sample: KeySample) -> bool:
        return self._chosen < self._limit


@dataclass(frozen=True, kw_only=True)
class NoiseBeforeChoice(KeyedNoise):
    """A policy that chooses its classes after the noise, so that the noise shows more classes."""

    def propose_with(self, logits: Tensor, noise: Tensor) -> Proposal:
        values, indices = best_first(logits + self.sigma * noise, self.n)
        top1 = best_first(logits, 1)[1]
        found = torch.where(indices == top1, indices[:, :1], indices)
        return Proposal(torch.cat([top1, found[:, 1:]], dim=1), values)


class OpenRoute:
    """An application with one route that requires no key."""

    def __init__(self, app: ASGIApp, path: str) -> None:
        self._app = app
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != self._path:
            await self._app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"welcome"})


class ServerHeader:
    """An application that names its server."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def add_header(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"server", b"stingy/0.1")]
            await send(message)

        await self._app(scope, receive, add_header)


class CountingPaths:
    """An application whose request counter has a label for each path."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
        self._requests = Counter("requests", "requests by path", ["path"], registry=registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._requests.labels(scope["path"]).inc()
        await self._app(scope, receive, send)


def same_text(left: str, right: str) -> bool:
    """Compare two texts up to their first difference, so a closer guess takes longer."""
    if len(left) != len(right):
        return False
    for one, other in zip(left, right, strict=True):  # noqa: SIM110  a loop in Python shows the time
        if one != other:
            return False
    return True


class SegmentParser(RequestParser):
    """A parser that looks for the end of a head in the latest segment alone."""

    __slots__ = ()

    def feed(self, data: bytes) -> None:
        if not self.in_body and self.unparsed and b"\r\n\r\n" not in data:
            self.unparsed += data
            return
        super().feed(data)


class MemoryHeads(Ledger):
    """A ledger whose chain goes on in memory, whatever became of the transaction."""

    def _replace_head(self, last: tuple[str, int, bytes]) -> bool:
        writer, number, hashed = last
        if not writer:
            return False
        self._database.execute(
            "UPDATE ledger_heads SET number = ?, hash = ? WHERE writer = ?",
            (number, hashed, writer),
        )
        self._head = Head(writer, number, hashed)
        return True


def with_open_rpc(rpcs: Mapping[str, Rpc], name: str) -> dict[str, Rpc]:
    """Return the rpcs, of which one of this name needs no key."""
    return {
        path: replace(rpc, needs_key=rpc.needs_key and not path.endswith(f"/{name}"))
        for path, rpc in rpcs.items()
    }
