"""A server as a good engineer writes it without Stingy: FastAPI, a batcher, no protection.

It has binary tensors and a queue in front of one model thread.

python bare.py PORT
"""

import asyncio
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import binary
import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response
from tiny_net import MAX_BATCH, MODEL, SIZE, top

Job = tuple[np.ndarray, asyncio.Future]


class Batcher:
    """A model thread that takes, as one batch, the requests that came while it was busy."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        threading.Thread(target=self._work, daemon=True).start()

    async def submit(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        future = self._loop.create_future()
        with self._changed:
            self._jobs.append((images, future))
            self._changed.notify()
        return await future

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs)
                jobs = [self._jobs.popleft() for _ in range(min(len(self._jobs), MAX_BATCH))]
            indices, scores = top(np.concatenate([images for images, _ in jobs]))
            self._loop.call_soon_threadsafe(_resolve, jobs, indices, scores)


def _resolve(jobs: list[Job], indices: np.ndarray, scores: np.ndarray) -> None:
    start = 0
    for images, future in jobs:
        stop = start + len(images)
        if not future.done():
            future.set_result((indices[start:stop], scores[start:stop]))
        start = stop


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    top(np.zeros((1, SIZE, SIZE, 3), np.uint8))
    app.state.batcher = Batcher()
    yield


app = FastAPI(lifespan=lifespan)


@app.post(f"/v2/models/{MODEL}/infer")
async def infer(request: Request) -> Response:
    images = binary.read(await request.body(), request.headers[binary.HEADER_LENGTH])
    indices, scores = await request.app.state.batcher.submit(images)
    body, head = binary.write(MODEL, indices, scores)
    headers = {binary.HEADER_LENGTH: head}
    return Response(body, headers=headers, media_type=binary.MEDIA_TYPE)


if __name__ == "__main__":
    uvicorn.run(
        app,
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
