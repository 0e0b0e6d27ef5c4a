"""Customers who query while services are restarted, and who count what they got."""

import threading
import time
from collections import Counter

from serving import Pixels
from stingy_clients import ApiError, Client, ClientError

PAUSE_S = 0.05


class Customer(threading.Thread):
    """A thread with a key of its own, which queries until it is stopped.

    Attributes:
        received: images answered.
        errors: the refusals by their codes, and other errors by their types.
    """

    def __init__(self, url: str, key: str, images: Pixels) -> None:
        super().__init__(daemon=True)
        self.received = 0
        self.errors: Counter[str] = Counter()
        self._stopping = threading.Event()
        self._url, self._key, self._images = url, key, images
        self.start()

    def run(self) -> None:
        count = 0
        with Client(self._url, self._key) as client:
            while not self._stopping.is_set():
                count = count % len(self._images) + 1
                try:
                    self.received += len(client.predict_batch(self._images[:count]))
                except ApiError as error:
                    self.errors[error.code] += 1
                    time.sleep(PAUSE_S)
                except ClientError as error:
                    self.errors[type(error).__name__] += 1
                    time.sleep(PAUSE_S)

    def stop(self) -> None:
        self._stopping.set()
        self.join(120)
        assert not self.is_alive()

    def await_answers(self, more: int = 20, *, seconds: float = 180) -> None:
        """Wait until it has received some more images."""
        goal = self.received + more
        deadline = time.monotonic() + seconds
        while self.received < goal:
            assert time.monotonic() < deadline, f"no answers; errors: {dict(self.errors)}"
            time.sleep(0.1)
