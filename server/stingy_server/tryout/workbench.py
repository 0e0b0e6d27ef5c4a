"""The bundle that is tried, and what it knows of the images that were given to it.

Invariant: nothing of an image reaches a disk. Its pixels are dropped when its logits are computed.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stingy_protection import BundleManifest, keyed_noise
from stingy_server.codec.decode_pool import QUEUED_REQUESTS, DecodePool
from stingy_server.codec.images import Pixels, decode
from stingy_server.inference.forward import Forward
from stingy_server.settings import Settings

MAX_IMAGES = 8  # single images that are kept, the latest
MAX_FOLDERS = 2
MAX_NUMBERS = 2**25  # logits of a folder
OWNER = "try"  # of the work that the decoders do
Kept = TypeVar("Kept")


class FolderFull(Exception):
    """A folder that has as many images as are kept."""


@dataclass(frozen=True, eq=False)
class Known:
    """The logits of some images, of all classes.

    Attributes:
        logits: float32 `[images, classes]`, on the CPU.
        noise: standard normal `[images, classes]`, for a policy that needs it.
    """

    logits: Tensor
    noise: Tensor

    @staticmethod
    def concatenate(parts: "Iterable[Known]") -> "Known":
        """Join the images of several parts."""
        parts = list(parts)
        return Known(
            torch.cat([part.logits for part in parts]), torch.cat([part.noise for part in parts])
        )


@dataclass(eq=False)
class Folder:
    """Labelled images, and what the model knows of them. Both lists have one entry an image."""

    parts: list[Known]
    labels: list[int]

    def known(self) -> tuple[Known, npt.NDArray[np.int64]]:
        """Return what the model knows of all images, and their true labels `[images]`."""
        return Known.concatenate(self.parts), np.array(self.labels, dtype=np.int64)


class Workbench:
    """A bundle's network in this process, with the latest images.

    Args:
        manifest: of the bundle.
        forward: the network, which has passed its trial.
        settings: the limits of images, and whether passes are padded.
        secret: the key of a policy's noise.
    """

    def __init__(
        self, manifest: BundleManifest, forward: Forward, *, settings: Settings, secret: bytes
    ) -> None:
        self.manifest = manifest
        self._forward = forward
        self._settings = settings
        self._secret = secret
        self._decoders = DecodePool(capacity=QUEUED_REQUESTS * settings.max_pixels)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._images: OrderedDict[int, Known] = OrderedDict()
        self._folders: OrderedDict[int, Folder] = OrderedDict()
        self._given = 0

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.manifest.classes)

    async def add_image(self, data: bytes) -> int:
        """Read a JPEG, PNG or WebP as the server does, and return the number of the image.

        Raises:
            ServiceError: if the server would refuse it.
        """
        known = await self._look_at(data)
        return self._keep(self._images, known, MAX_IMAGES)

    def add_folder(self) -> int:
        """Begin a folder of labelled images, and return its number."""
        return self._keep(self._folders, Folder([], []), MAX_FOLDERS)

    async def add_to_folder(self, number: int, data: bytes, *, label: str) -> int:
        """Add an image to a folder. Return the images that it has now.

        Raises:
            KeyError: if there is no such folder, or no such class.
            FolderFull: if it has as many images as are kept.
            ServiceError: if the server would refuse the image.
        """
        folder = self._folders[number]
        true = self._index(label)
        if (len(folder.labels) + 1) * self.num_classes > MAX_NUMBERS:
            raise FolderFull
        known = await self._look_at(data)
        folder.parts.append(known)
        folder.labels.append(true)
        return len(folder.labels)

    def image(self, number: int) -> Known | None:
        """Return what the model knows of an image; None if it is not kept."""
        return self._images.get(number)

    def folder(self, number: int) -> tuple[Known, npt.NDArray[np.int64]] | None:
        """Return what the model knows of a folder, and its labels; None if it is not kept."""
        found = self._folders.get(number)
        return found.known() if found is not None and found.labels else None

    def close(self) -> None:
        """End the threads."""
        self._decoders.close()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _index(self, label: str) -> int:
        try:
            return self.manifest.classes.index(label)
        except ValueError:
            raise KeyError(label) from None

    async def _look_at(self, data: bytes) -> Known:
        pixels = await decode(
            [data],
            self.manifest.preprocessing,
            pool=self._decoders,
            caller=OWNER,
            max_pixels=self._settings.max_pixels,
        )
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, pixels)

    def _run(self, pixels: Pixels) -> Known:
        """Run one pass, in the shape in which the server runs it for one image."""
        padded = pixels
        if self._settings.strict:
            padded = np.zeros((self._settings.batch_size, *pixels.shape[1:]), np.uint8)
            padded[: len(pixels)] = pixels
        with torch.inference_mode():
            inputs = torch.from_numpy(np.require(padded, requirements="W"))
            logits = self._forward(inputs.to(self._forward.device))[: len(pixels)]
            noise = keyed_noise(self._secret, inputs[: len(pixels)], self.num_classes)
        # Cloned outside, because an inference tensor cannot be used like any other.
        return Known(logits.float().cpu().clone(), noise.clone())

    def _keep(self, kept: "OrderedDict[int, Kept]", one: Kept, most: int) -> int:
        self._given += 1
        kept[self._given] = one
        while len(kept) > most:
            kept.popitem(last=False)
        return self._given
