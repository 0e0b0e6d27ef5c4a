"""The page of `stingy try`, in this process and as a command, and the check of its promises."""

import json
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx

from serving import STINGY, load_one, make_settings, server_environment
from stingy_clients.documents.audit_report import AuditReport
from stingy_protection import SparseLogits
from stingy_server.loopback.access import Access
from stingy_server.loopback.guard import LoopbackGuard
from stingy_server.models.opening import open_forward
from stingy_server.settings import Tier
from stingy_server.tryout.app import try_app
from stingy_server.tryout.choice import Chooser
from stingy_server.tryout.workbench import Workbench

PORT = 8091
TIERS = {"partner": Tier(classes=1, decimals=1), "order": Tier(scores="rank")}


def make_workbench(bundle: Path, **options: Any) -> Workbench:
    """Open a bundle as `stingy try` does."""
    settings = make_settings(Path("unused"), bundle, allow_open=True, **options)
    model = load_one(settings)
    assert model.network is not None
    forward = open_forward(
        model.network,  # type: ignore[arg-type]  # no artefact
        manifest=model.manifest,
        policy=model.policy,
        settings=settings,
    )
    return Workbench(model.manifest, forward, settings=settings, secret=bytes(16))


class Page:
    """A page and the browser that has opened it.

    Attributes:
        client: sends requests with the session's cookie.
        access: the secrets of the page.
    """

    def __init__(self, client: httpx.AsyncClient, access: Access) -> None:
        self.client = client
        self.access = access
        self.csrf = ""

    async def enter(self) -> httpx.Response:
        """Open the page with a new token."""
        entered = await self.client.get("/", params={"token": self.access.new_token()})
        html = (await self.client.get("/")).text
        self.csrf = html.partition('name="csrf" content="')[2].partition('"')[0]
        return entered

    async def post(self, path: str, body: bytes = b"", **headers: str) -> httpx.Response:
        return await self.client.post(
            path, content=body, headers={"X-CSRF-Token": self.csrf, **headers}
        )

    async def view(self, **query: Any) -> dict[str, Any]:
        response = await self.client.get("/view", params=query)
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    async def view_of(self, image: bytes, **query: Any) -> dict[str, Any]:
        """Drop an image, and return what leaves of it."""
        response = await self.post("/images", image)
        assert response.status_code == 200, response.text
        return await self.view(image=response.json()["image"], **query)


@asynccontextmanager
async def opened(
    bundle: Path,
    *,
    audit: AuditReport | None = None,
    tiers: Mapping[str, Tier] = TIERS,
    signed_in: bool = True,
    **options: Any,
) -> AsyncIterator[Page]:
    """Run the page of a bundle in this process, behind its guard."""
    workbench = make_workbench(bundle, **options)
    manifest = workbench.manifest
    chooser = Chooser(manifest.policy, num_classes=len(manifest.classes), tiers=tiers)
    access = Access()
    app = LoopbackGuard(
        try_app(workbench, chooser, audit),
        access=access,
        port=PORT,
        max_body_bytes=2**20,
        another="Press Enter for another.",
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    base = f"http://127.0.0.1:{PORT}"
    try:
        async with httpx.AsyncClient(transport=transport, base_url=base) as client:
            page = Page(client, access)
            if signed_in:
                await page.enter()
            yield page
    finally:
        workbench.close()


@contextmanager
def trying(*arguments: str | Path, cwd: Path) -> Iterator[str]:
    """Run a real `stingy try` on a free port, and give the address that it prints.

    The process cannot write to any file, so nothing of an image reaches a disk while it works.
    """
    process = subprocess.Popen(
        ["prlimit", "--fsize=0", *STINGY, "try", *arguments],
        cwd=cwd,
        env=server_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), process.communicate(timeout=10)
        yield address
    finally:
        process.terminate()
        process.communicate(timeout=30)


def numbers(view: Mapping[str, Any], column: str) -> dict[str, str]:
    """Return the texts of the classes that leave in a column, by their labels."""
    rows = view["image"]["rows"]
    return {row["label"]: row["leaves"][column] for row in rows if row["leaves"][column]}


def left(view: Mapping[str, Any], column: str) -> set[str]:
    """Return the labels of the classes that leave in a column, with a score or without."""
    rows = view["image"]["rows"]
    return {row["label"] for row in rows if row["leaves"][column] is not None}


def assert_tier_shows_no_more(
    tighten: Callable[[SparseLogits, Tier], SparseLogits], answer: SparseLogits, tier: Tier
) -> None:
    """Check a promise of Y: a tier shows classes of the policy's answer alone, in its order."""
    smaller = tighten(answer, tier)
    kept = smaller.indices.shape[1]
    assert kept <= answer.indices.shape[1]
    assert smaller.decimals <= answer.decimals
    rows = zip(smaller.indices.tolist(), answer.indices.tolist(), strict=True)
    assert all(set(one) <= set(other) for one, other in rows)


def files_below(*folders: Path) -> dict[Path, bytes]:
    """Read every regular file below some folders."""
    return {
        path: path.read_bytes()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def make_report(
    *,
    fingerprint: str,
    model: str = "digits",
    version: str = "1",
    uplift: float = 10.0,
    broken: bool = False,
    attack: str = "two_labels",
) -> AuditReport:
    """Make a report of one endpoint: 90 % for the teacher, 50 % without the API, five seeds."""
    return AuditReport.model_validate_json(
        json.dumps(
            report_document(
                fingerprint=fingerprint,
                model=model,
                version=version,
                uplift=uplift,
                broken=broken,
                attack=attack,
            )
        )
    )


def report_document(
    *,
    fingerprint: str,
    model: str = "digits",
    version: str = "1",
    uplift: float = 10.0,
    broken: bool = False,
    attack: str = "two_labels",
) -> dict[str, Any]:
    """Make the document of such a report."""
    base = {
        "student": "cnn",
        "attacker": "owner",
        "n": 5,
        "accuracy_spread": 1.0,
        "budget": None,
    }
    return {
        "schema": "stingy.audit/1",
        "config": {"title": "Digits", "attackers": [{"name": "owner"}], "endpoints": []},
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
            base
            | {"endpoint": "none", "attack": "no_api", "queries": 0}
            | {"accuracy_mean": 50.0, "uplift_mean": 0.0},
            base
            | {"endpoint": "e", "attack": attack, "queries": 1000, "n": 0 if broken else 5}
            | {
                "accuracy_mean": None if broken else 50.0 + uplift,
                "uplift_mean": None if broken else uplift,
            },
        ],
    }
