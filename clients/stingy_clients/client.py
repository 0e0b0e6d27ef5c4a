"""The client: blocking calls over one connection pool.

Invariant: it holds no logic of its own; what is asked, checked and retried is decided in `flows`.
"""

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

import httpx
import numpy as np
from numpy.typing import NDArray

from stingy_clients.answers import Answer, Float32, Int64, ModelInfo, Usage
from stingy_clients.endpoint import Endpoint
from stingy_clients.errors import BadInput
from stingy_clients.flows import Flow, Flows, T
from stingy_clients.images import Image, Pixels


class Client:
    """Asks the Stingy server at `url` with `key`; use it in a `with` statement or `close()` it.

    Args:
        url: where the server is, with http:// or https://.
        key: the API key. It is sent to `url` only and shown nowhere.
        timeout: seconds, each for connecting, for sending and for the next bytes to arrive.
        retries: how often to ask again where that is safe. A POST that got no answer never is, for
            it may have been charged; an exhausted budget never is.
        transport: an httpx transport in place of the network, for tests.

    Raises:
        BadInput: url, key or retries cannot be used.

    Every method raises a ClientError: see `stingy_clients.errors` for the tree. A closed client
    raises BadInput.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeout: float = 30.0,
        retries: int = 3,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._endpoint = Endpoint(url, key)
        self._flows = Flows(retries=retries)
        self._http = httpx.Client(
            base_url=self._endpoint.url,
            headers=self._endpoint.headers(),
            timeout=timeout,
            transport=transport,
            follow_redirects=False,
        )

    def predict(self, image: Image, *, model: str) -> Answer:
        """The answer for one image.

        `image` is a path or the bytes of a JPEG or PNG, a uint8 array [H, W, 3] or [H, W], or a
        Pillow image.
        """
        return self._run(self._flows.predict(image, model=model))

    def predict_batch(
        self, images: Iterable[Image] | NDArray[np.generic], *, model: str
    ) -> list[Answer]:
        """The answers for many images, in their order; as few requests as the server allows.

        `images` is a list of what `predict` takes or one uint8 array [B, H, W, 3]. All of them are
        read and checked before the first is sent. An error carries in `answered` the answers of
        the requests before it: they are bought.
        """
        return self._run(self._flows.predict_batch(images, model=model))

    def predict_tensor(self, images: Pixels, *, model: str) -> tuple[Int64, Float32 | None]:
        """The answers for uint8 [B, H, W, 3] in one request: indices and scores, [B, N].

        Indices are int64, best first; scores float32, or None where the policy gives none. B is
        1 to the model's `max_batch`.
        """
        return self._run(self._flows.predict_tensor(images, model=model))

    def model(self, name: str) -> ModelInfo:
        """What the server says about a model; asked once a client, and again if it changes."""
        return self._run(self._flows.model(name))

    def usage(self) -> Usage:
        """What this key has asked and what is left, in images. Costs nothing."""
        return self._run(self._flows.usage())

    def ready(self) -> bool:
        """Whether the server takes requests now; False too if nothing answers. Never retried."""
        return self._run(self._flows.ready())

    def close(self) -> None:
        """Closes the connections."""
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
            raise BadInput("expected an open client, got a closed one: make another")
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
