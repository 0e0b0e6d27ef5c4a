"""Bodies in a wrong form are refused by a sentence that says what to send."""

import base64
from pathlib import Path
from urllib.parse import urlencode

import httpx
import numpy as np
import orjson
import pytest

from image_bytes import jpeg
from infer_requests import code, used
from serving import make_bundle, make_settings, png, random_images, running
from stingy_server.codec.wrong_forms import explain_image, explain_request
from stingy_server.errors import (
    BAD_REQUEST,
    BASE64_IMAGE,
    BASE64_REQUEST,
    FORM_IMAGE,
    FORM_REQUEST,
    IMAGE_REQUEST,
    JSON_IMAGE,
    TEXT_IMAGE,
    UNSUPPORTED_IMAGE,
    Refusal,
)

PREDICT, INFER = "/v1/predict/digits", "/v2/models/digits/infer"
PICTURE = png(random_images(1)[0])
LARGE = png(np.random.default_rng(0).integers(0, 255, (1200, 1200, 3), np.uint8))  # over 2 MiB
TEXT = base64.b64encode(PICTURE)


def multipart(content: bytes, name: str = "data") -> bytes:
    request = httpx.Request("POST", "http://x", files={name: ("cat.png", content)})
    return request.read()


FORMS = {
    "multipart": (multipart(PICTURE), FORM_IMAGE, FORM_REQUEST),
    "large multipart": (multipart(LARGE), FORM_IMAGE, FORM_REQUEST),
    "multipart of a field": (
        b'--x\nContent-Disposition: form-data; name="a"\n\n1\n--x--',
        FORM_IMAGE,
        FORM_REQUEST,
    ),
    "url-encoded": (urlencode({"image": TEXT}).encode(), FORM_IMAGE, FORM_REQUEST),
    "base64": (TEXT, BASE64_IMAGE, BASE64_REQUEST),
    "base64 of a JPEG": (base64.b64encode(jpeg()), BASE64_IMAGE, BASE64_REQUEST),
    "large base64": (base64.b64encode(LARGE), BASE64_IMAGE, BASE64_REQUEST),
    "data URL": (b"data:image/png;base64," + TEXT, BASE64_IMAGE, BASE64_REQUEST),
    "quoted base64": (b'"' + TEXT + b'"', BASE64_IMAGE, BASE64_REQUEST),
}


@pytest.mark.anyio
@pytest.mark.parametrize("form", FORMS)
async def test_wrong_form_is_refused_by_its_own_sentence(tmp_path: Path, form: str) -> None:
    body, image, request = FORMS[form]
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings) as (client, _):
        for path, refusal in ((PREDICT, image), (INFER, request)):
            await assert_refused(client, path, body, refusal)
        assert await used(client) == 0


@pytest.mark.anyio
async def test_body_for_the_other_route_is_refused_with_its_name(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    tensor = orjson.dumps({"inputs": []})
    async with running(settings) as (client, _):
        await assert_refused(client, PREDICT, tensor, JSON_IMAGE)
        for picture in (PICTURE, LARGE, jpeg()):
            await assert_refused(client, INFER, picture, IMAGE_REQUEST)
        # As curl -d @FILE sends it.
        stripped = PICTURE.translate(None, b"\r\n")
        await assert_refused(client, PREDICT, stripped, TEXT_IMAGE)


async def assert_refused(
    client: httpx.AsyncClient, path: str, body: bytes, refusal: Refusal
) -> None:
    # A client's content type decides nothing.
    for kind in ("image/png", "multipart/form-data; boundary=x"):
        response = await client.post(path, content=body, headers={"Content-Type": kind})
        assert code(response) == (refusal.status, refusal.code)
        assert refusal.message in response.text


@pytest.mark.parametrize(
    "data", [b"hello", b"GIF89a", b"--", b"--\r\n", b"\x00" * 2000, b"<svg/>", b"a=b", b"%PDF"]
)
def test_other_content_keeps_the_sentence_of_its_kind(data: bytes) -> None:
    assert explain_image(data, UNSUPPORTED_IMAGE) is UNSUPPORTED_IMAGE
    assert explain_request(data, BAD_REQUEST, image=False) is BAD_REQUEST
