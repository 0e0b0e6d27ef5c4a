"""The page's application. It runs behind a `LoopbackGuard`, which decides who may send a request.

Every refusal of an image is the sentence that the server's API has for it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Route

from stingy_clients.documents.audit_report import AuditReport
from stingy_protection import PolicyConfigError, ProtectionError
from stingy_server.errors import JSON, ServiceError
from stingy_server.tryout.choice import Chooser
from stingy_server.tryout.view import audit_fields, folder_fields, image_fields, policy_fields
from stingy_server.tryout.workbench import MAX_NUMBERS, FolderFull, Workbench

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

STATIC = Path(__file__).parent / "static"
CSRF_PLACE = "{csrf}"  # in the page


def try_app(workbench: Workbench, chooser: Chooser, audit: AuditReport | None) -> Starlette:
    """Make the page of a bundle.

    Args:
        workbench: the bundle.
        chooser: the policies and tiers.
        audit: the audit to show; None for none.
    """
    page = _Page(workbench, chooser, audit)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> "AsyncIterator[None]":
        yield
        workbench.close()

    return Starlette(
        routes=[
            Route("/", page.html),
            Route("/page.css", _file("page.css", "text/css")),
            Route("/page.js", _file("page.js", "text/javascript")),
            Route("/icon.svg", _file("icon.svg", "image/svg+xml")),
            Route("/setup", page.setup),
            Route("/view", page.view),
            Route("/images", page.add_image, methods=["POST"]),
            Route("/folders", page.add_folder, methods=["POST"]),
            Route("/folders/{number:int}", page.add_to_folder, methods=["POST"]),
        ],
        lifespan=lifespan,
    )


class _Page:
    """The routes of one bundle."""

    def __init__(self, workbench: Workbench, chooser: Chooser, audit: AuditReport | None) -> None:
        self._workbench = workbench
        self._chooser = chooser
        self._audit = audit
        self._html = (STATIC / "page.html").read_text(encoding="utf-8")

    async def html(self, request: Request) -> Response:
        return HTMLResponse(self._html.replace(CSRF_PLACE, request.state.csrf))

    async def setup(self, _: Request) -> Response:
        """Return what stays the same: the bundle, the policies and the tiers."""
        manifest = self._workbench.manifest
        height, width = manifest.preprocessing.size
        return _json(
            {
                "name": manifest.name,
                "version": manifest.version,
                "classes": manifest.classes,
                "size": f"{width} × {height}",  # noqa: RUF001  the sign of a product
                "own": manifest.policy,
                "policies": [asdict(offer) for offer in self._chooser.offers()],
                "tiers": list(self._chooser.tiers),
                "audit": None if self._audit is None else self._audit.title,
            }
        )

    async def view(self, request: Request) -> Response:
        """Return what leaves under a policy and a tier, of an image and of a folder."""
        query = request.query_params
        try:
            return _json(await asyncio.to_thread(self._view, dict(query)))
        except PolicyConfigError as error:
            return _refusal(400, "; ".join(error.faults))
        except ProtectionError as error:
            return _refusal(422, f"The gate refuses the answer: {error}.")

    def _view(self, query: Mapping[str, str]) -> dict[str, Any]:
        choice = self._chooser.choose(query)
        manifest = self._workbench.manifest
        known = self._workbench.image(_number(query.get("image")))
        folder = self._workbench.folder(_number(query.get("folder")))
        audit = self._audit
        return {
            "policy": policy_fields(choice),
            "image": None if known is None else image_fields(choice, known, manifest),
            "folder": None if folder is None else folder_fields(choice, *folder),
            "audit": None if audit is None else audit_fields(audit, choice, manifest),
        }

    async def add_image(self, request: Request) -> Response:
        try:
            return _json({"image": await self._workbench.add_image(await request.body())})
        except ServiceError as error:
            return _refusal(error.refusal.status, error.refusal.message)

    async def add_folder(self, _: Request) -> Response:
        return _json({"folder": self._workbench.add_folder()})

    async def add_to_folder(self, request: Request) -> Response:
        number, label = request.path_params["number"], request.query_params.get("label", "")
        body = await request.body()
        try:
            images = await self._workbench.add_to_folder(number, body, label=label)
        except ServiceError as error:
            return _refusal(error.refusal.status, error.refusal.message)
        except KeyError:
            return _refusal(404, "Expected a folder of this page and the label of a class.")
        except FolderFull:
            most = MAX_NUMBERS // self._workbench.num_classes
            return _refusal(413, f"Expected at most {most} images in a folder, got more.")
        return _json({"images": images})


def _file(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def send(_: Request) -> Response:
        return FileResponse(STATIC / name, media_type=kind)

    return send


def _number(text: str | None) -> int:
    """Return the number of an image or a folder; 0, which none has, for another text."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else 0


def _json(document: Any) -> Response:
    return Response(orjson.dumps(document), media_type=JSON)


def _refusal(status: int, sentence: str) -> Response:
    return Response(orjson.dumps({"error": sentence}), status, media_type=JSON)
