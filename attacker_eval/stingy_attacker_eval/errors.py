"""Everything an audit refuses or fails with; no message holds a key, a pixel or a score."""


class EvalError(Exception):
    """
    Base of all errors of this package.

    EvalError
      + DatasetError      a data set that cannot be used; lists every fault
      + ProtocolError     a protocol that cannot be run; lists every fault
      + TransferError     a transfer set that must not be mixed, or could not be finished
      + AnswersError      answers that cannot teach what the attack asks of them
      + AuditError        a run folder or report that cannot be used
      + DemoError         the demo could not be set up or its server did not start
    """


class _Faults(EvalError):
    """An error that names all faults at once, so that one run is enough to mend them."""

    def __init__(self, *faults: str) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class DatasetError(_Faults):
    """The data set cannot be used."""


class ProtocolError(_Faults):
    """The protocol cannot be run."""


class TransferError(EvalError):
    """The transfer set must not be mixed with another, or could not be finished."""


class AnswersError(EvalError):
    """The answers do not carry what was asked of them."""


class AuditError(EvalError):
    """The run folder or the report cannot be used."""


class DemoError(EvalError):
    """The demo could not be set up, or its server did not start."""
