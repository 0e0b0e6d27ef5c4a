"""A server on Ray Serve: `python ray_server.py PORT`.

Its environment makes Ray start HAProxy in front of it.
"""

import sys

import binary
import numpy as np
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response
from tiny_net import MAX_BATCH, MODEL, SIZE, WAIT_S, top


@serve.deployment(num_replicas=1, max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.5})
class Tiny:
    def __init__(self) -> None:
        top(np.zeros((1, SIZE, SIZE, 3), np.uint8))

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=WAIT_S)
    async def predict(self, batch: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        indices, scores = top(np.concatenate(batch))
        ends = np.cumsum([len(images) for images in batch])[:-1]
        return list(zip(np.split(indices, ends), np.split(scores, ends), strict=True))

    async def __call__(self, request: Request) -> Response:
        images = binary.read(await request.body(), request.headers[binary.HEADER_LENGTH])
        indices, scores = await self.predict(images)
        body, head = binary.write(MODEL, indices, scores)
        headers = {binary.HEADER_LENGTH: head}
        return Response(body, headers=headers, media_type=binary.MEDIA_TYPE)


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200 * 2**20)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Tiny.bind(), route_prefix=f"/v2/models/{MODEL}/infer", blocking=True)
