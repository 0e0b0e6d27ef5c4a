"""Progress of an audit: one bar on a terminal, else a plain line every ten seconds."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 10.0


class Reporter:
    """A printer of progress, as a bar or as lines."""

    def __init__(self, console: Console, bar: Progress | None) -> None:
        self._console = console
        self._bar = bar
        self._task = bar.add_task("", total=None) if bar is not None else None
        self._last_line = time.monotonic()

    def say(self, text: str) -> None:
        """Print a line that stays on the console."""
        self._console.print(text, highlight=False, markup=False)

    def step(self, done: int, total: int, what: str) -> None:
        """Report that `done` of `total` images or runs are finished; `what` names the latest."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, description=what)
        elif time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES or done == total:
            self._last_line = time.monotonic()
            self.say(f"{what}: {done} of {total}")


class Counter:
    """A running count of one task, as the function that is called with each addition to it."""

    def __init__(self, reporter: Reporter, total: int, label: str) -> None:
        self._reporter = reporter
        self._total = total
        self._label = label
        self._done = 0

    def __call__(self, count: int) -> None:
        self._done += count
        self._reporter.step(self._done, self._total, self._label)


@contextmanager
def report_progress(console: Console) -> Iterator[Reporter]:
    """Yield a reporter for this console; remove its bar at the end."""
    if not console.is_terminal:
        yield Reporter(console, None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield Reporter(console, bar)
