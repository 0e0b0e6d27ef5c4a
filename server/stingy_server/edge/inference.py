"""An infer request of the Open Inference Protocol, from its unparsed head to its answer.

REST and gRPC differ in how a head is parsed and an answer encoded. All between is here.
"""

from collections.abc import Callable
from functools import partial

from stingy_protection import SparseLogits
from stingy_server.codec.infer_pixels import read_large_json, read_pixels
from stingy_server.codec.oip import InferHead
from stingy_server.codec.oip_tensors import Body
from stingy_server.models.endpoints import Endpoint
from stingy_server.observability.request_record import RequestRecord
from stingy_server.queries.answering import answer_batch
from stingy_server.service import Service
from stingy_server.settings import Tier


async def infer_images(
    service: Service,
    record: RequestRecord,
    endpoint: Endpoint,
    parse: Callable[[], InferHead],
    body: Body,
    *,
    count: int | None,
    tier: Tier,
) -> tuple[InferHead, SparseLogits]:
    """Charge the key for the images of a request, read them, and answer them.

    Args:
        parse: parses the head of the request.
        body: the bytes in which the head says where the images are.
        count: the number of images that a large head declares. Such a head is parsed after the
            charge, in the caller's turn. None for a small head, which is parsed at once.
        tier: the tier of the caller's key.

    Raises:
        ServiceError: any refusal of `parse`, of the images, or of `answer_batch`.
    """
    heads: list[InferHead] = []
    if count is None:
        heads.append(parse())
        count = heads[0].count
        read = partial(read_pixels, heads[0])
    else:
        read = partial(read_large_json, parse, count=count, keep=heads.append, turns=service.turns)
    read_images = partial(
        read,
        body=body,
        preprocessing=endpoint.manifest.preprocessing,
        pool=service.decoders,
        caller=record.caller,
        max_pixels=service.settings.max_pixels,
    )
    answer = await answer_batch(service, record, endpoint, read_images, images=count, tier=tier)
    (head,) = heads
    return head, answer
