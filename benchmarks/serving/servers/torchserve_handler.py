"""A handler for TorchServe, packed by torch-model-archiver: binary tensors in and out."""

import binary
import numpy as np
from tiny_net import MODEL, top


class Handler:
    """A handler that TorchServe initializes once and then calls with each of its batches."""

    def initialize(self, context: object) -> None:
        self.context = context

    def handle(self, data: list[dict], context: object) -> list[bytes]:
        images = [
            binary.read(bytes(row["body"]), context.get_request_header(index, binary.HEADER_LENGTH))
            for index, row in enumerate(data)
        ]
        indices, scores = top(np.concatenate(images))
        answers = []
        start = 0
        for index, own in enumerate(images):
            stop = start + len(own)
            body, head = binary.write(MODEL, indices[start:stop], scores[start:stop])
            context.set_response_content_type(index, binary.MEDIA_TYPE)
            context.set_response_header(index, binary.HEADER_LENGTH, head)
            answers.append(body)
            start = stop
        return answers
