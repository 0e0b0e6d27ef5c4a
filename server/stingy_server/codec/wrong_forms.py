"""Bodies in a form that the server does not read: forms, base64 text, JSON in place of an image.

They are recognised by their first bytes, once the body was refused anyway. No content type is read,
because clients often send a wrong one.
"""

import re

from stingy_server.errors import (
    BASE64_IMAGE,
    BASE64_REQUEST,
    FORM_IMAGE,
    FORM_REQUEST,
    IMAGE_REQUEST,
    JSON_IMAGE,
    NO_IMAGE,
    TEXT_IMAGE,
    Refusal,
)

LOOKED_AT = 1024  # bytes: the head of a form's first part is shorter
_PARTS = re.compile(rb"(?:\r\n)*--[^\r\n]{1,200}\r?\ncontent-", re.IGNORECASE)
_FIELD = re.compile(rb"[\w.\[\]-]{1,64}=(?:/9j|%2F9j|iVBOR|UklGR|data:|data%3A)", re.IGNORECASE)
# A data URL, or the first bytes of a JPEG, a PNG or a WebP in base64; also in quotes.
_BASE64 = re.compile(rb"\s*[\"']?(?:data:image/|/9j/|iVBORw0KGgo|UklGR)")
_STRIPPED_PNG = b"\x89PNG\x1a"  # without line ends, which curl's -d removes


def explain_image(data: bytes, otherwise: Refusal) -> Refusal:
    """Return the refusal of content that is no image file.

    Args:
        data: the content.
        otherwise: the refusal of content that is in no known form.
    """
    if not data:
        return NO_IMAGE
    begin = data[:LOOKED_AT]
    if _is_form(begin):
        return FORM_IMAGE
    if _BASE64.match(begin):
        return BASE64_IMAGE
    if begin.lstrip()[:1] in (b"{", b"["):
        return JSON_IMAGE
    if begin.startswith(_STRIPPED_PNG):
        return TEXT_IMAGE
    return otherwise


def explain_request(body: bytes, otherwise: Refusal, *, image: bool) -> Refusal:
    """Return the refusal of a body that is no request of the Open Inference Protocol.

    Args:
        body: the body.
        otherwise: the refusal of a body that is in no known form.
        image: whether the body begins as an image file does.
    """
    begin = body[:LOOKED_AT]
    if image:
        return IMAGE_REQUEST
    if _is_form(begin):
        return FORM_REQUEST
    if _BASE64.match(begin):
        return BASE64_REQUEST
    return otherwise


def _is_form(begin: bytes) -> bool:
    return _PARTS.match(begin) is not None or _FIELD.match(begin) is not None
