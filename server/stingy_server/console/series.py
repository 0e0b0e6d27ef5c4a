"""The series of the traffic: what happened in each second, and in all of them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

RATE_SECONDS = 10  # of which images a second are the mean


@dataclass(slots=True)
class Bucket:
    """The requests of one second.

    Attributes:
        answered: images answered.
        bits: the leak meter's bits over them.
        requests: requests of any outcome.
        refused: requests without an answer.
        latencies_us: microseconds of each answered request.
    """

    answered: int = 0
    bits: float = 0.0
    requests: int = 0
    refused: int = 0
    latencies_us: list[int] = field(default_factory=list)


class Series(TypedDict):
    """A measure of the traffic: its value, and that of each second."""

    value: float | None
    seconds: list[float | None]


def summary(seconds: Sequence[Bucket]) -> dict[str, Series]:
    """Return four series of the seconds, and the value of each.

    Images a second are those of the last `RATE_SECONDS`. The other values are over all seconds.
    None stands for a second without a request, or without an answer.
    """
    lately = sum(each.answered for each in seconds[-RATE_SECONDS:])
    answered, bits = sum(each.answered for each in seconds), sum(each.bits for each in seconds)
    requests = sum(each.requests for each in seconds)
    refused = sum(each.refused for each in seconds)
    return {
        "images": _series(lately / RATE_SECONDS, (each.answered for each in seconds)),
        "refused": _series(
            100 * refused / requests if requests else None,
            (100 * each.refused / each.requests if each.requests else None for each in seconds),
        ),
        "p99": _series(
            _p99_ms([each for bucket in seconds for each in bucket.latencies_us]),
            (_p99_ms(each.latencies_us) for each in seconds),
        ),
        "bits": _series(
            bits / answered if answered else None,
            (each.bits / each.answered if each.answered else None for each in seconds),
        ),
    }


def _series(value: float | None, each: Iterable[float | None]) -> Series:
    return {"value": _rounded(value), "seconds": [_rounded(value) for value in each]}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _p99_ms(latencies_us: list[int]) -> float | None:
    """Return the milliseconds within which 99 of 100 requests were answered; None for none."""
    if not latencies_us:
        return None
    ordered = sorted(latencies_us)
    return ordered[min(len(ordered) - 1, math.ceil(0.99 * len(ordered)) - 1)] / 1000
