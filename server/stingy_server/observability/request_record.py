"""The record of one request: its key, images and outcome. The ledger's entry is made from it."""

import time
from dataclasses import dataclass, field

from stingy_server.models.endpoints import Endpoint
from stingy_server.store.budgets import Reservation
from stingy_server.store.keys import Key, stamp
from stingy_server.store.ledger import Entry

NO_VALUE = "-"


@dataclass
class RequestRecord:
    """Filled in from left to right along the way of the request; read once, when it ends.

    Attributes:
        secret: the text of the key, to ask for it again; told to nobody.
        images, answered: asked and answered, in images.
        pixels: keyed digest of what was asked.
        bits: the leak meter's reading over what was answered.
        event: "answer", the code of the refusal, or "cancelled".
        charged: what is to be given back if no answer comes of it.
        headers: what the answer tells of the key's rate.
        engine_started: when the engine was called, on the clock of `started`.
        engine_finished: when the engine had answered, on the same clock.
    """

    request_id: str
    started: float
    key: Key | None = None
    secret: str = field(default="", repr=False)
    endpoint: Endpoint | None = None
    images: int = 0
    answered: int = 0
    pixels: str | None = None
    bits: float = 0.0
    event: str = NO_VALUE
    charged: Reservation | None = None
    headers: dict[str, str] = field(default_factory=dict)
    engine_started: float | None = None
    engine_finished: float | None = None

    @property
    def model(self) -> str:
        """The model's name; never one that a client made up."""
        return NO_VALUE if self.endpoint is None else self.endpoint.name

    def entry(self, status: int) -> Entry:
        endpoint = self.endpoint
        return Entry(
            time=stamp(),
            request=self.request_id,
            key=NO_VALUE if self.key is None else self.key.id,
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
