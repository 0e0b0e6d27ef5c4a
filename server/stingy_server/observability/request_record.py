"""The record of one request: its key, images and outcome. The ledger entry is made from it."""

import time
from dataclasses import dataclass, field

from stingy_server.admission import Place
from stingy_server.models.endpoints import Endpoint
from stingy_server.rates.rate_limits import RateState
from stingy_server.store.budget import Reservation
from stingy_server.store.key import Key
from stingy_server.store.ledger import NO_VALUE, Entry
from stingy_server.times import stamp


@dataclass(slots=True)
class RequestRecord:
    """The record of one request. Each stage of the server fills in its fields.

    The record is read once, when the request ends.

    Attributes:
        started: the start of the request, in seconds of `time.perf_counter`.
        query: whether the request is counted and recorded as a query; not if it reads metadata.
        secret: the text of the key, for a second look-up; never sent or logged.
        key_unchecked: whether the key is one that this process knew, and no charge has checked it.
        groups: the owners of budgets that a principal shares with others.
        spent: whether the key's budget did not cover one image when the head arrived.
        place: the room that the request holds.
        images: images in the request.
        answered: images answered.
        pixels: keyed digest of the request's pixels.
        bits: the leak meter's bits over the answers.
        event: "answer", the code of the refusal, or "cancelled".
        charged: the charge to refund if no answer comes.
        rate: the state of the key's rate, for headers of the response.
        unwatched: images reserved with the watch, to release if no answer comes.
        engine_started: the time of the call to the engine, on the clock of `started`.
        engine_finished: the time of the engine's answer, on the same clock.
    """

    request_id: str
    started: float
    query: bool = True
    key: Key | None = None
    secret: str = field(default="", repr=False)
    key_unchecked: bool = False
    groups: tuple[str, ...] = ()
    spent: bool = False
    place: Place | None = None
    endpoint: Endpoint | None = None
    images: int = 0
    answered: int = 0
    pixels: str | None = None
    bits: float = 0.0
    event: str = NO_VALUE
    charged: Reservation | None = None
    rate: RateState | None = None
    unwatched: int = 0
    engine_started: float | None = None
    engine_finished: float | None = None

    @property
    def caller(self) -> str:
        """The id of the key, or "-"."""
        return NO_VALUE if self.key is None else self.key.id

    @property
    def model(self) -> str:
        """The name of a served model, or "-"; never a name that a client invented."""
        return NO_VALUE if self.endpoint is None else self.endpoint.name

    def entry(self, status: int) -> Entry:
        """Return the ledger entry of a request that ended with this HTTP status."""
        endpoint = self.endpoint
        return Entry(
            time=stamp(),
            request=self.request_id,
            key=self.caller,
            model=self.model,
            version=NO_VALUE if endpoint is None else endpoint.manifest.version,
            fingerprint=NO_VALUE if endpoint is None else endpoint.policy.fingerprint,
            pixels=self.pixels,
            images=self.images,
            answered=self.answered,
            bits=self.bits,
            status=status,
            event=self.event,
            latency_us=round((time.perf_counter() - self.started) * 1e6),
        )
