"""Serve image classifiers whose logits pass a policy before anything leaves the model worker."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stingy_server.app import create_app
    from stingy_server.errors import ConfigurationError, ServiceError
    from stingy_server.settings import ModelSettings, Settings, Tier
    from stingy_server.settings_sources import load_settings
    from stingy_server.store.base import StoreUnavailable
    from stingy_server.store.budgets import Budgets
    from stingy_server.store.database import Database
    from stingy_server.store.keys import Keys

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

_MODULES = {
    "ConfigurationError": "errors",
    "Budgets": "store.budgets",
    "Database": "store.database",
    "Keys": "store.keys",
    "ModelSettings": "settings",
    "ServiceError": "errors",
    "Settings": "settings",
    "Tier": "settings",
    "StoreUnavailable": "store.base",
    "create_app": "app",
    "load_settings": "settings_sources",
}


def __getattr__(name: str) -> Any:
    # Names are imported on first use, because the `stingy` command imports this package and torch
    # takes seconds to import.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
