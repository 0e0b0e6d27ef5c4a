"""A server on LitServe: `python litserve_server.py PORT`.

It takes JSON only. Two workers are its better setting.
"""

import sys

import litserve
from tiny_net import MAX_BATCH, WAIT_S, top_of_texts


class Tiny(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.device = device

    def decode_request(self, request: dict) -> str:
        return request["image"]

    def batch(self, inputs: list[str]) -> list[str]:
        return inputs

    def predict(self, texts: list[str]) -> list[dict]:
        return top_of_texts(texts)

    def unbatch(self, output: list[dict]) -> list[dict]:
        return output

    def encode_response(self, output: dict) -> dict:
        return output


if __name__ == "__main__":
    server = litserve.LitServer(
        Tiny(max_batch_size=MAX_BATCH, batch_timeout=WAIT_S),
        accelerator="cpu",
        workers_per_device=2,
        fast_queue=True,
        disable_openapi_url=True,
    )
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
