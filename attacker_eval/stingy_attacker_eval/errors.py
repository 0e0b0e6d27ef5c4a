"""The errors of an audit. No message has a key, a pixel or a score.

EvalError
  * DatasetError      the data set cannot be used; names every fault
  * ProtocolError     the protocol cannot be run; names every fault
  * TransferError     the transfer set cannot be mixed with another, or could not be finished
  * AnswersError      the answers lack what the caller needs
  * AttackError       the attack broke its contract, or failed
  * BudgetExhausted   the attack queried more images than its budget
  * AuditError        the run folder or the report cannot be used, or the audit cannot be run
  * GateError         the audit does not pass; names every reason
  * SuspectError      a suspect gave no answers, or cannot be questioned; names every fault
  * ProofError        the exhibit has nothing to prove, or a document is no proof
  * StudyError        a study of marks cannot be run
  * DemoError         the demo could not be set up, or its server failed
"""


class EvalError(Exception):
    """The base of all errors of an audit."""


class _FaultsError(EvalError):
    """An error that names all faults at once, so that the user can mend them in one go."""

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
    """The transfer set cannot be mixed with another, or could not be finished."""


class AnswersError(EvalError):
    """The answers lack what the caller needs."""


class AttackError(EvalError):
    """The attack broke its contract, or failed with an error of its own."""


class BudgetExhausted(EvalError):
    """The attack queried more images than its budget has left; no image of that call was sent."""


class AuditError(_FaultsError):
    """The run folder or the report cannot be used, or the audit cannot be run."""


class GateError(_FaultsError):
    """The audit does not pass."""


class SuspectError(_FaultsError):
    """The suspect gave no answers, or cannot be questioned."""


class ProofError(EvalError):
    """The exhibit has nothing to prove, or a document is no proof."""


class StudyError(EvalError):
    """A study of marks cannot be run."""


class DemoError(EvalError):
    """The demo could not be set up, or its server failed."""
