"""Sorting of entries. Invariant: always by falling value, then by rising index."""

import numpy as np
import numpy.typing as npt

# numpy sorts small CPU arrays, because for a single row each call costs a tenth of torch's.
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]

BELOW_SIGN = np.int32(0x7FFFFFFF)
FEW = 512  # values; numpy sorts this few faster than the keys are built
BLOCK = 2**14  # entries; the keys of this many fit into the cache of a core


def select_largest(rows: Floats32, n: int) -> tuple[Floats32, Ints]:
    """Select the n largest values of each row, largest first, ties to the lower index.

    Args:
        rows: `[batch, classes]`, without NaN. -0.0 counts as 0.0, and may be returned as 0.0.
        n: 1..classes. There are at most 2^31 classes.

    Returns:
        values and indices, `[batch, n]`.
    """
    batch, classes = rows.shape
    if n == 1 or rows.size <= FEW:
        if n == 1:
            order = rows.argmax(axis=1)[:, None]
        else:
            order = (-rows).argsort(axis=1, kind="stable")[:, :n]
        return rows[np.arange(batch)[:, None], order], order
    best = np.empty((batch, n), np.int64)
    indices = np.arange(classes)
    step = max(1, BLOCK // classes)
    for start in range(0, batch, step):
        keys = _encode_keys(rows[start : start + step], indices)
        if n < classes:
            keys.partition(n - 1, axis=1)
        best[start : start + step] = keys[:, :n]
    best.sort(axis=1)
    return _decode_keys(best)


def sort_entries(values: Floats32, indices: Ints, *, after: int) -> tuple[Floats32, Ints]:
    """Sort each row by falling value, then by rising index.

    Args:
        values: `[batch, n]`, without NaN. -0.0 counts as 0.0, and is returned as 0.0.
        indices: `[batch, n]`, each 0..2^31 - 1.
        after: the number of leading entries that keep their places.

    Returns:
        values and indices, `[batch, n]`.
    """
    keys = _encode_keys(values, indices)
    keys[:, after:].sort(axis=1)
    return _decode_keys(keys)


def _encode_keys(values: Floats32, indices: Ints) -> Ints:
    """Encode each entry as one integer: the value in the upper half, the index in the lower.

    Smaller integers come first. A sort by two keys takes 20 times as long.
    """
    # Read as int32, float32 bits rise with the value once the lower bits of negatives are flipped.
    bits = (values + np.float32(0.0)).view(np.int32)
    bits ^= (bits >> 31) & BELOW_SIGN
    np.invert(bits, out=bits)
    keys = bits.astype(np.int64)
    keys <<= 32
    keys |= indices
    return keys


def _decode_keys(keys: Ints) -> tuple[Floats32, Ints]:
    """Decode the values and indices from the integers of `_encode_keys`."""
    bits = (keys >> 32).astype(np.int32)
    np.invert(bits, out=bits)
    bits ^= (bits >> 31) & BELOW_SIGN
    return bits.view(np.float32), keys & 0xFFFFFFFF
