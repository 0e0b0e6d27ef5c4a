"""The console in this process, states to show, and the check of its group of promises."""

import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from stingy_clients.documents.audit_report import AuditReport
from stingy_server import Database, Keys, Settings
from stingy_server.console.app import STATIC, TYPES, console_app
from stingy_server.console.estimates import Audits
from stingy_server.console.feed import Feed
from stingy_server.console.tokens import ConsoleAccess, make_token
from stingy_server.loopback.guard import LoopbackGuard
from stingy_server.settings import Tier
from stingy_server.store.key import Key
from stingy_server.store.ledger import Entry
from stingy_server.times import stamp

PORT = 8090
OPERATOR = "olga@host"
CHANGES = ("release", "revoke")
ANSWER = Entry(stamp(), "r", "k", "digits", "1", "f0", "aa", 2, 2, 10.0, 200, "answer", 1500)

Guard = Callable[..., LoopbackGuard]


class Page:
    """A console and a browser that has opened it.

    Attributes:
        client: sends requests with the session's cookie.
        access: the secrets of the console.
        feed: the state that it shows.
    """

    def __init__(self, client: httpx.AsyncClient, access: ConsoleAccess, feed: Feed) -> None:
        self.client = client
        self.access = access
        self.feed = feed

    async def document(self, **query: str) -> dict[str, Any]:
        """Return the page's document, of a new read."""
        self.feed._tried = float("-inf")
        response = await self.client.get("/state", params=query)
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    async def key(self, key_id: str) -> dict[str, Any]:
        (found,) = (row for row in (await self.document())["keys"] if row["id"] == key_id)
        return dict(found)

    async def change(self, key_id: str, action: str, **headers: str) -> httpx.Response:
        """Send a change as the page does, or with these headers."""
        token = {"X-CSRF-Token": str((await self.document())["csrf"])}
        return await self.client.post(f"/keys/{key_id}/{action}", headers=token | headers)


@asynccontextmanager
async def opened(
    state: Path,
    *,
    store: str | None = None,
    writer: str | None = None,
    audits: Sequence[AuditReport] = (),
    tiers: Mapping[str, Tier] | None = None,
    guard: Guard = LoopbackGuard,
    signed_in: bool = True,
) -> AsyncIterator[Page]:
    """Run the console on a state, behind its guard, with one client."""
    settings = Settings(state=state, store=store, tiers=dict(tiers or {}))
    feed = Feed(settings, Audits(audits, settings.tiers), operator=OPERATOR)
    access = ConsoleAccess((state / "pepper").read_bytes(), PORT)
    app = guard(
        console_app(feed, writer=writer),
        access=access,
        port=PORT,
        max_body_bytes=1024,
        another="For another, run: stingy console token",
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    try:
        async with httpx.AsyncClient(
            transport=transport, base_url=f"http://127.0.0.1:{PORT}"
        ) as client:
            if signed_in:
                await sign_in(client, state)
            yield Page(client, access, feed)
    finally:
        feed.close()


async def sign_in(client: httpx.AsyncClient, state: Path) -> httpx.Response:
    token = make_token((state / "pepper").read_bytes(), PORT)
    return await client.get("/", params={"token": token})


def addresses() -> list[tuple[str, str]]:
    """List every request that the console knows, and some that it does not."""
    files = [path.name for path in STATIC.iterdir() if path.suffix in TYPES]
    assert len(files) > 5
    reads = ["/", "/state", "/keys", "/nothing", *(f"/{name}" for name in files)]
    changes = [f"/keys/k/{action}" for action in CHANGES]
    return [("GET", path) for path in reads] + [("POST", path) for path in changes]


async def assert_closed_to_strangers(client: httpx.AsyncClient) -> None:
    """Check a promise of V: without a session every address has one answer, a 401."""
    bodies = set()
    for method, path in addresses():
        response = await client.request(method, path)
        assert response.status_code == 401, (method, path)
        bodies.add(response.text)
    assert len(bodies) == 1


def make_state(
    state: Path, *names: str, store: str | None = None, **options: Any
) -> list[tuple[Key, str]]:
    """Make a state with keys of these names. Return each key with its text."""
    with closing(Database(state, store=store)) as database:
        keys = Keys(database)
        return [keys.create(name, budget=500, **options) for name in names]


def add_entries(state: Path, entries: Iterable[Entry], *, store: str | None = None) -> None:
    """Write entries into the ledger, in no chain, because 100,000 take long otherwise."""
    columns = ", ".join(Entry._fields)
    places = ", ".join("?" * len(Entry._fields))
    statement = f"INSERT INTO ledger ({columns}) VALUES ({places})"  # noqa: S608
    with closing(Database(state, store=store)) as database, database.transaction():
        for entry in entries:
            database.execute(statement, tuple(entry))


def entry(key: str, *, ago_s: float = 5.0, now: float | None = None, **fields: Any) -> Entry:
    """Make an entry of so many seconds before now, an answer if no field says otherwise."""
    at = (time.time() if now is None else now) - ago_s
    time_text = stamp(datetime.fromtimestamp(at, UTC))
    made = ANSWER._replace(time=time_text, key=key, request=secrets.token_hex(4))
    return made._replace(**fields)


def make_report(*, fingerprint: str, model: str = "digits", version: str = "1") -> AuditReport:
    """Make a report of one endpoint: 90 % for the teacher, 50 % without the API.

    With 100 answers the attacker gains 4 points of 40, with 1,000 answers 20.
    """

    def summary(endpoint: str, accuracy: float, budget: int | None, queries: int) -> dict[str, Any]:
        return {
            "endpoint": endpoint,
            "attack": "no_api" if endpoint == "none" else "two_labels",
            "student": "cnn",
            "attacker": "owner",
            "n": 5,
            "accuracy_mean": accuracy,
            "accuracy_spread": 0.5,
            "uplift_mean": accuracy - 50.0,
            "queries": queries,
            "budget": budget,
        }

    return AuditReport.model_validate(
        {
            "schema": "stingy.audit/1",
            "config": {"title": "Digits", "attackers": [{"name": "owner"}]},
            "endpoints": [
                {
                    "name": "e",
                    "policy": "stingy",
                    "fingerprint": fingerprint,
                    "model": model,
                    "version": version,
                    "queries_charged": 1000,
                    "teacher_accuracy": 90.0,
                }
            ],
            "summary": [
                summary("none", 50.0, 100, 0),
                summary("none", 50.0, None, 0),
                summary("e", 54.0, 100, 100),
                summary("e", 70.0, None, 1000),
            ],
        }
    )
