"""Images for the tests of the watch: smooth pictures, and changes of them that look alike."""

import numpy as np

from serving import random_images
from stingy_server.codec.images import Pixels

# Smooth pictures, as photographs are: noise has nothing that stays when it moves.
PICTURES = np.kron(random_images(400, size=8, seed=1), np.ones((1, 4, 4, 1), np.uint8))


def noisy(images: Pixels, *, seed: int = 2) -> Pixels:
    return noisy_in(images, (0, 1, 2), seed=seed)


def noisy_in(images: Pixels, channels: tuple[int, ...], *, seed: int = 2) -> Pixels:
    """Add noise of up to 4 grey levels to some channels."""
    noise = np.random.default_rng(seed).integers(-4, 5, images.shape)
    noise[..., [channel for channel in range(3) if channel not in channels]] = 0
    return np.clip(images.astype(int) + noise, 0, 255).astype(np.uint8)


def attack() -> Pixels:
    """Return an attacker's queries: each image and a noisy twin of it."""
    images = random_images(128, seed=3)
    return np.concatenate([images, noisy(images)])


def customer() -> Pixels:
    return random_images(256, seed=4)
