"""The forms in which a number may leave; importable in tests."""

import base64

import numpy as np


def disguises(value: float) -> set[bytes]:
    """The forms in which a number may be hidden in a stream of bytes."""
    found = {f"{value:.{digits}f}".encode() for digits in (3, 4, 5)}
    for kind in ("<f2", ">f2", "<f4", ">f4", "<f8", ">f8"):
        raw = np.array(value, kind).tobytes()
        if len(raw) > 2:  # two bytes are met by chance
            found |= {raw, raw.hex().encode(), base64.b64encode(raw).rstrip(b"=")[:-1]}
    return found
