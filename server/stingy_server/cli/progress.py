"""The progress of commands that take long, on stderr."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

LINE_S = 10.0  # between two lines where there is no terminal


@contextmanager
def working(text: str) -> Iterator[None]:
    """Show that a command works, and for how long, until the block ends.

    Args:
        text: what it does, such as "packing".
    """
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(text, total=None)
        yield


@contextmanager
def counting(text: str) -> Iterator[Callable[[int], None]]:
    """Show how many entries of the ledger a command has done, and their rate.

    Args:
        text: what it does, such as "verifying".

    Yields:
        A function to call with the number of further entries.
    """
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    console = Console(stderr=True)
    began = last_line = time.monotonic()
    done = 0
    if not console.is_terminal:

        def count(entries: int) -> None:
            nonlocal done, last_line
            done += entries
            now = time.monotonic()
            if now - last_line >= LINE_S:
                last_line = now
                typer.echo(describe_count(text, done, now - began), err=True)

        yield count
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(text, total=None)

        def advance(entries: int) -> None:
            nonlocal done
            done += entries
            progress.update(task, description=describe_count(text, done, time.monotonic() - began))

        yield advance


def describe_count(text: str, done: int, seconds: float) -> str:
    """Return a line such as "verifying: 120,000 entries, 35,000 a second"."""
    rate = f", {done / seconds:,.0f} a second" if seconds > 0 else ""
    return f"{text}: {done:,} entries{rate}"
