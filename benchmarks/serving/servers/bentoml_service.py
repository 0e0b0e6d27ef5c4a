"""A service for BentoML. Its batcher takes only typed inputs, so images come as base64 in JSON."""

import bentoml
from tiny_net import MAX_BATCH, top_of_texts


@bentoml.service(
    workers=1, traffic={"timeout": 30, "max_concurrency": 1024}, metrics={"enabled": False}
)
class Tiny:
    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=10_000)
    def predict(self, images: list[str]) -> list[dict]:
        return top_of_texts(images)
