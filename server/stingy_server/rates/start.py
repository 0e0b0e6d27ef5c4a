"""The start of the rates: their store, and the faults of its settings."""

from stingy_server.errors import ConfigurationError
from stingy_server.rates.rate_limits import Rates, parse_rate
from stingy_server.settings import Settings


def open_rates(settings: Settings) -> tuple[Rates, list[str]]:
    """Open the store of the rates. Return it, and the faults of the settings."""
    faults = rate_store_faults(settings)
    try:
        parse_rate(settings.request_rate)
    except ValueError as error:
        faults.append(f"request_rate: {error}")
    try:
        return Rates(settings.rate_store), faults
    except ConfigurationError as error:
        return Rates("memory://"), [*faults, *error.faults]


def rate_store_faults(settings: Settings) -> list[str]:
    """Return a fault if there are several workers and each would count rates by itself."""
    if settings.workers > 1 and settings.rate_store.startswith("memory:"):
        return [
            "rate_store: expected a store that several workers share, such as redis://..., "
            "got memory://, which each worker has for itself"
        ]
    return []
