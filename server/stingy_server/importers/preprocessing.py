"""The preprocessing of a bundle: what the source says, replaced by what the person says."""

import math
from dataclasses import replace

from stingy_protection import Preprocessing
from stingy_protection.bundles.preprocessing import Channels
from stingy_server.importers.found import ImportOptions, NotImportable
from stingy_server.models.advice import LARGEST

# (mean, std) of x / 255 under the names by which training code knows them.
NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "half": ((0.5,), (0.5,)),
}


def parse_size(text: str) -> tuple[int, int]:
    """Parse "224" or "HEIGHTxWIDTH" into (height, width).

    Raises:
        NotImportable: if the text is another.
    """
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdecimal() for side in sides):
        raise NotImportable(f"--size: expected 224 or HEIGHTxWIDTH in pixels, got {text}")
    return int(sides[0]), int(sides[-1])


def parse_mean_and_std(
    mean: str | None, std: str | None
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Parse `--mean` and `--std`: numbers with commas, or a name, which as mean sets both.

    Raises:
        NotImportable: if a text is neither.
    """
    if mean is not None and std is None:
        if mean not in NORMALISATIONS:
            raise NotImportable("--std: expected numbers beside those of --mean, got none")
        return NORMALISATIONS[mean]
    if std is not None and mean is None:
        raise NotImportable("--mean: expected a value beside --std, got none")
    found = _parse_numbers("--mean", mean, part=0), _parse_numbers("--std", std, part=1)
    for option, values in zip(("--mean", "--std"), found, strict=True):
        _require_scale(option, values or ())
    return found


def describe_preprocessing(image: Preprocessing) -> str:
    """Describe a preprocessing in one line."""
    height, width = image.size
    cut = ""
    if image.resize_shorter is not None:
        cut = f", cut from the middle of an image whose shorter side is {image.resize_shorter}"
    elif image.resize_to is not None:
        cut = ", cut from the middle of {} x {}".format(*image.resize_to)
    colours = "grey" if image.channels == 1 else "RGB"
    turned = ", turned as their EXIF says" if image.exif_rotation else ""
    shape = f"{height} x {width} {colours}{cut}{turned}, {image.interpolation}"
    return f"{shape}; {_describe_scale(image)}"


def choose_preprocessing(found: Preprocessing, options: ImportOptions) -> Preprocessing:
    """Replace what a source says of its images by what the person says.

    Another size than the source's drops the source's crop, because the crop was made for its size.

    Raises:
        NotImportable: if mean or std have another number of values than there are channels.
    """
    channels = options.channels or found.channels
    size = options.size or found.size
    if size != found.size or options.resize_shorter is not None:
        found = replace(
            found, size=size, resize_shorter=options.resize_shorter, resize_to=None, crop=False
        )
    if found.resize_shorter is not None and found.resize_shorter < max(size):
        raise NotImportable(
            f"--resize-shorter: expected {max(size)} pixels or more, which is the size, got "
            f"{found.resize_shorter}"
        )
    return replace(
        found,
        channels=channels,
        mean=_for_channels("--mean", options.mean or found.mean, channels),
        std=_for_channels("--std", options.std or found.std, channels),
        interpolation=options.interpolation or found.interpolation,
        exif_rotation=options.exif_rotation,
    )


def plain_preprocessing(
    options: ImportOptions, *, size: tuple[int, int] | None, channels: Channels | None
) -> tuple[Preprocessing, tuple[str, ...]]:
    """Choose the preprocessing of a source that says nothing of its normalisation.

    Args:
        size: the size of the source, if it says so.
        channels: the channels of the source, if it says so.

    Returns:
        The form, and notes on what was assumed.

    Raises:
        NotImportable: if no one says the size.
    """
    size = options.size or size
    if size is None:
        raise NotImportable("expected the size of the images, got none; give --size, such as 224")
    channels = options.channels or channels or 3
    zero, one = (0.0,) * channels, (1.0,) * channels
    found = Preprocessing(size=size, channels=channels, mean=zero, std=one)
    notes: tuple[str, ...] = ()
    if options.mean is None:
        notes = (
            "pixels are divided by 255 and not normalised; give --mean and --std if they were in "
            "training, such as --mean imagenet",
        )
    return choose_preprocessing(found, options), notes


def _describe_scale(image: Preprocessing) -> str:
    for name, (mean, std) in NORMALISATIONS.items():
        repeat = image.channels if len(mean) == 1 else 1
        if (image.mean, image.std) == (mean * repeat, std * repeat):
            return f"mean and std of {name}"
    written = [", ".join(f"{each:g}" for each in part) for part in (image.mean, image.std)]
    return "mean {}, std {}".format(*written)


def _parse_numbers(option: str, text: str | None, *, part: int) -> tuple[float, ...] | None:
    if text is None:
        return None
    if text in NORMALISATIONS:
        return NORMALISATIONS[text][part]
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        names = ", ".join(NORMALISATIONS)
        raise NotImportable(
            f"{option}: expected numbers with commas or one of {names}, got {text}"
        ) from None


def _require_scale(option: str, values: tuple[float, ...]) -> None:
    """Check that numbers are of pixels / 255. Many papers and frameworks give those of pixels."""
    if any(not math.isfinite(value) for value in values):
        raise NotImportable(f"{option}: expected finite numbers, got others")
    if (largest := max(map(abs, values), default=0.0)) > LARGEST:
        raise NotImportable(
            f"{option}: expected numbers of pixels / 255, which are 0 to 1, got {largest:g}; "
            "divide mean and std of pixels from 0 to 255 by 255"
        )


def _for_channels(option: str, values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) == channels:
        return values
    if len(values) == 1:
        return values * channels
    wanted = "1 number for 1 channel" if channels == 1 else f"{channels} numbers, one a channel"
    raise NotImportable(
        f"{option}: expected {wanted}, got {len(values)}; give --mean and --std of the channels"
    )
