"""The templates of HTML pages: all that is printed is escaped, and a missing name is an error."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def open_templates(package: str, *, finalize: Callable[[Any], Any] | None = None) -> "Environment":
    """Open the templates of a package.

    Args:
        finalize: maps each value before it is printed.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader(package, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=finalize,
    )
