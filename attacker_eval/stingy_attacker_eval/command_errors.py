"""The end of a command that fails: one red line for each fault."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def report_errors() -> Iterator[None]:
    """Print an error in red, one line for each fault, and exit with 2; with 130 on Ctrl-C.

    The exit status is 1 only if `stingy audit gate` judged an audit and did not pass it. Only
    EvalError, ClientError and OSError are handled.
    """
    from stingy_attacker_eval.errors import EvalError, GateError
    from stingy_clients import ClientError

    try:
        yield
    except (EvalError, ClientError) as error:
        for line in getattr(error, "faults", (str(error),)):
            typer.secho(line, fg="red", err=True)
        raise typer.Exit(1 if isinstance(error, GateError) else 2) from None
    except OSError as error:
        where = "files" if error.filename is None else error.filename
        reason = error.strerror or type(error).__name__
        typer.secho(f"expected to read or write {where}, got: {reason}", fg="red", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt as stop:
        typer.secho(str(stop) or "stopped; finished work is kept", fg="red", err=True)
        raise typer.Exit(130) from None
