"""Black-box distillation audits of a running endpoint, and the report of what it still leaks.

Names load on first use, so that the `stingy` command can list its commands without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stingy_attacker_eval.attacks import Attack, AttackContext, AttackerData, Batch, Capability
    from stingy_attacker_eval.audit.protocol import Protocol
    from stingy_attacker_eval.audit.protocol_file import load_protocol
    from stingy_attacker_eval.audit.run_folder import read_predictions
    from stingy_attacker_eval.audit.runner import run_audit
    from stingy_attacker_eval.datasets.datasets import Dataset, load_dataset
    from stingy_attacker_eval.errors import (
        AnswersError,
        AttackError,
        AuditError,
        BudgetExhausted,
        DatasetError,
        DemoError,
        EvalError,
        ProtocolError,
        TransferError,
    )
    from stingy_attacker_eval.oracle.in_process import in_process_client
    from stingy_attacker_eval.oracle.oracle import Answers, HttpOracle, Oracle
    from stingy_attacker_eval.oracle.query_session import QuerySession
    from stingy_attacker_eval.oracle.transfer_set import TransferSet, buy
    from stingy_attacker_eval.report.html import write_report
    from stingy_attacker_eval.report_schema import Report, read_report

__all__ = [
    "Answers",
    "AnswersError",
    "Attack",
    "AttackContext",
    "AttackError",
    "AttackerData",
    "AuditError",
    "Batch",
    "BudgetExhausted",
    "Capability",
    "Dataset",
    "DatasetError",
    "DemoError",
    "EvalError",
    "HttpOracle",
    "Oracle",
    "Protocol",
    "ProtocolError",
    "QuerySession",
    "Report",
    "TransferError",
    "TransferSet",
    "buy",
    "in_process_client",
    "load_dataset",
    "load_protocol",
    "read_predictions",
    "read_report",
    "run_audit",
    "write_report",
]

_HOME = {
    **dict.fromkeys(("Attack", "AttackContext", "AttackerData", "Batch", "Capability"), "attacks"),
    **dict.fromkeys(("Dataset", "load_dataset"), "datasets.datasets"),
    **dict.fromkeys((name for name in __all__ if name.endswith("Error")), "errors"),
    "BudgetExhausted": "errors",
    **dict.fromkeys(("Answers", "HttpOracle", "Oracle"), "oracle.oracle"),
    "Protocol": "audit.protocol",
    "load_protocol": "audit.protocol_file",
    "QuerySession": "oracle.query_session",
    "in_process_client": "oracle.in_process",
    "read_predictions": "audit.run_folder",
    "run_audit": "audit.runner",
    "write_report": "report.html",
    **dict.fromkeys(("Report", "read_report"), "report_schema"),
    **dict.fromkeys(("TransferSet", "buy"), "oracle.transfer_set"),
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
