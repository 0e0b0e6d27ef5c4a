"""Time torch, ONNX Runtime and OpenVINO as runtimes of a network on the CPU.

    python benchmarks/serving/runtimes.py [--rounds 5]

The networks are the tiny one of this benchmark and a ResNet-18, both 32 x 32 pixels to 100 classes.
They run on one thread in batches of 1 and 16. The runtimes take turns in every round, and a row
gives the fastest pass. Answers are compared with torch's in batches of 16, on 1000 images of noise.
For torch itself, answers to single images are compared with those batches.
"""

import argparse
import json
import logging
import time

import torch
import torchvision
from results import circumstances
from servers.tiny_net import CLASSES, MEAN, SIZE, STD, tiny_net
from torch import Tensor, nn

from stingy_protection import Preprocessing, build_policy, sanitize
from stingy_server.inference.runtimes import RUNTIMES, Network, choose_runtime
from stingy_server.settings import Settings

BATCHES, IMAGES = (1, 16), 1000
PREPROCESSING = Preprocessing(size=(SIZE, SIZE), mean=(MEAN,) * 3, std=(STD,) * 3)
POLICY = build_policy("stingy", num_classes=CLASSES)


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "tiny": tiny_net(),
        "resnet18": torchvision.models.resnet18(num_classes=CLASSES),
    }


def inputs() -> Tensor:
    """Return noise, [images, 3, height, width], with the strides of the engine's batches."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (IMAGES, SIZE, SIZE, 3), generator=generator)
    return ((pixels / 255 - MEAN) / STD).permute(0, 3, 1, 2)


def _seconds(run: Network, batch: Tensor) -> float:
    started = time.perf_counter()
    run(batch)
    return time.perf_counter() - started


def _differences(
    run: Network, network: Network, images: Tensor, *, at_once: int
) -> dict[str, float]:
    """Compare a runtime's answers with a network's.

    Args:
        images: [images, 3, height, width].
        at_once: images in one pass of `run`; `network` takes 16.

    Returns:
        The shares of images with other classes and with a moved score, and the most steps of the
        grid by which a score moved.
    """
    pairs = []
    for start in range(0, len(images), 16):
        part = images[start : start + 16]
        logits = torch.cat([run(few) for few in part.split(at_once)])
        pairs.append((sanitize(POLICY, logits), sanitize(POLICY, network(part))))
    classes = [(left.indices != right.indices).any(dim=1) for left, right in pairs]
    steps = [
        ((left.scores - right.scores) * 10.0**POLICY.decimals).abs().round().amax(dim=1)
        for left, right in pairs
        if left.scores is not None and right.scores is not None
    ]
    return {
        "other_classes": float(torch.cat(classes).float().mean()),
        "moved": float((torch.cat(steps) > 0).float().mean()),
        "most_steps": float(torch.cat(steps).max()),
    }


@torch.inference_mode()
def compare(network: nn.Module, images: Tensor, *, rounds: int) -> dict[str, object]:
    """Return milliseconds of each runtime's fastest pass, and how its answers differ."""
    runs: dict[str, Network] = {}
    load_s: dict[str, float] = {}
    for name in ("torch", *RUNTIMES):
        started = time.perf_counter()
        settings = Settings(device="cpu", runtime=name)
        runs[name] = choose_runtime(
            network, preprocessing=PREPROCESSING, policy=POLICY, settings=settings
        )[1]
        load_s[name] = time.perf_counter() - started
    times: dict[str, dict[int, float]] = {name: dict.fromkeys(BATCHES, 1e9) for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            for size in BATCHES:
                _seconds(run, images[:size])
                fastest = min(_seconds(run, images[:size]) for _ in range(20))
                times[name][size] = min(times[name][size], fastest)
    return {
        name: {
            "ms": {size: round(1e3 * seconds, 3) for size, seconds in times[name].items()},
            "load_s": round(load_s[name], 1),
            **_differences(run, runs["torch"], images, at_once=1 if name == "torch" else 16),
        }
        for name, run in runs.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the runtimes of a network on the CPU.")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    images = inputs()
    found = {
        name: compare(network, images, rounds=args.rounds) for name, network in networks().items()
    }
    print(json.dumps({**circumstances(), "networks": found}, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
