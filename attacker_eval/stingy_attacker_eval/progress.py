"""Progress of an audit: one bar on a terminal, else a plain line every ten seconds."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 10.0


class Reporter:
    """A printer of progress and its rate, as a bar or as lines."""

    def __init__(self, console: Console, bar: Progress | None) -> None:
        self._console = console
        self._bar = bar
        self._task = bar.add_task("", total=None, rate="") if bar is not None else None
        self._last_line = time.monotonic()
        self._rate = Rate()

    def say(self, text: str) -> None:
        """Print a line that stays on the console."""
        self._console.print(text, highlight=False, markup=False)

    def step(self, done: int, total: int, what: str) -> None:
        """Report that `done` of `total` images or runs are finished; `what` names the latest."""
        rate = self._rate.text(done, total, time.monotonic())
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, description=what, rate=rate)
        elif time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES or done == total:
            self._last_line = time.monotonic()
            self.say(f"{what}: {done} of {total}{', ' if rate else ''}{rate}")


class Rate:
    """The rate of the present task, from its first report on."""

    def __init__(self) -> None:
        self._total = self._done = 0
        self._since: tuple[float, int] | None = None

    def text(self, done: int, total: int, now: float) -> str:
        """Return the rate in words, such as "12.3 a second"; empty until it is known.

        Args:
            done: what is finished of the task. If it is less than before, a new task began.
            total: of the task. Another total is another task.
            now: in seconds that only grow.
        """
        if self._since is None or total != self._total or done < self._done:
            self._since = now, done
        self._total, self._done = total, done
        began, first = self._since
        if now <= began or done == first:
            return ""
        rate = (done - first) / (now - began)
        return f"{rate:.1f} a second" if rate >= 1 else f"{60 * rate:.1f} a minute"


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
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield Reporter(console, bar)
