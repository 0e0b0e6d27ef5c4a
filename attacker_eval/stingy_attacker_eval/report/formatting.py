"""The formats of numbers and names, the same in tables, figures, pages and terminals."""

import unicodedata

_INVISIBLE = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")


def readable(text: str) -> str:
    """Replace control characters, direction marks and their like by code points: `<U+202E>`.

    A name with such characters could reorder, hide or break the text around it.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        f"<U+{ord(character):04X}>" if unicodedata.category(character) in _INVISIBLE else character
        for character in text
    )


def percent(mean: float | None) -> str:
    """Format a percentage as `95.7`, without the percent sign."""
    return "n/a" if mean is None else f"{mean:.1f}"


def signed(mean: float | None) -> str:
    """Format points of uplift as `+0.9`."""
    if mean is None:
        return "n/a"
    # Adding 0.0 after rounding turns -0.0 into 0.0.
    return f"{round(mean, 1) + 0.0:+.1f}".replace("-", "\N{MINUS SIGN}")


def endpoint_title(name: str, defence: str) -> str:
    """Return the name, and the defence after it if that is another word."""
    return readable(name if name == defence else f"{name} ({defence})")


def cost(queries: int | None) -> str:
    """Format a number of queries as `1,297`; an unknown number is empty."""
    return "" if queries is None else f"{queries:,}"


def printed(mean: float | None, difference: float | None = None) -> str:
    """Format a number as `74.24 (+3.07)`, with two decimals as in the paper's tables."""
    if mean is None:
        return ""
    if difference is None:
        return f"{mean:.2f}"
    return f"{mean:.2f} ({difference:+.2f})".replace("-", "\N{MINUS SIGN}")


def signed_finely(points: float) -> str:
    """Format points as `+0.58`, for the bounds of an interval."""
    return f"{round(points, 2) + 0.0:+.2f}".replace("-", "\N{MINUS SIGN}")


def share_text(share: float | None) -> str:
    """Format a share of the gap as `41 %`; empty where there is no gap."""
    return "" if share is None else f"{round(share) + 0:d} %".replace("-", "\N{MINUS SIGN}")


def two_errors(error: float | None) -> str:
    """Format two standard errors as `±0.6`; empty with one seed."""
    return "" if error is None else f"±{2 * error:.1f}"


def with_errors(points: float | None, error: float | None) -> str:
    """Format points and two standard errors as `+2.9 ±0.6`."""
    return f"{signed(points)} {two_errors(error)}".rstrip()
