"""Measure how many images share the code of a mark, and which changes move it.

    python benchmarks/marks/codes.py

The images are those of benchmarks/detection/near_copies.py: 1,797 digits and 520 pieces of
photographs, at 32x32 pixels.
"""

import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.append(str(Path(__file__).parents[1] / "detection"))
from near_copies import digits, noise, photographs

from stingy_protection.coarse_pixels import coarse_codes

LEVELS = (1, 4, 16)
SECRETS = [bytes([number]) * 32 for number in range(10)]


def main() -> None:
    table = Table("images", "signs", "codes", "largest share", *(f"moved by {n}" for n in LEVELS))
    for name, images in (("digits", digits()), ("pieces", photographs())):
        random = np.random.default_rng(0)
        noisy = {n: np.clip(noise(n)(images, random), 0, 255).astype(np.uint8) for n in LEVELS}
        for signs in (16, 32, 48, 64):
            rows = [measure(images, noisy, secret, signs) for secret in SECRETS]
            codes, share, *moved = np.mean(rows, axis=0)
            table.add_row(
                name,
                str(signs),
                f"{codes:.0f}",
                f"{share:.2%}",
                *(f"{each:.1%}" for each in moved),
            )
    Console().print(table)


def measure(
    images: np.ndarray, noisy: dict[int, np.ndarray], secret: bytes, signs: int
) -> list[float]:
    """Return the number of codes, the share of the largest group, and the shares that moved."""
    codes = coarse_codes(secret, images, purpose=b"benchmark", signs=signs)
    _, counts = np.unique(codes, axis=0, return_counts=True)
    moved = [
        coarse_codes(secret, each, purpose=b"benchmark", signs=signs) != codes
        for each in noisy.values()
    ]
    return [len(counts), counts.max() / len(images), *(each.any(axis=1).mean() for each in moved)]


if __name__ == "__main__":
    main()
