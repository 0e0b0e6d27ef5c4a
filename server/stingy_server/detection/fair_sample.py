"""A fair random sample of the answered images of all keys, between two runs of the watch.

A request adds references to its pixels and copies nothing. Invariant: a key is compared for its
equal share of the limit, whatever the other keys add.
"""

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from stingy_protection import SparseLogits
from stingy_server.codec.images import Pixels
from stingy_server.detection.image_hashes import ImageHasher, Thumbnail

WAKE_BYTES = 2**23  # of pixels that wait; from here on the watch reduces them before its next run
WAITING_BYTES = 2**26  # of pixels that wait, at most
INLINE = 8  # images of a request that are reduced at once if there is no room for its pixels
CHUNK_BYTES = 2**20  # of pixels that are reduced in one call
_random = random.Random()  # noqa: S311  of its own, so that nobody else's seed decides


class SampledImage:
    """An answered image. Its batch of pixels is dropped once it has a digest and a thumbnail."""

    __slots__ = ("answer", "batch", "digest", "model", "row", "thumbnail")

    def __init__(self, model: str, answer: SparseLogits, batch: Pixels, row: int) -> None:
        self.model = model
        self.answer = answer
        self.batch: Pixels | None = batch
        self.row = row
        self.digest = 0
        self.thumbnail: Thumbnail | None = None

    @property
    def top1(self) -> int:
        """The best class of the answer."""
        return int(self.answer.indices[self.row, 0])


class KeySample:
    """The answered images of one key since the last run.

    Attributes:
        images: images answered.
        bits: the leak meter's bits over the answers.
        chosen: a random part of the images, for comparison.
    """

    __slots__ = ("bits", "chosen", "images")

    def __init__(self) -> None:
        self.images = 0
        self.bits = 0.0
        self.chosen: list[SampledImage] = []


class FairSample:
    """The samples of all keys. It has no lock: the caller locks each call.

    A key adds images while there is room for any key, and else up to its equal share of the limit.
    Further images replace random ones of the same key ("Random sampling with a reservoir", Vitter,
    ACM TOMS 1985), so that all images of a key have the same chance. Keys that come
    later may add more than the limit together, until `cut_to_shares` divides it.

    Args:
        limit: the most images of all keys that will be compared.
        hasher: the hasher of the watch.
    """

    def __init__(self, limit: int, hasher: ImageHasher) -> None:
        self._limit = limit
        self._hasher = hasher
        self._keys: dict[str, KeySample] = {}
        self._chosen = 0
        self._waiting_bytes = 0

    def add(self, key: str, model: str, images: Pixels, answer: SparseLogits, bits: float) -> bool:
        """Add an answered batch, [batch, height, width, 3]. This runs in every request.

        Returns:
            Whether so many pixels wait that the watch should reduce them now.
        """
        sample = self._keys.get(key)
        if sample is None:
            sample = self._keys[key] = KeySample()
        count = len(images)
        sample.images += count
        sample.bits += bits
        full = self._waiting_bytes + images.nbytes > WAITING_BYTES
        added: list[SampledImage] = []
        for row in _random.sample(range(count), min(count, INLINE)) if full else range(count):
            if self._has_room(sample):
                self._chosen += 1
                added.append(SampledImage(model, answer, images, row))
                sample.chosen.append(added[-1])
                continue
            place = int(_random.random() * (sample.images - count + row + 1))
            if place < len(sample.chosen):
                added.append(SampledImage(model, answer, images, row))
                sample.chosen[place] = added[-1]
        if full:
            reduce_images(added, self._hasher)
        elif added:
            self._waiting_bytes += images.nbytes
        return self._waiting_bytes >= WAKE_BYTES

    def _has_room(self, sample: KeySample) -> bool:
        return (
            self._chosen < self._limit
            or not sample.chosen
            or len(sample.chosen) < self._limit // len(self._keys)
        )

    def waiting(self) -> list[SampledImage]:
        """Return the images whose pixels wait. The caller reduces them."""
        self._waiting_bytes = 0
        return [
            image
            for sample in self._keys.values()
            for image in sample.chosen
            if image.batch is not None
        ]

    def take(self) -> dict[str, KeySample]:
        """Return the samples of all keys, uncut, and begin anew."""
        taken, self._keys = self._keys, {}
        self._chosen = self._waiting_bytes = 0
        return taken


def cut_to_shares(samples: Mapping[str, KeySample], limit: int) -> None:
    """Cut the chosen images of each key to a random part, as large as its share of the limit."""
    shares = equal_shares({key: len(sample.chosen) for key, sample in samples.items()}, limit)
    for key, share in shares.items():
        if share < len(samples[key].chosen):
            samples[key].chosen = _random.sample(samples[key].chosen, share)


def equal_shares(wanted: Mapping[str, int], limit: int) -> dict[str, int]:
    """Divide a limit by max-min fairness: what a key does not want is divided among the others.

    Where less than one is left for each, random keys get one.

    Args:
        wanted: the number that each key wants.
        limit: the most of all keys.
    """
    keys = list(wanted)
    _random.shuffle(keys)
    keys.sort(key=wanted.__getitem__)
    shares = {}
    for place, key in enumerate(keys):
        shares[key] = min(wanted[key], limit // (len(keys) - place))
        limit -= shares[key]
    return shares


def reduce_images(images: Iterable[SampledImage], hasher: ImageHasher) -> None:
    """Give images their digests and thumbnails, and drop their pixels."""
    by_shape: defaultdict[tuple[int, ...], list[tuple[SampledImage, Pixels]]] = defaultdict(list)
    for image in images:
        if (batch := image.batch) is not None:
            by_shape[batch.shape[1:]].append((image, batch[image.row]))
    for parts in by_shape.values():
        step = max(1, CHUNK_BYTES // max(1, parts[0][1].nbytes))
        for start in range(0, len(parts), step):
            _reduce_chunk(parts[start : start + step], hasher)


def _reduce_chunk(parts: Sequence[tuple[SampledImage, Pixels]], hasher: ImageHasher) -> None:
    reduced = hasher.reduce(np.stack([pixels for _, pixels in parts]))
    for (image, _), digest, thumbnail in zip(parts, *reduced, strict=True):
        image.digest, image.thumbnail = digest, thumbnail
        image.batch = None
