"""The images of an infer request, from its body to the pixels that the model takes."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from stingy_protection import Preprocessing
from stingy_server.codec.decode_pool import DecodePool
from stingy_server.codec.images import INLINE_PIXELS, UNIT_PIXELS, Pixels, decode, fit
from stingy_server.codec.loop_turns import LoopTurns
from stingy_server.codec.oip import InferHead
from stingy_server.codec.oip_tensors import (
    Body,
    binary_values,
    read_files,
    read_tensor,
    to_pixels,
)
from stingy_server.errors import BAD_REQUEST, ServiceError


async def read_pixels(
    head: InferHead,
    body: Body,
    preprocessing: Preprocessing,
    *,
    pool: DecodePool,
    caller: str,
    max_pixels: int,
) -> Pixels:
    """Read, decode and resize the images of a request, [batch, height, width, 3].

    It is the costly part of a request, so the key is charged before.

    Args:
        head: the request's head.
        body: the body that it was parsed from.
        preprocessing: gives the size of the model's input.
        pool: the threads for all but small requests.
        caller: the owner of the request, such as a key's id.
        max_pixels: the limit for the files of a request together, see `decode` and `fit`.

    Raises:
        ServiceError: bad_tensor, if the data is malformed or out of range; the refusals of `decode`
            and `fit`.
    """
    if head.datatype == "BYTES":
        files = read_files(head, body)
        return await decode(files, preprocessing, pool=pool, caller=caller, max_pixels=max_pixels)
    if head.cost <= INLINE_PIXELS or (head.data is None and head.datatype == "UINT8"):
        images = read_tensor(head, body)  # binary UINT8 is not even copied
    elif head.data is None:
        values = binary_values(head, body)
        rows = max(1, UNIT_PIXELS * head.count // head.cost)
        units = [
            partial(to_pixels, values[i : i + rows], head.datatype)
            for i in range(0, head.count, rows)
        ]
        images = np.concatenate(await pool.run(caller, units, cost=head.cost))
    else:
        (images,) = await pool.run(caller, [partial(read_tensor, head, body)], cost=head.cost)
    return await fit(images, preprocessing, pool=pool, caller=caller, max_pixels=max_pixels)


async def read_large_json(
    parse: Callable[[], InferHead],
    body: Body,
    preprocessing: Preprocessing,
    *,
    count: int,
    keep: Callable[[InferHead], None],
    turns: LoopTurns,
    pool: DecodePool,
    caller: str,
    max_pixels: int,
) -> Pixels:
    """Parse a request of large JSON and read its images, in one unit of the caller's turn.

    So one parsed request at a time is in memory, at many times the size of its text.

    Args:
        parse: parses the body.
        body, preprocessing, pool, caller, max_pixels: as in `read_pixels`.
        count: the number of images that the key was charged for.
        keep: called with the head, without its data.
        turns: the turns of all callers.

    Raises:
        ServiceError: bad_request, if the number of images is another; the refusals of `parse` and
            of `read_pixels`.
    """
    head, content = await turns.run(caller, partial(_parse_and_read, parse, body, count))
    keep(head)
    if content is None:
        read = partial(read_pixels, head, body)
    elif isinstance(content, list):
        read = partial(decode, content)
    else:
        read = partial(fit, content)
    return await read(preprocessing, pool=pool, caller=caller, max_pixels=max_pixels)


def _parse_and_read(
    parse: Callable[[], InferHead], body: Body, count: int
) -> tuple[InferHead, Pixels | list[bytes] | None]:
    head = parse()
    if head.count != count:
        raise ServiceError(BAD_REQUEST)
    if head.data is None:
        return head, None
    read = read_files if head.datatype == "BYTES" else read_tensor
    return replace(head, data=None), read(head, body)
