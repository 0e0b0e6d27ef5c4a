"""The settings of browsers from other origins and of tokens from an identity provider."""

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Images = Annotated[int, Field(ge=1, le=2**62)]  # of a budget, as the store counts them
Claim = Annotated[str, Field(min_length=1, max_length=256)]

ANY_ORIGIN = "*"
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_DEFAULT_PORTS = (("http://", ":80"), ("https://", ":443"))
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _check_origin(origin: str) -> str:
    if origin != ANY_ORIGIN and _ORIGIN.fullmatch(origin) is None:
        raise ValueError(
            "expected an origin such as https://app.example.org, in lower case and without a path, "
            f"got {origin}"
        )
    if any(origin.startswith(scheme) and origin.endswith(port) for scheme, port in _DEFAULT_PORTS):
        raise ValueError(f"expected an origin without its default port, got {origin}")
    return origin


def _check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    if ANY_ORIGIN in origins and len(origins) > 1:
        raise ValueError("expected * alone or a list of origins, got both")
    return origins


Origin = Annotated[str, Field(max_length=256), AfterValidator(_check_origin)]
Origins = Annotated[tuple[Origin, ...], Field(max_length=256), AfterValidator(_check_origins)]


def is_safe_url(url: str) -> bool:
    """Return whether nobody on the way can change what an address answers.

    That is so with https, and on this machine.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    return bool(host) and (
        parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK)
    )


def _check_url(url: str) -> str:
    if not is_safe_url(url):
        raise ValueError("expected an address with https://, or one of this machine, got another")
    return url


Address = Annotated[str, Field(max_length=4096), AfterValidator(_check_url)]


class OidcSettings(BaseModel):
    """The tokens that are accepted beside keys, and the budgets of their principals.

    A principal is an issuer's subject. Budgets count images.

    Attributes:
        issuer: the address of the identity provider, as the claim `iss` has it.
        audience: the name of this service, as the claim `aud` has it.
        jwks_url: the address of the issuer's public keys; None for the one that the issuer's
            discovery document names.
        tier_claim: the claim that names a principal's tier; None if all have the same.
        tier: the tier of all principals, if there is no `tier_claim`.
        organisation_claim: the claim that names a principal's organisation, if organisations have
            budgets.
        budget: images of one principal in all; None for no limit.
        budget_per_day: images of one principal in a day of UTC; None for no limit.
        organisation_budget: images of one organisation in all; None for no limit.
        organisation_budget_per_day: images of one organisation in a day; None for no limit.
        total_budget: images of all principals together in all; None for no limit.
        total_budget_per_day: images of all principals together in a day; None for no limit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    issuer: Address
    audience: Claim
    jwks_url: Address | None = None
    tier_claim: Claim | None = None
    tier: Claim = "full"
    organisation_claim: Claim | None = None
    budget: Images | None = None
    budget_per_day: Images | None = None
    organisation_budget: Images | None = None
    organisation_budget_per_day: Images | None = None
    total_budget: Images | None = None
    total_budget_per_day: Images | None = None

    @property
    def limits_organisations(self) -> bool:
        """True if organisations have a budget."""
        return not (self.organisation_budget is None and self.organisation_budget_per_day is None)

    @model_validator(mode="after")
    def _check_budgets(self) -> "OidcSettings":
        # A provider may give anybody as many subjects as they like.
        if self.total_budget is None and self.total_budget_per_day is None:
            raise ValueError(
                "expected a total_budget or total_budget_per_day of all principals, got none"
            )
        if self.limits_organisations != (self.organisation_claim is not None):
            raise ValueError(
                "expected an organisation_claim and a budget of organisations, or neither, got one"
            )
        return self
