"""Image files of the three formats that are read, recognised by content, checked and decoded."""

import zlib

from PIL import Image

from stingy_server.codec import jpeg, orientation, png, webp
from stingy_server.codec.wrong_forms import explain_image
from stingy_server.errors import (
    ANIMATED_IMAGE,
    BAD_IMAGE,
    DEEP_IMAGE,
    LOSSLESS_TOO_LARGE,
    UNSUPPORTED_IMAGE,
    ServiceError,
)

Size = tuple[int, int]  # width, height

# The exceptions that Pillow raises for broken files, by its documentation and its decoders.
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, zlib.error)


def is_image(data: bytes) -> bool:
    """Return true if the content begins as a file of one of the formats does."""
    return data.startswith((jpeg.SIGNATURE, png.SIGNATURE)) or webp.is_webp(data)


def read_size(data: bytes) -> Size:
    """Return (width, height) of an image file from its head, both at least 1.

    Raises:
        ServiceError: unsupported_image if the content is no JPEG, PNG or WebP, or is animated;
            bad_image if its head is damaged, is of a kind that is not decoded here, has more than 8
            bits a channel, or declares no pixels; too_large if it is a lossless WebP of more than
            524,288 pixels.
    """
    try:
        if data.startswith(png.SIGNATURE):
            size = png.read_png_size(data)
        elif data.startswith(jpeg.SIGNATURE):
            size = jpeg.read_jpeg_size(data)
        elif webp.is_webp(data):
            size = webp.read_webp_size(data)
        else:
            raise ServiceError(explain_image(data, UNSUPPORTED_IMAGE))
    except (jpeg.DeepImage, png.DeepImage):
        raise ServiceError(DEEP_IMAGE) from None
    except webp.LargeLossless:
        raise ServiceError(LOSSLESS_TOO_LARGE) from None
    except webp.AnimatedImage:
        raise ServiceError(ANIMATED_IMAGE) from None
    except ValueError:
        raise ServiceError(BAD_IMAGE) from None
    if 0 in size:
        raise ServiceError(BAD_IMAGE)
    return size


def decode_file(data: bytes, size: Size, *, exif_rotation: bool = False) -> Image.Image:
    """Decode an image file to RGB.

    Args:
        data: the bytes of a JPEG, PNG or WebP.
        size: its size, from `read_size`.
        exif_rotation: whether the image is turned as its EXIF orientation says.

    Raises:
        ServiceError: bad_image, if it is damaged, or of another size.
    """
    if data.startswith(jpeg.SIGNATURE):
        decode = jpeg.decode_jpeg
    else:
        decode = webp.decode_webp if webp.is_webp(data) else png.decode_png
    try:
        image = decode(data)
        if image.size != size:
            raise ServiceError(BAD_IMAGE)
        image = image.convert("RGB")
        return orientation.turn(image, data) if exif_rotation else image
    except DECODE_ERRORS:
        raise ServiceError(BAD_IMAGE) from None
