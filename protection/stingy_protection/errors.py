"""The errors of this package. Invariant: no message holds a logit, a score or a path.

* ProtectionError
    + PolicyConfigError    the settings describe no policy
    + LogitsRejected       the model's output may not enter the gate
    + PolicyViolation      a policy broke a promise, so its answer may not leave
    + BundleError          a bundle folder is not what it must be
"""


class ProtectionError(Exception):
    """Base of everything this package raises on purpose."""


class _FaultyError(ProtectionError):
    """An error that lists every fault found, not only the first."""

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__(faults)
        self.faults = faults

    def __str__(self) -> str:
        return "; ".join(self.faults)


class PolicyConfigError(_FaultyError):
    """The settings describe no policy; `faults` names everything wrong with them."""


class LogitsRejected(ProtectionError):
    """Logits that may not enter the gate: not finite, wrong shape or type, or with gradients."""


class PolicyViolation(ProtectionError):
    """A policy failed or broke a promise; nothing of its answer may leave."""


class BundleError(_FaultyError):
    """A bundle folder is not what it must be; `faults` names everything wrong with it."""
