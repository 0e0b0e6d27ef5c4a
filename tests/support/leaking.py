"""The forms in which a number may leak."""

import base64

import numpy as np


def disguises(value: float) -> set[bytes]:
    """List the forms in which a number may be hidden in a stream of bytes."""
    forms = {f"{value:.{digits}f}".encode() for digits in (3, 4, 5)}
    for kind in ("<f2", ">f2", "<f4", ">f4", "<f8", ">f8"):
        raw = np.array(value, kind).tobytes()
        if len(raw) > 2:  # two bytes may be there by chance
            forms |= {raw, raw.hex().encode(), base64.b64encode(raw).rstrip(b"=")[:-1]}
    return forms
