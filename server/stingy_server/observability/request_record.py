"""One request on its way: who asked, what was asked, what became of it. The ledger's source."""

import time
from dataclasses import dataclass, field

from stingy_server.models.endpoints import Endpoint
from stingy_server.store.budgets import Reservation
from stingy_server.store.keys import Key, stamp
from stingy_server.store.ledger import Entry

NOTHING = "-"


@dataclass
class Visit:
    """Filled in from left to right along the way of the request; read once, when it ends.

    Attributes:
        secret: the text of the key, to ask for it again; told to nobody.
        images, answered: asked and answered, in images.
        pixels: keyed digest of what was asked.
        bits: the leak meter's reading over what was answered.
        event: "answer", the code of the refusal, or "cancelled".
        charged: what is to be given back if no answer comes of it.
        headers: what the answer tells of the key's rate.
        asked, told: when the engine was asked and when it had answered, on the clock of `started`.
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
    event: str = NOTHING
    charged: Reservation | None = None
    headers: dict[str, str] = field(default_factory=dict)
    asked: float | None = None
    told: float | None = None

    @property
    def model(self) -> str:
        """The model's name; never one that a client made up."""
        return NOTHING if self.endpoint is None else self.endpoint.name

    def entry(self, status: int) -> Entry:
        endpoint = self.endpoint
        return Entry(
            time=stamp(),
            request=self.request_id,
            key=NOTHING if self.key is None else self.key.id,
            model=self.model,
            version=NOTHING if endpoint is None else endpoint.manifest.version,
            fingerprint=NOTHING if endpoint is None else endpoint.policy.fingerprint,
            pixels=self.pixels,
            images=self.images,
            answered=self.answered,
            bits=self.bits,
            status=status,
            event=self.event,
            latency_us=round((time.perf_counter() - self.started) * 1e6),
        )
