"""Serve image classifiers whose logits pass a policy before anything leaves the model worker."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stingy_server.app import create_app
    from stingy_server.budgets import Budgets
    from stingy_server.database import Database, StoreUnavailable
    from stingy_server.errors import ConfigurationError, ServiceError
    from stingy_server.keys import Keys
    from stingy_server.settings import ModelSettings, Settings, Tier, load_settings

__all__ = [
    "Budgets",
    "ConfigurationError",
    "Database",
    "Keys",
    "ModelSettings",
    "ServiceError",
    "Settings",
    "StoreUnavailable",
    "Tier",
    "create_app",
    "load_settings",
]

_HOMES = {
    "ConfigurationError": "errors",
    "Budgets": "budgets",
    "Database": "database",
    "Keys": "keys",
    "ModelSettings": "settings",
    "ServiceError": "errors",
    "Settings": "settings",
    "Tier": "settings",
    "StoreUnavailable": "database",
    "create_app": "app",
    "load_settings": "settings",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: the `stingy` command imports this package, and torch takes seconds.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
