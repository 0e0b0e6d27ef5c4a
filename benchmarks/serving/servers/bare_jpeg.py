"""The bare server for pictures: FastAPI, decoding in threads, a batcher, no protection.

python bare_jpeg.py PORT
"""

import asyncio
import io
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import orjson
import uvicorn
from bare import Batcher, lifespan
from fastapi import FastAPI, Request, Response
from PIL import Image

SHORTER, SIDE = 256, 224

app = FastAPI(lifespan=lifespan)
decoders = ThreadPoolExecutor(2)


def decode(data: bytes) -> np.ndarray:
    """Return the pixels of a picture, resized and cropped, uint8 [1, 224, 224, 3]."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = SHORTER / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (image.width - SIDE) // 2, (image.height - SIDE) // 2
    return np.asarray(image.crop((left, top, left + SIDE, top + SIDE)))[None]


@app.post("/v1/predict/tiny")
async def predict(request: Request) -> Response:
    body = await request.body()
    pixels = await asyncio.get_running_loop().run_in_executor(decoders, decode, body)
    batcher: Batcher = request.app.state.batcher
    indices, scores = await batcher.submit(pixels)
    document = {"indices": indices.tolist(), "scores": scores.tolist()}
    return Response(orjson.dumps(document), media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(
        app,
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
