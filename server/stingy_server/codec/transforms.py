"""Resizing and cropping, with the pixels of torchvision's transforms on Pillow images.

The arithmetic is that of `torchvision.transforms.v2` 0.29, which this module does not import:
torchvision takes 160 MiB and a second of each process. Tests compare the two bit for bit.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image

from stingy_protection import Preprocessing
from stingy_protection.bundles.preprocessing import CropRounding, Interpolation

Size = tuple[int, int]  # width, height

FILTERS: dict[Interpolation, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "nearest-exact": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}


def scaled_size(size: Size, preprocessing: Preprocessing) -> Size:
    """Return (width, height) of an image after its resizing and before its crop.

    The longer side is cut to a whole number of pixels, as torchvision's `Resize` does.
    """
    shorter = preprocessing.resize_shorter
    if shorter is not None:
        width, height = size
        if width <= height:
            return shorter, int(shorter * height / width)
        return int(shorter * width / height), shorter
    if preprocessing.resize_to is not None:
        height, width = preprocessing.resize_to
    elif preprocessing.crop:
        return size
    else:
        height, width = preprocessing.size
    return width, height


def fits_already(size: Size, preprocessing: Preprocessing) -> bool:
    """Return true if an image of this size is passed on as it is."""
    height, width = preprocessing.size
    return (
        size == (width, height)
        and scaled_size(size, preprocessing) == size
        and preprocessing.channels == 3
    )


def transform(image: Image.Image, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """Bring an RGB image to the pixels [height, width, 3] that the model takes.

    The three channels of a grey model's pixels are equal.
    """
    if preprocessing.channels == 1:
        image = image.convert("L")
    scaled = scaled_size(image.size, preprocessing)
    if scaled != image.size:
        image = image.resize(scaled, FILTERS[preprocessing.interpolation])
    height, width = preprocessing.size
    if image.size != (width, height):
        rounding = preprocessing.crop_rounding
        left = _crop_start(image.width, width, rounding)
        top = _crop_start(image.height, height, rounding)
        image = image.crop((left, top, left + width, top + height))
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def _crop_start(length: int, wanted: int, rounding: CropRounding) -> int:
    """Return the first pixel of a side's centre.

    It is negative where black is added before the image.
    """
    if wanted > length:
        return -((wanted - length) // 2)
    margin = length - wanted
    return margin // 2 if rounding == "down" else round(margin / 2.0)
