"""Detection of a key's similar images by digests of all pixels and by codes of thumbnails.

Digests and codes are keyed and stay in memory. Only counts and distances leave this module.
"""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stingy_protection import thumbnails
from stingy_server.codec.images import Pixels

Codes = npt.NDArray[np.uint64]
Thumbnail = npt.NDArray[np.int64]
Classes = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]

WINDOW = 6  # cells a side of the coded windows of a thumbnail, which has 8
VIEWS, PLAIN = 18, 4  # 3x3 positions of the window, plain and mirrored; index of the centre
BITS = 128
ALIKE_BITS = 4  # images whose codes differ by at most this many bits are near-duplicates
REMEMBERED = 4096  # images that are kept of a key
SLOT_BITS = 14  # of an index into a table
QUARTERS = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F], np.uint32)  # odd, to mix bits
CHUNK = 32  # images that are coded, and compared with each other, at once
MEASURED = 16  # images of a chunk whose distance is measured
LATEST = 512  # earlier images to which it is measured


@dataclass(frozen=True)
class BatchStats:
    """The similarity of a batch to the earlier images of its key.

    Attributes:
        novel: number of images whose pixels are new.
        near: number of novel images that resemble an earlier one, also shifted or mirrored.
        repeats: number of images whose pixels all equal those of an earlier one.
        distances: one byte for each measured novel image with an earlier image of its class: the
            fewest bits in which their codes differ.
    """

    novel: int
    near: int
    repeats: int
    distances: bytes


class ImageHasher:
    """A hasher of images to digests, and of thumbnails to codes of 128 bits.

    Without its secret a client cannot aim at a digest or a code. After "Similarity estimation
    techniques from rounding algorithms" (Charikar, STOC 2002): each bit of a code is the sign of a
    random projection of all three channels. The number of bits in which two codes differ measures
    the angle between two pictures, whatever their contrast and the brightness of each channel.
    """

    def __init__(self, secret: bytes) -> None:
        seed = hmac.digest(secret, b"watch", "sha256")
        random = np.random.default_rng(int.from_bytes(seed))
        planes = random.standard_normal((WINDOW * WINDOW, 3, BITS)).astype(np.float32)
        self._planes = (planes - planes.mean(axis=0)).reshape(-1, BITS)
        self._digest = hashlib.blake2b(digest_size=8, key=seed)

    def reduce(self, images: Pixels) -> tuple[list[int], Thumbnail]:
        """Return the digests and thumbnails of images.

        Args:
            images: [batch, height, width, 3], contiguous.

        Returns:
            one number for each image, and [batch, 8, 8, 3].
        """
        digests = []
        for image in images:
            digest = self._digest.copy()
            digest.update(image.data)
            digests.append(int.from_bytes(digest.digest()))
        return digests, thumbnails(images)

    def codes(self, reduced: Sequence[Thumbnail] | Thumbnail) -> Codes:
        """Return the codes, [batch, VIEWS, 2], of thumbnails, [8, 8, 3] each.

        The work takes 26 kB an image. So it is done in parts, whose memory is freed and used by the
        next part. Arrays of another size every second would let the process grow.
        """
        found = np.empty((len(reduced), VIEWS, 2), np.uint64)
        for start in range(0, len(reduced), CHUNK):
            part = np.stack(reduced[start : start + CHUNK]).astype(np.float32)
            views = [
                batch[:, top : top + WINDOW, left : left + WINDOW].reshape(len(part), -1)
                for batch in (part, part[:, :, ::-1])
                for top in range(3)
                for left in range(3)
            ]
            signs = np.stack(views, axis=1) @ self._planes > 0
            found[start : start + CHUNK] = np.packbits(signs, axis=-1).view(np.uint64)
        return found


