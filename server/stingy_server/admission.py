"""Admission: the places and the body memory of one process, which keys and models share.

A key, or one model of several, gets more while it holds less than `share` times what is free. At
the default of 1.0 one key alone gets half, two get a third each, and another key always finds some.
"""

import math

from stingy_server.errors import OVERLOADED, ServiceError
from stingy_server.settings import Settings
from stingy_server.shares import Shares


class Admission:
    """The places for requests, and the memory for their bodies.

    Args:
        settings: gives `max_concurrency`, `max_held_bytes` and `share`.
    """

    def __init__(self, settings: Settings) -> None:
        places, nbytes, share = settings.max_concurrency, settings.max_held_bytes, settings.share
        self.key_places = Shares(places, share=share)
        self.key_bytes = Shares(nbytes, share=share)
        self.model_places = Shares(places, share=share)
        self.model_bytes = Shares(nbytes, share=share)

    def enter(self, key_id: str, *, declared: int) -> "Place":
        """Take a place for a request of a key, and memory for the body that its head declares.

        Args:
            declared: bytes of the body; 0 if the head does not say.

        Raises:
            ServiceError: overloaded, if the key has its share.
        """
        if not self.key_places.take(key_id, 1):
            raise ServiceError(OVERLOADED)
        if declared and not self.key_bytes.take(key_id, declared):
            self.key_places.give_back(key_id, 1)
            raise ServiceError(OVERLOADED)
        return Place(self, key_id, declared)


class Place:
    """The room that one request holds until `close`.

    Attributes:
        nbytes: bytes of memory held for its body: those declared, or those received if more.
    """

    __slots__ = ("_admission", "_key_id", "_model", "nbytes")

    def __init__(self, admission: Admission, key_id: str, nbytes: int) -> None:
        self._admission = admission
        self._key_id = key_id
        self._model: str | None = None
        self.nbytes = nbytes

    def use_model(self, name: str) -> None:
        """Take the same room out of the share of a model, one of several.

        So requests that wait for one model, whose server hangs, leave room for the others.

        Raises:
            ServiceError: overloaded, if the model has its share.
        """
        admission = self._admission
        if not admission.model_places.take(name, 1):
            raise ServiceError(OVERLOADED)
        if self.nbytes and not admission.model_bytes.take(name, self.nbytes):
            admission.model_places.give_back(name, 1)
            raise ServiceError(OVERLOADED)
        self._model = name

    def grow(self, nbytes: int) -> None:
        """Take memory for more of the body than its head declared.

        Raises:
            ServiceError: overloaded, if the key or the model has its share.
        """
        admission = self._admission
        if not admission.key_bytes.take(self._key_id, nbytes):
            raise ServiceError(OVERLOADED)
        if self._model is not None and not admission.model_bytes.take(self._model, nbytes):
            admission.key_bytes.give_back(self._key_id, nbytes)
            raise ServiceError(OVERLOADED)
        self.nbytes += nbytes

    def close(self) -> None:
        """Give everything back."""
        admission = self._admission
        admission.key_places.give_back(self._key_id, 1)
        if self.nbytes:
            admission.key_bytes.give_back(self._key_id, self.nbytes)
        if self._model is not None:
            admission.model_places.give_back(self._model, 1)
            if self.nbytes:
                admission.model_bytes.give_back(self._model, self.nbytes)


def room_faults(settings: Settings) -> list[str]:
    """Return a fault if the largest body exceeds what one key may hold."""
    least = math.ceil(settings.max_body_bytes / settings.share)
    if settings.max_held_bytes < least:
        return [
            f"max_held_bytes: expected at least max_body_bytes / share, which is {least}, "
            f"got {settings.max_held_bytes}"
        ]
    return []
