"""The heads of the ledger's chains as text, to keep them where nobody may write the store."""

import json
from collections.abc import Iterator
from pathlib import Path

from stingy_server.store.base import StoreUnavailable
from stingy_server.store.ledger import Head


def read_kept_heads(file: Path) -> list[Head]:
    """Read heads that were kept, one a line, as `stingy ledger head` or the log has them.

    Text before the first brace of a line is skipped, so lines of the log may be kept as they are.

    Raises:
        StoreUnavailable: the file cannot be read, has no head, or has a line that is none.
    """
    try:
        heads = [*_heads(file.read_text(encoding="utf-8"))]
    except OSError as error:
        raise StoreUnavailable(f"{file}: {error.strerror or error}") from None
    except ValueError as error:
        raise StoreUnavailable(f"{file}: {error}") from None
    if not heads:
        raise StoreUnavailable(f"{file}: expected at least one head, got none")
    return heads


def _heads(lines: str) -> Iterator[Head]:
    for place, line in enumerate(lines.splitlines(), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line[line.index("{") :])
            head = Head(fields["writer"], fields["number"], bytes.fromhex(fields["hash"]))
        except (KeyError, TypeError, ValueError):
            head = Head("", 0, b"")
        if not (
            isinstance(head.writer, str)
            and type(head.number) is int
            and head.number > 0
            and len(head.hash) == 32
        ):
            raise ValueError(f"line {place}: expected a head of `stingy ledger head`, got another")
        yield head
