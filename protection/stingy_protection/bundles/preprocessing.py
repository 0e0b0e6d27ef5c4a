"""The preprocessing of a bundle: the way from an image to the model's input."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from stingy_protection.bundles.rules import (
    MAX_SCALE,
    MAX_SIDE,
    Rule,
    find_faults,
    is_list,
    is_number,
    is_pixels,
    one_of,
)

Interpolation = Literal[
    "nearest", "nearest-exact", "bilinear", "bicubic", "box", "hamming", "lanczos"
]
"""The values of torchvision's `InterpolationMode`. On Pillow images the first two are the same."""

CropRounding = Literal["even", "down"]
"""The rounding of a crop's first pixel: torchvision's is "even", that of transformers "down"."""

Channels = Literal[1, 3]


@dataclass(frozen=True)
class Preprocessing:
    """The way from an image to the model's input, with the pixels of torchvision's transforms.

    1. The image is decoded, and turned as its EXIF says if `exif_rotation`.
    2. It becomes RGB, or grey as Pillow's mode "L" if `channels` is 1.
    3. It is resized as torchvision's `Resize` resizes a Pillow image (antialias): its shorter side
       to `resize_shorter`, or both sides to `resize_to`. Without either, and without `crop`, both
       sides become `size`.
    4. With `crop`, the centre is cropped to `size` as torchvision's `CenterCrop` does. With
       `crop_rounding` "down" it is cropped as transformers' image processors do.
    5. The input is (x / 255 - `mean`) / `std`, float32 `[channels, height, width]`.

    Args:
        size: (height, width) of the model's input in pixels, each 1..4096.
        mean: one value per channel, of x / 255, -1e6..1e6.
        std: one value per channel, 1e-6..1e6.
        resize_shorter: pixels, from the larger side of `size` to 4096, or None.
        resize_to: (height, width), each from that of `size` to 4096, or None.
        crop: whether the centre is cropped. True wherever `resize_shorter` or `resize_to` is set.
            True without both crops an image that is not resized, and pads a smaller one with black.
        crop_rounding: "even" if half a pixel of margin rounds to the even number, "down" if it
            rounds down. A smaller image is padded in the same way in both.
        interpolation: the interpolation of the resizing.
        channels: 3 for RGB, 1 for grey.
        exif_rotation: whether an image is turned as its EXIF orientation says. Training code in
            torchvision, timm and transformers does not turn images, so the default is False.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize_shorter: int | None = None
    resize_to: tuple[int, int] | None = None
    crop: bool = False
    crop_rounding: CropRounding = "even"
    interpolation: Interpolation = "bilinear"
    channels: Channels = 3
    exif_rotation: bool = False

    def __post_init__(self) -> None:
        if self.resize_shorter is not None or self.resize_to is not None:
            object.__setattr__(self, "crop", True)


def parse_preprocessing(
    raw: dict[str, Any], *, format: int
) -> tuple[Preprocessing | None, list[str]]:
    """Parse the field `preprocessing` of a manifest.

    Returns:
        The preprocessing, None if it has faults, and the faults.
    """
    if format == 1:
        rules = {name: _RULES[name] for name in ("size", "mean", "std", "resize_shorter")}
    else:
        rules = _RULES
    optional = frozenset(rules) - {"size", "mean", "std"}
    faults = find_faults(raw, rules, optional=optional, prefix="preprocessing.")
    channels = raw.get("channels", 3)
    faults += [
        f"expected preprocessing.{name} to have {channels} numbers, got {len(raw[name])}"
        for name in ("mean", "std")
        if not faults and len(raw[name]) != channels
    ]
    if not faults:
        faults += _find_conflicts(raw)
    if faults:
        return None, faults
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()
    }
    return Preprocessing(**values), []


def _find_conflicts(raw: dict[str, Any]) -> list[str]:
    size, shorter, exact = raw["size"], raw.get("resize_shorter"), raw.get("resize_to")
    faults = []
    if shorter is not None and shorter < max(size):
        faults.append("expected preprocessing.resize_shorter >= size, got less")
    if exact is not None and (exact[0] < size[0] or exact[1] < size[1]):
        faults.append("expected preprocessing.resize_to >= size, got less")
    if shorter is not None and exact is not None:
        faults.append("expected preprocessing.resize_shorter or resize_to, got both")
    if raw.get("crop") is False and (shorter is not None or exact is not None):
        faults.append(
            "expected preprocessing.crop to be true beside resize_shorter and resize_to, got false"
        )
    return faults


def _is_size(value: Any) -> bool:
    return is_list(value, is_pixels, 2)


def _are_numbers(low: float, high: float) -> Rule:
    """Return the rule for one number per channel."""
    return (
        lambda value: (
            isinstance(value, list)
            and len(value) in get_args(Channels)
            and all(is_number(item, low, high) for item in value)
        )
    ), f"a number of {low:g}..{high:g} per channel"


_RULES: dict[str, Rule] = {
    "size": (_is_size, f"[height, width], 1..{MAX_SIDE}"),
    "mean": _are_numbers(-MAX_SCALE, MAX_SCALE),
    "std": _are_numbers(1 / MAX_SCALE, MAX_SCALE),
    "resize_shorter": (
        lambda value: value is None or is_pixels(value),
        f"1..{MAX_SIDE} pixels or null",
    ),
    "resize_to": (
        lambda value: value is None or _is_size(value),
        f"[height, width], 1..{MAX_SIDE}, or null",
    ),
    "crop": one_of(True, False),
    "crop_rounding": one_of(*get_args(CropRounding)),
    "interpolation": one_of(*get_args(Interpolation)),
    "channels": one_of(*get_args(Channels)),
    "exif_rotation": one_of(True, False),
}
