"""A small closed-loop client that records what wrk does not: time and status of each answer."""

import asyncio
import statistics
import time
from dataclasses import dataclass, field


@dataclass
class LoadResult:
    """The outcomes of many requests.

    Attributes:
        times: milliseconds of each answer, by status.
        answered: the end of each answer with status 200, in seconds of `perf_counter`.
        silent: the number of 503 refusals without a `Retry-After` header.
    """

    times: dict[int, list[float]] = field(default_factory=dict)
    answered: list[float] = field(default_factory=list)
    silent: int = 0

    def summary(self) -> dict[str, object]:
        return {
            "by_status": {
                str(status): {
                    "count": len(times),
                    "p50_ms": statistics.median(times),
                    "p99_ms": percentile(times, 0.99),
                }
                for status, times in sorted(self.times.items())
            },
            "without_retry_after": self.silent,
        }


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


async def _client(
    port: int, request: bytes, until: float, patient: bool, result: LoadResult
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while time.perf_counter() < until:
            started = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            headers = _headers(head)
            await reader.readexactly(int(headers.get(b"content-length", b"0")))
            status = int(head[9:12])
            ended = time.perf_counter()
            result.times.setdefault(status, []).append(1000 * (ended - started))
            if status == 200:
                result.answered.append(ended)
            if status == 503:
                result.silent += b"retry-after" not in headers
                if patient:
                    wait = float(headers.get(b"retry-after", b"1"))
                    await asyncio.sleep(max(0.0, min(wait, until - time.perf_counter())))
            if headers.get(b"connection") == b"close":
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
    finally:
        writer.close()


def _headers(head: bytes) -> dict[bytes, bytes]:
    fields = (line.partition(b":") for line in head.split(b"\r\n")[1:] if line)
    return {name.lower(): value.strip() for name, _, value in fields}


async def press(
    port: int, request: bytes, *, connections: int, seconds: float, patient: bool = True
) -> LoadResult:
    """Load a server with concurrent clients, each with one request at a time.

    Args:
        request: the bytes of the request that every client repeats.
        connections: the number of clients.
        patient: whether a refused client waits as long as `Retry-After` says.
    """
    result = LoadResult()
    until = time.perf_counter() + seconds
    clients = (_client(port, request, until, patient, result) for _ in range(connections))
    await asyncio.gather(*clients)
    return result
