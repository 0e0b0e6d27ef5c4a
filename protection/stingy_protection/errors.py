"""The errors of this package. Invariant: no message contains a logit, a score or a path.

* ProtectionError
    + PolicyConfigError    the settings do not describe a policy
    + LogitsRejected       the gate does not accept the model's output
    + PolicyViolation      a policy failed or broke a promise; its answer does not leave
    + BundleError          a bundle folder is faulty
"""


class ProtectionError(Exception):
    """The base of every error that this package raises on purpose."""


class _FaultyError(ProtectionError):
    """An error that lists every fault, not only the first."""

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__(faults)
        self.faults = faults

    def __str__(self) -> str:
        return "; ".join(self.faults)


class PolicyConfigError(_FaultyError):
    """Settings that do not describe a policy. `faults` lists every fault of them."""


class LogitsRejected(ProtectionError):
    """Logits that the gate rejects: not finite, of a wrong shape or type, or with gradients."""


class PolicyViolation(ProtectionError):
    """A policy that failed or broke a promise. Nothing of its answer leaves."""


class BundleError(_FaultyError):
    """A faulty bundle folder. `faults` lists every fault of it."""
