"""Image files of the two formats that are read, recognised by content, checked and decoded."""

import zlib

from PIL import Image

from stingy_server.codec import jpeg, png
from stingy_server.errors import BAD_IMAGE, UNSUPPORTED_IMAGE, ServiceError

SIGNATURES = (jpeg.SIGNATURE, png.SIGNATURE)
Size = tuple[int, int]  # width, height

# The exceptions that Pillow raises for broken files, by its documentation and its decoders.
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, zlib.error)


def read_size(data: bytes) -> Size:
    """Return (width, height) of an image file from its head, both at least 1.

    Raises:
        ServiceError: unsupported_image if the content is no JPEG or PNG; bad_image if its head is
            damaged, is of a kind that is not decoded here, or declares no pixels.
    """
    try:
        if data.startswith(png.SIGNATURE):
            size = png.read_png_size(data)
        elif data.startswith(jpeg.SIGNATURE):
            size = jpeg.read_jpeg_size(data)
        else:
            raise ServiceError(UNSUPPORTED_IMAGE)
    except ValueError:
        raise ServiceError(BAD_IMAGE) from None
    if 0 in size:
        raise ServiceError(BAD_IMAGE)
    return size


def decode_file(data: bytes, size: Size) -> Image.Image:
    """Decode an image file to RGB.

    Args:
        data: the bytes of a JPEG or PNG.
        size: its size, from `read_size`.

    Raises:
        ServiceError: bad_image, if it is damaged, or of another size.
    """
    decode = jpeg.decode_jpeg if data.startswith(jpeg.SIGNATURE) else png.decode_png
    try:
        image = decode(data)
        if image.size != size:
            raise ServiceError(BAD_IMAGE)
        return image.convert("RGB")
    except DECODE_ERRORS:
        raise ServiceError(BAD_IMAGE) from None
