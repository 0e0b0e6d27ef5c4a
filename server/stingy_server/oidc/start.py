"""The start of tokens: the faults of their settings."""

from importlib.util import find_spec

from stingy_server.settings import FULL_TIER, Settings


def token_faults(settings: Settings) -> list[str]:
    """Return the faults of the settings of tokens, if there are any."""
    oidc = settings.oidc
    if oidc is None:
        return []
    faults = []
    if find_spec("jwt") is None or find_spec("cryptography") is None:
        faults.append("oidc: expected PyJWT and cryptography, got none: pip install 'stingy[oidc]'")
    if oidc.tier_claim is None and oidc.tier not in (FULL_TIER, *settings.tiers):
        faults.append("oidc.tier: expected the name of one of the tiers, got another")
    return faults
