"""Images for the tests of the watch: smooth pictures, and changes of them that look alike."""

import numpy as np

from serving import random_images
from stingy_server.codec.images import Pixels

# Smooth pictures, as photographs are: noise has nothing that stays when it moves.
PICTURES = np.kron(random_images(400, size=8, seed=1), np.ones((1, 4, 4, 1), np.uint8))


def noisy(images: Pixels) -> Pixels:
    noise = np.random.default_rng(2).integers(-4, 5, images.shape)
    return np.clip(images.astype(int) + noise, 0, 255).astype(np.uint8)


def attack() -> Pixels:
    """Return an attacker's queries: each image and a noisy twin of it."""
    images = random_images(128, seed=3)
    return np.concatenate([images, noisy(images)])


def customer() -> Pixels:
    return random_images(256, seed=4)
