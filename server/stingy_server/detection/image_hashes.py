"""Which of a key's images look alike: short keyed codes of small thumbnails, in memory alone.

A code is never stored, logged or sent; what leaves this module are counts and distances.
"""

import hashlib
import hmac
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stingy_server.codec.images import Pixels

Codes = npt.NDArray[np.uint64]
Grid = npt.NDArray[np.uint8]
Classes = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]

GRID = 32  # samples a side that are kept of an image until it is looked at
CELLS, WINDOW = 8, 6  # a thumbnail of 8x8, and the windows of 6x6 that are coded
VIEWS, PLAIN = 18, 4  # 3x3 places of the window, and the same mirrored; the one in the middle
BITS = 128
ALIKE_BITS = 4  # images whose codes differ by at most this many bits are near-duplicates
REMEMBERED = 4096  # images of a key
PLACE_BITS = 14
QUARTERS = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F], np.uint32)  # odd: they mix
CHUNK = 32  # images that are compared with each other at once
JUDGED, COMPARED = 16, 512  # images of a chunk whose distance is taken, and to how many others


@dataclass(frozen=True)
class BatchStats:
    """What a batch of images looked like, next to what came before.

    Attributes:
        novel: images whose samples were not seen before.
        near: those among them that look like an earlier one, moved a little or mirrored too.
        repeats: images that were seen before, exactly.
        distances: a byte a novel image with a predecessor of its class: the fewest bits by
            which their codes differ.
    """

    novel: int
    near: int
    repeats: int
    distances: bytes


