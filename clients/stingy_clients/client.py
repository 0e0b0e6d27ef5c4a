"""The client: blocking calls over one connection pool.

Invariant: it has no logic of its own. `flows` decides every request, check and retry.
"""

import time
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


class Client:
    """A client of the Stingy server at `url`. Use it in a `with` statement or `close()` it.

    Args:
        url: the server's address, with http:// or https://.
        key: the API key. The client sends it to `url` only and never shows it.
        timeout: seconds, separately for connecting, for sending and for the next bytes to arrive.
        retries: the largest number of retries of a request that is safe to retry. A POST without
            a response is not safe, because it may have been charged. An exhausted budget is never
            retried.
        ca: a file of certificates in PEM to trust in place of the well-known ones, such as that of
            your own authority.
        transport: an httpx transport instead of the network, for tests.

    Raises:
        BadInput: if url, key, retries or ca cannot be used.

    Every method raises a ClientError if it fails: see `stingy_clients.errors` for the tree. A
    closed client raises BadInput.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeout: float = 30.0,
        retries: int = 3,
        ca: str | Path | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._endpoint = Endpoint(url, key)
        self._flows = Flows(retries=retries)
        self._http = httpx.Client(
            base_url=self._endpoint.url,
            headers=self._endpoint.headers(),
            timeout=timeout,
            verify=trust(ca),
            transport=transport,
            follow_redirects=False,
        )

    def predict(
        self, image: Image, *, model: str | None = None, version: str | None = None
    ) -> Answer:
        """Classify one image.

        Args:
            image: a path or the bytes of a JPEG, PNG or WebP, a uint8 array [H, W, 3] or [H, W],
                or a Pillow image.
            model: the model's name on the server; None if the server serves one model.
            version: the model's version; None for the version that the server gives this key.
        """
        return self._run(self._flows.predict(image, model=model, version=version))

    def predict_batch(
        self,
        images: Iterable[Image] | NDArray[np.generic],
        *,
        model: str | None = None,
        version: str | None = None,
    ) -> list[Answer]:
        """Classify many images, in as few requests as the server allows.

        All images are read and checked before the first request. If a request fails, the error's
        `answered` has the answers of the earlier requests, because the key has paid for them.

        Args:
            images: a list of the images that `predict` accepts, or one uint8 array [B, H, W, 3].
            model, version: as in `predict`.

        Returns:
            one answer per image, in the order of the images.
        """
        return self._run(self._flows.predict_batch(images, model=model, version=version))

    def predict_tensor(
        self, images: Pixels, *, model: str | None = None, version: str | None = None
    ) -> tuple[Int64, Float32 | None]:
        """Classify an array of images in one request.

        Args:
            images: uint8 [B, H, W, 3], with B from 1 to `max_arrays(H, W)` of the model's metadata.
            model, version: as in `predict`.

        Returns:
            indices int64 [B, N], best first, and scores float32 [B, N]. The scores are None if
            the policy has none.
        """
        return self._run(self._flows.predict_tensor(images, model=model, version=version))

    def models(self) -> list[ServedModel]:
        """Return the models that the server serves, in the order of their names."""
        return self._run(self._flows.models())

    def model(self, name: str | None = None, *, version: str | None = None) -> ModelInfo:
        """Return a model's metadata. The client caches it until an answer shows a new version.

        Args:
            name: the model's name on the server; None if the server serves one model.
            version: the model's version; None for the version that the server gives this key.
        """
        return self._run(self._flows.model(name, version=version))

    def usage(self) -> Usage:
        """Return the used and the remaining images of this key. This costs no images."""
        return self._run(self._flows.usage())

    def ready(self) -> bool:
        """Return True if the server accepts requests now, and False if not or if it is unreachable.

        This request is never retried.
        """
        return self._run(self._flows.ready())

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._endpoint.url!r})"

    def _run(self, flow: Flow[T]) -> T:
        if self._http.is_closed:
            raise BadInput("expected an open client, got a closed one: create a new client")
        try:
            call = next(flow)
            while True:
                time.sleep(call.wait)
                try:
                    response = self._http.request(
                        call.method, call.path, content=call.content, headers=call.headers
                    )
                except httpx.RequestError as error:
                    call = flow.throw(error)
                else:
                    call = flow.send(response)
        except StopIteration as stop:
            result: T = stop.value
            return result