class HashIndex:
    """An index of the latest novel images of one key, as codes: 240 KiB.

    Each of four tables finds codes by a quarter of their bits, because codes that differ little
    have a quarter in common. A table's slot keeps the later of two codes. After "Similarity
    search in high dimensions via hashing" (Gionis et al., VLDB 1999).
    """

    def __init__(self) -> None:
        self._codes = np.zeros((REMEMBERED, 2), np.uint64)
        self._classes = np.zeros(REMEMBERED, np.int32)
        self._tables = np.zeros((QUARTERS.size, 2**SLOT_BITS), np.uint16)
        self._digests = np.zeros(REMEMBERED, np.uint64)
        self._count = 0

    def compare(self, digests: Codes, codes: Codes, classes: Classes) -> BatchStats:
        """Compare images with all earlier ones, also those of this batch, and add them.

        Args:
            digests: the digests of these images, [batch].
            codes: the codes of these images, [batch, VIEWS, 2].
            classes: a number for each image's model and top-1, [batch].
        """
        novel = near = 0
        distances = b""
        for start in range(0, len(digests), CHUNK):
            part = slice(start, start + CHUNK)
            new = self._find_new(digests[part])
            views, labels = codes[part][new], classes[part][new]
            novel += len(views)
            near += int((self._resemble_stored(views) | _resemble_earlier(views)).sum())
            distances += self._distances(views[:MEASURED, PLAIN], labels[:MEASURED])
            self._add(digests[part][new], views[:, PLAIN], labels)
        return BatchStats(novel, near, len(digests) - novel, distances)

    def _find_new(self, digests: Codes) -> Flags:
        """Return, for each image of a chunk, whether it is new and the first of its kind there."""
        first = np.zeros(len(digests), bool)
        first[np.unique(digests, return_index=True)[1]] = True
        return np.asarray(first & ~(self._digests == digests[:, None]).any(axis=1))

    def _resemble_stored(self, views: Codes) -> Flags:
        """Return, for each image of a chunk, whether a view of it is near a stored code."""
        slots = self._tables[np.arange(QUARTERS.size), _slots(views)]
        alike = _hamming(self._codes[slots], views[:, :, None]) <= ALIKE_BITS
        return np.asarray((alike & (slots < self._count)).any(axis=(1, 2)))

    def _distances(self, codes: Codes, classes: Classes) -> bytes:
        """Return the fewest bits between each image and the latest ones of its class, if any."""
        stored = min(self._count, REMEMBERED)
        latest = np.arange(self._count - min(stored, LATEST), self._count) % REMEMBERED
        distances = _hamming(self._codes[latest], codes[:, None]).astype(np.uint8)
        distances = np.where(self._classes[latest] == classes[:, None], distances, BITS + 1)
        fewest = distances.min(axis=1, initial=BITS + 1)
        return bytes(fewest[fewest <= BITS])

    def _add(self, digests: Codes, codes: Codes, classes: Classes) -> None:
        slots = np.arange(self._count, self._count + len(codes)) % REMEMBERED
        self._codes[slots] = codes
        self._classes[slots] = classes
        self._tables[np.arange(QUARTERS.size), _slots(codes)] = slots[:, None]
        self._digests[slots] = digests
        self._count += len(codes)


def _resemble_earlier(views: Codes) -> Flags:
    """Return, for each image of a chunk, whether a view is near the code of one before it there."""
    alike = (_hamming(views[:, :, None], views[None, None, :, PLAIN]) <= ALIKE_BITS).any(axis=1)
    return np.asarray(np.tril(alike, -1).any(axis=1))


def _hamming(left: Codes, right: Codes) -> npt.NDArray[np.uint8]:
    """Count the bits, [...], in which codes, [..., 2] each, differ."""
    halves = [np.bitwise_count(left[..., half] ^ right[..., half]) for half in (0, 1)]
    return np.asarray(halves[0] + halves[1])


def _slots(codes: Codes) -> npt.NDArray[np.uint32]:
    """Return the slot, [..., 4], of each quarter of a code, [..., 2], in its table."""
    return (codes.view(np.uint32) * QUARTERS) >> np.uint32(32 - SLOT_BITS)
