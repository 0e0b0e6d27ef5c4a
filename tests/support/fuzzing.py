"""Properties for any bytes of a client. Tests run them briefly, benchmarks/fuzz for long."""

import asyncio
import io
import json
import zlib
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from checks import assert_plain_headers
from decoding import decode_alone
from serving import png, random_images
from stingy_protection import ScoreForm
from stingy_server.codec.oip import parse_head
from stingy_server.codec.oip_tensors import read_files, read_tensor
from stingy_server.errors import ServiceError

FORMS = tuple(ScoreForm)
MAX_PIXELS = 256 * 256
PNG = b"\x89PNG\r\n\x1a\n"
IMAGES = random_images(2)
MOST_IMAGES = 4
NAMES = {"model": "digits", "version": "1"}
READS = ("get", "head")
ERRORS = ({"code", "message", "request_id"}, {"code", "type", "message"})
_loop = asyncio.new_event_loop()


def check_oip(data: bytes) -> None:
    """Check that any body under any header is refused, or is a request no larger than the body.

    Args:
        data: a byte for the kind of header and the score form, two for its value, and the body.
    """
    kind, value, body = data[:1] or b"\0", data[1:3], data[3:]
    headers = (None, str(int.from_bytes(value, "little")), value.decode("latin-1"))
    form = FORMS[kind[0] // 3 % len(FORMS)]
    try:
        head = parse_head(body, headers[kind[0] % 3], form=form, max_images=MOST_IMAGES)
        files = head.datatype == "BYTES"
        images = read_files(head, body) if files else read_tensor(head, body)
    except ServiceError:
        return
    assert 1 <= head.count == len(images) <= MOST_IMAGES
    assert head.outputs
    assert form is not ScoreForm.NONE or set(dict(head.outputs)) == {"indices"}
    assert set(dict(head.classified)) <= set(dict(head.outputs))
    if isinstance(images, list):
        assert sum(map(len, images)) <= len(body)
    else:
        assert images.dtype == np.uint8
        assert images.ndim == 4
        assert images.shape[3] == 3
        assert images.size <= len(body)


def check_image(data: bytes) -> None:
    """Check that any bytes are refused, or are an image of the model's input size."""
    for file in {data, fix_checksums(data)}:
        try:
            pixels = _loop.run_until_complete(decode_alone([file], max_pixels=MAX_PIXELS))
        except ServiceError:
            continue
        assert pixels.shape == (1, 8, 8, 3)


def fix_checksums(data: bytes) -> bytes:
    """Correct the checksums of a PNG, so that its chunks are decoded. Return other files as is."""
    if not data.startswith(PNG):
        return data
    whole, start = PNG, len(PNG)
    while start + 8 <= len(data):
        stop = start + 8 + int.from_bytes(data[start : start + 4], "big")
        named = data[start + 4 : stop]
        whole += data[start : start + 4] + named + zlib.crc32(named).to_bytes(4, "big")
        start = stop + 4
    return whole


def oip_seeds() -> list[bytes]:
    """Make valid requests of each kind, as seeds."""
    tensor = {"name": "image", "datatype": "UINT8", "shape": IMAGES.shape}
    requested = [{"name": "logits", "parameters": {"binary_data": True}}, {"name": "scores"}]
    plain = {"id": "1", "inputs": [{**tensor, "data": IMAGES.tolist()}], "outputs": requested}
    files = b"".join(len(f).to_bytes(4, "little") + f for f in (b"one", b"", b"three"))
    planes = (IMAGES.transpose(0, 3, 1, 2) / 255).astype("<f4")
    tails = (
        (tensor, IMAGES.tobytes()),
        ({**tensor, "datatype": "BYTES", "shape": [3]}, files),
        ({**tensor, "datatype": "FP32", "shape": planes.shape}, planes.tobytes()),
        ({**tensor, "datatype": "BF16", "shape": planes.shape}, planes.astype("<f2").tobytes()),
        ({**tensor, "datatype": "INT64"}, IMAGES.astype("<i8").tobytes()),
    )
    named = [{"name": "scores", "parameters": {"classification": 2}}]
    text = {**tensor, "datatype": "BYTES", "shape": [1], "data": ["b25l"]}
    classified = {"id": 1, "parameters": None, "inputs": [text], "outputs": named}
    seeds = [b"\0\0\0" + json.dumps(document).encode() for document in (plain, classified)]
    for described, tail in tails:
        parameters = {"binary_data_size": len(tail)}
        document = {"inputs": [{**described, "parameters": parameters}]}
        head = json.dumps({**document, "parameters": {"binary_data_output": True}}).encode()
        seeds.append(b"\1" + len(head).to_bytes(2, "little") + head + tail)
    return seeds


def image_seeds() -> list[bytes]:
    """Make valid images of each kind, as seeds."""
    picture = Image.fromarray(IMAGES[0])
    seeds = [png(IMAGES[0]), png(IMAGES[0], compress_level=0)]
    for form, mode, options in (
        ("JPEG", "RGB", {"quality": 90}),
        ("JPEG", "CMYK", {"progressive": True}),
        ("JPEG", "L", {"comment": b"c", "exif": b"Exif\0\0"}),
        ("PNG", "P", {"transparency": 0}),
        ("PNG", "LA", {"dpi": (72, 72)}),
        ("PNG", "1", {"bits": 1}),
        ("PNG", "RGBA", {"save_all": True, "append_images": [picture.convert("RGBA")]}),
    ):
        buffer = io.BytesIO()
        picture.convert(mode).save(buffer, form, **options)
        seeds.append(buffer.getvalue())
    return seeds


BODIES = st.binary(max_size=200) | st.sampled_from(
    [png(IMAGES[0]), *(seed[3:] for seed in oip_seeds())]
)


def check_api(document: dict[str, Any], url: str, key: str, *, examples: int, fresh: bool) -> int:
    """Send a live server requests that its OpenAPI document allows. Return their number.

    Args:
        document: the OpenAPI document. If it describes no body of a POST, any bytes are sent.
        examples: the requests of each operation, once with existing and once with invented names.
        fresh: send other requests at each run.
    """
    from schemathesis import openapi  # not installed for all importers of this module
    from schemathesis.checks import response_schema_conformance

    count = 0
    headers = {"Authorization": f"Bearer {key}"}

    def send(case: Any, body: bytes | None) -> None:
        nonlocal count
        sent = {} if body is None else {"data": body}
        response = case.call(base_url=url, headers=headers, timeout=30, **sent)
        count += 1
        assert_answered(
            response.status_code, response.content, {k: v[0] for k, v in response.headers.items()}
        )
        if response.status_code == 200:
            case.validate_response(response, checks=[response_schema_conformance])

    options = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=not fresh,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    for result in openapi.from_dict(document).get_all_operations():
        operation: Any = result.ok()  # type: ignore[union-attr]  # the document is our own
        bodies = st.none() if operation.method in READS or operation.body else BODIES
        existing = {name: value for name, value in NAMES.items() if f"{{{name}}}" in operation.path}
        for names in (None, existing):
            cases = operation.as_strategy(path_parameters=names)
            options(given(case=cases, body=bodies)(send))()
    return count


def assert_answered(status: int, body: bytes, headers: dict[str, str]) -> None:
    """Check that a response is an answer, or an error in a known form and not a server fault."""
    assert status == 503 or status < 500, body
    assert_plain_headers(headers)
    if status != 200:
        assert headers["x-error-code"]
        assert len(body) < 300
    if status != 200 and body:  # that of a HEAD has none
        document = json.loads(body)
        error = document.get("error", document)
        assert isinstance(error, str) or set(error) in ERRORS
