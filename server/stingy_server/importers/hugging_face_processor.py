"""Hugging Face's image processors, translated into the preprocessing of a bundle."""

from collections.abc import Mapping
from typing import Any

from stingy_protection import Preprocessing
from stingy_protection.bundles.preprocessing import Interpolation
from stingy_server.importers.found import NotImportable

FILE = "preprocessor_config.json"
# Pillow's numbers of its filters.
FILTERS: tuple[Interpolation, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
# Processors that resize, cut out, scale and normalise, and do nothing else. Others flip channels,
# normalise twice or enlarge the size first.
PLAIN = ("Bit", "CLIP", "DeiT", "MobileNetV1", "MobileNetV2", "Siglip", "ViT")
CONVNEXT = "ConvNext"  # crops only below 384 pixels
SQUASHED_FROM = 384


def read_processor(config: Mapping[str, Any]) -> Preprocessing:
    """Translate the config of an image processor.

    Raises:
        NotImportable: if the processor does something that a preprocessing does not have.
    """
    kind = _kind(config)
    try:
        if kind not in (*PLAIN, CONVNEXT):
            raise _other("one of " + ", ".join((*PLAIN, CONVNEXT)), kind or "an unnamed processor")
        if config.get("do_resize", True) is not True:
            raise _other("do_resize = true", "another value")
        shape = _read_convnext(config) if kind == CONVNEXT else _read_plain(config)
        mean, std = _read_scale(config)
        return Preprocessing(
            mean=mean,
            std=std,
            interpolation=FILTERS[int(config["resample"])],
            crop_rounding="down",
            **shape,
        )
    except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError) as error:
        raise _other("the fields of an image processor", type(error).__name__) from None


def _kind(config: Mapping[str, Any]) -> str:
    name = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    for ending in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
        name = name.removesuffix(ending)
    return name[:64]


def _read_plain(config: Mapping[str, Any]) -> dict[str, Any]:
    size, crops = config["size"], config.get("do_center_crop", False)
    crop = _square(config["crop_size"]) if crops else None
    if isinstance(size, int) and not crops:
        return {"size": (size, size)}
    shorter = size if isinstance(size, int) else size.get("shortest_edge")
    if shorter is not None and crop is not None:
        return {"size": crop, "resize_shorter": int(shorter)}
    if shorter is not None:
        raise _other("a crop to one size, do_center_crop", "images of any size")
    both = _square(size)
    return {"size": both} if crop is None else {"size": crop, "resize_to": both}


def _read_convnext(config: Mapping[str, Any]) -> dict[str, Any]:
    size = config["size"]
    side = int(size if isinstance(size, int) else size["shortest_edge"])
    if side >= SQUASHED_FROM:
        return {"size": (side, side)}
    return {"size": (side, side), "resize_shorter": int(side / (config["crop_pct"] or 224 / 256))}


def _read_scale(config: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std of x / 255, whatever factor the processor multiplies x by."""
    factor = 255 * float(config.get("rescale_factor", 1 / 255))
    if not config.get("do_rescale", True):
        factor = 255.0
    mean, std = [0.0] * 3, [1.0] * 3
    if config.get("do_normalize", True):
        mean, std = (_channels(config[name]) for name in ("image_mean", "image_std"))
    if abs(factor - 1) < 1e-6:  # 0.00392156862745098 has no exact form
        return tuple(mean), tuple(std)
    return tuple(value / factor for value in mean), tuple(value / factor for value in std)


def _channels(value: Any) -> list[float]:
    return [float(value)] * 3 if isinstance(value, int | float) else [float(each) for each in value]


def _square(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size["height"]), int(size["width"]))


def _other(expected: str, got: str) -> NotImportable:
    return NotImportable(
        f"{FILE}: expected {expected}, got {got}; export the network to ONNX and pack that with "
        "--size, --mean and --std"
    )
