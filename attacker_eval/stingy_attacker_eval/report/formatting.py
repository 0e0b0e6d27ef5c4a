"""How numbers and endpoints are written, the same in the table, the chart and the page."""


def percent(mean: float | None, spread: float | None = None) -> str:
    """`95.7 ± 0.4`, without the sign of percent."""
    if mean is None:
        return "n/a"
    return f"{mean:.1f}" if spread is None else f"{mean:.1f} ± {spread:.1f}"


def signed(mean: float | None, spread: float | None = None) -> str:
    """`+0.9 ± 0.2`, points of uplift."""
    if mean is None:
        return "n/a"
    # Adding 0.0 after rounding turns -0.0 into 0.0.
    text = f"{round(mean, 1) + 0.0:+.1f}".replace("-", "\N{MINUS SIGN}")
    return text if spread is None else f"{text} ± {spread:.1f}"


def endpoint_title(name: str, defence: str) -> str:
    """The name, with the defence where that is another word."""
    return name if name == defence else f"{name} ({defence})"


def cost(queries: int | None) -> str:
    """`1,297`; nothing where it is not known."""
    return "" if queries is None else f"{queries:,}"


def printed(mean: float | None, difference: float | None = None) -> str:
    """`74.24 (+3.07)`, two decimals as in the paper's tables."""
    if mean is None:
        return ""
    if difference is None:
        return f"{mean:.2f}"
    return f"{mean:.2f} ({difference:+.2f})".replace("-", "\N{MINUS SIGN}")
