"""Numbers and times in few characters."""

UNITS = " kMGTPE"


def short_number(number: int) -> str:
    """Return a number in five characters at most, such as 12.3k. It is rounded down."""
    if number < 10_000:
        return str(number)
    power = (len(str(number)) - 1) // 3
    unit = 1000**power
    decimals = 3 - len(str(number // unit))
    return f"{number * 10**decimals // unit / 10**decimals:g}{UNITS[power]}"


def short_time(seconds: float) -> str:
    """Return a time in its largest unit, such as "3 h"."""
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{max(0.0, seconds):.0f} s"
