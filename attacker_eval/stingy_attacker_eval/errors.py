"""Everything an audit refuses or fails with; no message holds a key, a pixel or a score.

EvalError
  * DatasetError      a data set that cannot be used; names every fault
  * ProtocolError     a protocol that cannot be run; names every fault
  * TransferError     a transfer set that must not be mixed, or could not be finished
  * AnswersError      answers that do not carry what was asked of them
  * AttackError       an attack that broke its contract, or failed
  * BudgetExhausted   an attack that asked for more than it may
  * AuditError        a run folder or a report that cannot be used
  * GateError         an audit that does not pass; names every reason
  * DemoError         the demo could not be set up, or its server failed
"""


class EvalError(Exception):
    """Base of all."""


class _FaultsError(EvalError):
    """Names all faults at once, so that one run is enough to mend them."""

    def __init__(self, *faults: str) -> None:
        super().__init__(*faults)
        self.faults = faults

    def __str__(self) -> str:
        return "; ".join(self.faults)


class DatasetError(_FaultsError):
    """The data set cannot be used."""


class ProtocolError(_FaultsError):
    """The protocol cannot be run."""


class TransferError(EvalError):
    """The transfer set must not be mixed with another, or could not be finished."""


class AnswersError(EvalError):
    """The answers do not carry what was asked of them."""


class AttackError(EvalError):
    """The attack broke its contract, or failed with an error of its own."""


class BudgetExhausted(EvalError):
    """The attack asked for more images than are left to it; nothing of that call was asked."""


class AuditError(EvalError):
    """The run folder or the report cannot be used."""


class GateError(_FaultsError):
    """The audit does not pass."""


class DemoError(EvalError):
    """The demo could not be set up, or its server failed."""
