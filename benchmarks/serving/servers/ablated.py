"""Run Stingy's own server with layers removed, to measure the cost of each. For benchmarks only.

    python ablated.py LAYERS SETTINGS.toml

The product has no switch for any of this. A layer is removed by putting a stand-in in its place.
All else is the server as shipped, started as it starts itself.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from fastapi import FastAPI
from rich.console import Console
from starlette.types import ASGIApp, Receive, Scope, Send
from torch import Tensor

from stingy_protection import Policy, SparseLogits
from stingy_server import app as app_module
from stingy_server import serve as serve_module
from stingy_server.edge.guard import JSON_LENGTH
from stingy_server.edge.hot_path import HotPath
from stingy_server.inference import engine as engine_module
from stingy_server.observability.request_record import RequestRecord
from stingy_server.queries import answering as answering_module
from stingy_server.service import Service
from stingy_server.settings_sources import load_settings
from stingy_server.store.budget import Reservation
from stingy_server.store.key import Caller


class UnchangedKeys:
    """Keys that never change, so that no store is read for them."""

    def changes(self) -> int:
        return 0


class NoBudgets:
    """Budgets that grant every reservation."""

    def reserve(self, owners: Sequence[str], images: int) -> Reservation:
        return Reservation(tuple(owners), images, (0,) * len(owners), (0,) * len(owners))

    def refund(self, reservation: Reservation) -> None:
        """Do nothing, because nothing was charged."""


class NoLedger:
    """A ledger that writes no entry and digests no pixels."""

    def append(self, *entries: object) -> None:
        """Drop the entries."""

    def heads(self) -> list[object]:
        return []

    def append_all(self, entries: Sequence[object]) -> list[None]:
        """Drop the entries."""
        return [None] * len(entries)

    def digest(self, images: object) -> str:
        return ""


class NoWrites:
    """A group commit without a transaction, because nothing is left to be written."""

    async def run_together(
        self, function: Callable[..., Sequence[object]], argument: object, **_: object
    ) -> object:
        return function([argument])[0]

    async def flush(self) -> None:
        """Do nothing, because nothing waits."""

    def close(self) -> None:
        """Do nothing, because nothing waits."""


class NoGuard:
    """A guard that lets every request in: no key, no limits, no entry, no headers of its own."""

    def __init__(self, app: ASGIApp, *, service: Service, hot_path: HotPath) -> None:
        self._app = app
        self._hot_path = hot_path
        self._key = service.keys.all()[0][0]
        caller = Caller(self._key, spent=False, changes=service.keys.changes())
        service.charges.known.keep("", caller)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord("-", time.perf_counter(), key=self._key)
        scope.setdefault("state", {})["record"] = record
        route = self._hot_path.find(scope["method"], scope["path"])
        if route is None:
            await self._app(scope, receive, send)
            return
        json_length = dict(scope["headers"]).get(JSON_LENGTH)
        encoded = await self._hot_path.answer(
            route, record, receive, json_length=json_length, headers=scope["headers"]
        )
        headers = [*encoded.headers, (b"content-length", b"%d" % len(encoded.body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": encoded.body})


def top_unchecked(policy: Policy, logits: Tensor, **_: object) -> SparseLogits:
    """Return the top classes with raw logits: no inspection, no renormalisation, no grid."""
    values, indices = logits.topk(policy.support)
    return SparseLogits(
        indices=indices.clone(),
        scores=values.clone(),
        num_classes=policy.num_classes,
        form=policy.scores,
        decimals=policy.decimals,
    )


def without_key(service: Service) -> None:
    caller = Caller(service.keys.all()[0][0], spent=False, changes=0)

    service.charges.known.find = lambda secret: caller
    service.charges = replace(service.charges, keys=UnchangedKeys())


def without_budget(service: Service) -> None:
    service.budgets = NoBudgets()
    service.charges = replace(service.charges, budgets=service.budgets)


def without_ledger(service: Service) -> None:
    service.ledger = NoLedger()


def without_metrics(service: Service) -> None:
    service.metrics.count = lambda *_, **__: None


def without_meter(service: Service) -> None:
    answering_module.leak_bits = lambda answer: 0.0


def without_gate(service: Service) -> None:
    engine_module.sanitize = top_unchecked


def without_guard(service: Service) -> None:
    """Do nothing, because `take_out` replaces `Guard` before the application is built."""


LAYERS: dict[str, Callable[[Service], None]] = {
    "key": without_key,
    "budget": without_budget,
    "ledger": without_ledger,
    "metrics": without_metrics,
    "meter": without_meter,
    "gate": without_gate,
    "guard": without_guard,
}


def take_out(layers: list[str], build: Callable[..., FastAPI]) -> Callable[..., FastAPI]:
    """Wrap `build` so that its applications lack these layers."""
    if "guard" in layers:
        app_module.Guard = NoGuard

    def ablated(*arguments: object, **options: object) -> FastAPI:
        app = build(*arguments, **options)
        for layer in layers:
            LAYERS[layer](app.state.service)
        if {"budget", "ledger"} <= set(layers):
            app.state.service.writes = NoWrites()
        return app

    return ablated


def main(layers: list[str], config: Path) -> None:
    serve_module.create_app = take_out(layers, serve_module.create_app)
    settings, faults = load_settings(config)
    serve_module.serve(settings, faults, console=Console(stderr=True))


if __name__ == "__main__":
    main(sys.argv[1].split(","), Path(sys.argv[2]))