def sampled(images: Pixels) -> Grid:
    """[batch, height, width, 3] to [batch, <= 63, <= 63], a copy: every so many-th green pixel."""
    down, right = (max(1, side // GRID) for side in images.shape[1:3])
    return images[:, ::down, ::right, 1].copy()


class ImageHasher:
    """From samples to codes of 128 bits, under a secret: nobody outside can aim at a code.

    "Similarity estimation techniques from rounding algorithms" (Charikar, STOC 2002): the sign
    of a random projection a bit, so that the bits in which two codes differ tell the angle
    between two pictures, whatever their brightness and contrast.
    """

    def __init__(self, secret: bytes) -> None:
        seed = hmac.digest(secret, b"watch", "sha256")
        random = np.random.default_rng(int.from_bytes(seed))
        planes = random.standard_normal((WINDOW * WINDOW, BITS)).astype(np.float32)
        self._planes = planes - planes.mean(axis=0)

    def codes(self, grids: Grid) -> Codes:
        """[batch, side, side] to [batch, VIEWS, 2]."""
        thumbnails = _mean_cells(_mean_cells(grids.astype(np.float32), 1), 2)
        views = [
            turned[:, top : top + WINDOW, left : left + WINDOW].reshape(len(grids), -1)
            for turned in (thumbnails, thumbnails[:, :, ::-1])
            for top in range(3)
            for left in range(3)
        ]
        signs = np.stack(views, axis=1) @ self._planes > 0
        return np.packbits(signs, axis=-1).view(np.uint64)


def _mean_cells(values: npt.NDArray[np.float32], axis: int) -> npt.NDArray[np.float32]:
    """An axis brought to 8 cells; one that is shorter has some of its values twice."""
    length = values.shape[axis]
    starts = np.arange(CELLS) * length // CELLS
    sizes = np.maximum(1, np.diff(starts, append=length))
    shape = [1] * values.ndim
    shape[axis] = CELLS
    sums = np.add.reduceat(values, starts, axis)
    averages: npt.NDArray[np.float32] = sums / sizes.astype(np.float32).reshape(shape)
    return averages


class HashIndex:
    """The latest novel images of one key, as codes: 240 KiB.

    Codes are found by four tables over a quarter of their bits each, as codes that differ little
    have a quarter in common ("Similarity search in high dimensions via hashing", Gionis et al.,
    VLDB 1999); a place that two codes share keeps the later one.
    """

    def __init__(self) -> None:
        self._codes = np.zeros((REMEMBERED, 2), np.uint64)
        self._classes = np.zeros(REMEMBERED, np.int32)
        self._tables = np.zeros((QUARTERS.size, 2**PLACE_BITS), np.uint16)
        self._sums = np.zeros(REMEMBERED, np.uint64)
        self._count = 0

    def compare(self, grids: Grid, codes: Codes, classes: Classes) -> BatchStats:
        """Compare images with those before them, in this batch too, and remember them.

        Args:
            grids: [batch, side, side], as `sampled`.
            codes: [batch, VIEWS, 2], of these grids.
            classes: [batch], a number for the model and the top-1 it answered.
        """
        sums = np.array([_checksum(grid) for grid in grids], np.uint64)
        novel = near = 0
        distances = b""
        for start in range(0, len(grids), CHUNK):
            part = slice(start, start + CHUNK)
            new = self._unseen(sums[part])
            views, labels = codes[part][new], classes[part][new]
            novel += len(views)
            near += int((self._resemble_stored(views) | _resemble_earlier(views)).sum())
            distances += self._distances(views[:JUDGED, PLAIN], labels[:JUDGED])
            self._add(sums[part][new], views[:, PLAIN], labels)
        return BatchStats(novel, near, len(grids) - novel, distances)

    def _unseen(self, sums: Codes) -> Flags:
        """[chunk]: the first of its kind here, and not known from before."""
        first = np.zeros(len(sums), bool)
        first[np.unique(sums, return_index=True)[1]] = True
        return np.asarray(first & ~(self._sums == sums[:, None]).any(axis=1))

    def _resemble_stored(self, views: Codes) -> Flags:
        """[chunk]: whether a view of it is near the code of a remembered image."""
        slots = self._tables[np.arange(QUARTERS.size), _places(views)]
        alike = _apart(self._codes[slots], views[:, :, None]) <= ALIKE_BITS
        return np.asarray((alike & (slots < self._count)).any(axis=(1, 2)))

    def _distances(self, codes: Codes, classes: Classes) -> bytes:
        """Of each, the fewest bits to one of its class among the latest, where there is one."""
        stored = min(self._count, REMEMBERED)
        latest = np.arange(self._count - min(stored, COMPARED), self._count) % REMEMBERED
        apart = _apart(self._codes[latest], codes[:, None]).astype(np.uint8)
        apart = np.where(self._classes[latest] == classes[:, None], apart, BITS + 1)
        fewest = apart.min(axis=1, initial=BITS + 1)
        return bytes(fewest[fewest <= BITS])

    def _add(self, sums: Codes, codes: Codes, classes: Classes) -> None:
        slots = np.arange(self._count, self._count + len(codes)) % REMEMBERED
        self._codes[slots] = codes
        self._classes[slots] = classes
        self._tables[np.arange(QUARTERS.size), _places(codes)] = slots[:, None]
        self._sums[slots] = sums
        self._count += len(codes)


def _resemble_earlier(views: Codes) -> Flags:
    """[chunk]: whether a view of it is near the code of one before it in the same chunk."""
    alike = (_apart(views[:, :, None], views[None, None, :, PLAIN]) <= ALIKE_BITS).any(axis=1)
    return np.asarray(np.tril(alike, -1).any(axis=1))


def _apart(left: Codes, right: Codes) -> npt.NDArray[np.uint8]:
    """[..., 2] each, to [...]: the bits in which codes differ."""
    halves = [np.bitwise_count(left[..., half] ^ right[..., half]) for half in (0, 1)]
    return np.asarray(halves[0] + halves[1])


def _places(codes: Codes) -> npt.NDArray[np.uint32]:
    """[..., 2] to [..., 4]: where each quarter of a code stands in its table."""
    return (codes.view(np.uint32) * QUARTERS) >> np.uint32(32 - PLACE_BITS)


def _checksum(grid: Grid) -> int:
    return int.from_bytes(hashlib.blake2b(grid.tobytes(), digest_size=8).digest())
