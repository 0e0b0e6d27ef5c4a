"""The step in float32 and in bfloat16, images/s by network and size: where bfloat16 is worth it.

    OMP_NUM_THREADS=1 python benchmarks/training/precision.py

Forward, backward and optimiser on one random batch, on the CPU, in the memory format of the loop.
The better of two rounds in turn, 1.5 s each.
"""

import time

import torch
from torch.nn import functional

from stingy_attacker_eval.students import student_spec
from stingy_attacker_eval.training import memory_format

NETWORKS = (
    ("resnet8", 32, 128),
    ("cnn_small", 32, 64),
    ("cnn_small", 16, 64),
    ("cnn_large", 16, 64),
    ("resnet8", 16, 64),
    ("resnet11", 16, 64),
    ("resnext11", 16, 64),
    ("shufflenet_small", 16, 64),
    ("mobilenet_small", 16, 64),
    ("lenet5_half", 32, 128),
    ("cnn_tiny", 8, 64),
)
SECONDS = 1.5


def measure_rate(name: str, size: int, batch: int, *, is_reduced: bool) -> float:
    """Return images/s of the step."""
    torch.manual_seed(0)
    images, labels = torch.randn(batch, 3, size, size), torch.randint(0, 10, (batch,))
    images = images.to(memory_format=memory_format(images))
    network = student_spec(name).build(10).to(memory_format=memory_format(images)).train()
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True
    )
    started, steps = 0.0, -3  # the first three are not counted
    while steps <= 0 or time.perf_counter() - started < SECONDS:
        if steps == 0:
            started = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_reduced):
            logits = network(images)
        loss = functional.cross_entropy(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        steps += 1
    return steps * batch / (time.perf_counter() - started)


def main() -> None:
    print("| network, pixels, batch | float32 | bfloat16 | ratio |\n|---|---|---|---|")  # noqa: T201
    for name, size, batch in NETWORKS:
        rounds = [
            [measure_rate(name, size, batch, is_reduced=kind) for kind in (False, True)]
            for _ in range(2)
        ]
        full, reduced = (max(rates) for rates in zip(*rounds, strict=True))
        row = f"{name}, {size}, {batch} | {full:,.0f} | {reduced:,.0f} | {reduced / full:.2f}"
        print(f"| {row} |")  # noqa: T201


if __name__ == "__main__":
    main()
