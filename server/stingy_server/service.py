"""What happens between a decoded image and its answer: reserve, ask the engine, or give back."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from stingy_protection import ProtectionError, SparseLogits
from stingy_server.endpoints import Endpoint
from stingy_server.errors import (
    BUDGET_EXHAUSTED,
    DEADLINE,
    DRAINING,
    INTERNAL,
    REFUSED,
    STORE_UNAVAILABLE,
    UNKNOWN_MODEL,
    ServiceError,
)
from stingy_server.images import Pixels
from stingy_server.keys import Key, KeyStore, StoreUnavailable
from stingy_server.settings import Settings

log = logging.getLogger("stingy")


@dataclass
class Service:
    """The endpoints and the books, shared by all routes."""

    settings: Settings
    keys: KeyStore
    endpoints: Mapping[str, Endpoint]
    draining: bool = False

    def endpoint(self, name: str, version: str | None = None) -> Endpoint:
        """The endpoint of this name.

        Raises:
            ServiceError: there is none, or not in this version.
        """
        found = self.endpoints.get(name)
        if found is None or version not in (None, found.manifest.version):
            raise ServiceError(UNKNOWN_MODEL)
        return found

    async def answer(self, key: Key, endpoint: Endpoint, images: Pixels) -> SparseLogits:
        """Charge the key for a batch, all or nothing, and answer it.

        Whatever ends without an answer is given back.

        Args:
            images: [batch, height, width, 3], of the size the endpoint takes.

        Raises:
            ServiceError: budget_exhausted, overloaded, deadline, refused or internal.
        """
        if self.draining:
            raise ServiceError(DRAINING)
        self._reserve(key, len(images))
        try:
            async with asyncio.timeout(self.settings.deadline_s):
                return await endpoint.engine.predict(images)
        except BaseException as error:  # noqa: BLE001  a cancelled request is given back too
            self._refund(key, len(images))
            raise _told(error) from None

    def _reserve(self, key: Key, images: int) -> None:
        try:
            reserved = self.keys.reserve(key.id, images)
        except StoreUnavailable as error:
            log.error("%s", error)
            raise ServiceError(STORE_UNAVAILABLE) from None
        if not reserved:
            raise ServiceError(BUDGET_EXHAUSTED)

    def _refund(self, key: Key, images: int) -> None:
        try:
            self.keys.refund(key.id, images)
        except StoreUnavailable as error:
            # The charge stands: better one image too many charged than one too few.
            log.error("%s", error)


def _told(error: BaseException) -> BaseException:
    """What may be told of a failure between reservation and answer."""
    if isinstance(error, ServiceError) or not isinstance(error, Exception):
        return error
    if isinstance(error, TimeoutError):
        return ServiceError(DEADLINE)
    log.error("no answer: %s", type(error).__name__)
    return ServiceError(REFUSED if isinstance(error, ProtectionError) else INTERNAL)
