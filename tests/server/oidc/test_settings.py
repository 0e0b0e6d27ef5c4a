"""The settings of tokens: a fault of them stops the start."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from serving import make_bundle, make_settings
from stingy_server import create_app
from stingy_server.errors import ConfigurationError
from stingy_server.web_settings import OidcSettings

GOOD: dict[str, Any] = {
    "issuer": "https://login.example.org",
    "audience": "stingy",
    "total_budget": 10,
}


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": "http://login.example.org"},
        {"issuer": "login.example.org"},
        {"issuer": "ftp://localhost"},
        {"issuer": "http://localhost.evil.test"},
        {"issuer": "http://127.0.0.1@evil.test"},
        {"issuer": "https://"},
        {"issuer": "https://[x"},
        {"jwks_url": "http://192.0.2.1/keys"},
        {"audience": ""},
        {"total_budget": None},
        {"total_budget": 0},
        {"organisation_claim": "org"},
        {"organisation_budget": 5},
        {"algorithms": ["HS256"]},
    ],
    ids=str,
)
def test_unsafe_or_half_set_issuer_is_a_fault(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        OidcSettings(**GOOD | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"jwks_url": "https://keys.example.org/jwks"},
        {"issuer": "http://127.0.0.1:8000/realm"},
        {"issuer": "http://[::1]:8000"},
        {"total_budget": None, "total_budget_per_day": 5},
        {"organisation_claim": "org", "organisation_budget_per_day": 5},
    ],
    ids=str,
)
def test_safe_issuer_is_accepted(changes: dict[str, Any]) -> None:
    assert OidcSettings(**GOOD | changes).audience == "stingy"


def faults_of(tmp_path: Path, **oidc: Any) -> tuple[str, ...]:
    settings = make_settings(
        tmp_path / "s", make_bundle(tmp_path / "b"), oidc=OidcSettings(**GOOD | oidc)
    )
    with pytest.raises(ConfigurationError) as error:
        create_app(settings)
    return error.value.faults


def test_P6_tier_that_is_not_configured_is_a_fault(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, tier="partner")
    assert fault == "oidc.tier: expected the name of one of the tiers, got another"


def test_P6_missing_package_is_a_fault_that_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stingy_server.oidc.start.find_spec", lambda name: None)
    (fault,) = faults_of(tmp_path)
    assert fault.endswith("pip install 'stingy[oidc]'")
