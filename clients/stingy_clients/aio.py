"""The asyncio client: the same methods as `Client`, awaited.

Invariant: it has no logic of its own. `flows` decides every request, check and retry.
"""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import numpy as np
from numpy.typing import NDArray

from stingy_clients.answers import Answer, Float32, Int64, ModelInfo, ServedModel, Usage
from stingy_clients.endpoint import Endpoint, trust
from stingy_clients.errors import BadInput
from stingy_clients.flows import Flow, Flows, T
from stingy_clients.images import Image, Pixels


class AsyncClient:
    """The asyncio version of `Client`, with the same arguments and methods.

    Use it in an `async with` statement or `await close()`. Reading image files blocks the event
    loop. Pass bytes if that matters.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeout: float = 30.0,
        retries: int = 3,
        ca: str | Path | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._endpoint = Endpoint(url, key)
        self._flows = Flows(retries=retries)
        self._http = httpx.AsyncClient(
            base_url=self._endpoint.url,
            headers=self._endpoint.headers(),
            timeout=timeout,
            verify=trust(ca),
            transport=transport,
            follow_redirects=False,
        )

    async def predict(
        self, image: Image, *, model: str | None = None, version: str | None = None
    ) -> Answer:
        """Classify one image, as `Client.predict` does."""
        return await self._run(self._flows.predict(image, model=model, version=version))

    async def predict_batch(
        self,
        images: Iterable[Image] | NDArray[np.generic],
        *,
        model: str | None = None,
        version: str | None = None,
    ) -> list[Answer]:
        """Classify many images, as `Client.predict_batch` does."""
        return await self._run(self._flows.predict_batch(images, model=model, version=version))

    async def predict_tensor(
        self, images: Pixels, *, model: str | None = None, version: str | None = None
    ) -> tuple[Int64, Float32 | None]:
        """Classify an array in one request, as `Client.predict_tensor` does."""
        return await self._run(self._flows.predict_tensor(images, model=model, version=version))

    async def models(self) -> list[ServedModel]:
        """Return the models that the server serves, as `Client.models` does."""
        return await self._run(self._flows.models())

    async def model(self, name: str | None = None, *, version: str | None = None) -> ModelInfo:
        """Return the model's metadata, as `Client.model` does."""
        return await self._run(self._flows.model(name, version=version))

    async def usage(self) -> Usage:
        """Return the usage of this key, as `Client.usage` does."""
        return await self._run(self._flows.usage())

    async def ready(self) -> bool:
        """Check that the server is ready, as `Client.ready` does."""
        return await self._run(self._flows.ready())

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self._endpoint.url!r})"

    async def _run(self, flow: Flow[T]) -> T:
        if self._http.is_closed:
            raise BadInput("expected an open client, got a closed one: create a new client")
        try:
            call = next(flow)
            while True:
                await asyncio.sleep(call.wait)
                try:
                    response = await self._http.request(
                        call.method, call.path, content=call.content, headers=call.headers
                    )
                except httpx.RequestError as error:
                    call = flow.throw(error)
                else:
                    call = flow.send(response)
        except StopIteration as stop:
            result: T = stop.value
            return result
