"""Exporting is quiet, and other threads are not silenced, because a server may serve meanwhile."""

import logging
import sys
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stingy_server.inference.export import NotExportable, export_program, to_onnx

EXAMPLE = torch.zeros(2, 10)


class Interrupted(nn.Module):
    """A network that cannot be traced, and writes from two threads while it is traced."""

    def forward(self, inputs: Tensor) -> Tensor:
        other = threading.Thread(target=write, args=("another thread",))
        other.start()
        other.join()
        sys.stderr.write("this thread")
        logging.getLogger("torch.export").error("the exporter")
        return inputs if inputs.sum() > 0 else -inputs


def write(writer: str) -> None:
    sys.stdout.write(f"{writer} on stdout")
    sys.stderr.write(f"{writer} on stderr")
    logging.getLogger("stingy").error("%s in the log", writer)


def test_O1_output_of_other_threads_is_kept_during_an_export(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    streams = (sys.stdout, sys.stderr)
    with pytest.raises(NotExportable):
        export_program(Interrupted(), EXAMPLE)
    output = capsys.readouterr()
    assert output.out == "another thread on stdout"
    assert output.err == "another thread on stderr"
    assert warnings(caplog) == ["another thread in the log"]
    assert (sys.stdout, sys.stderr) == streams


def test_export_writes_and_logs_nothing(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("onnxscript")
    before = levels()
    to_onnx(export_program(nn.Linear(10, 3), EXAMPLE), image="image", outputs=("logits",))
    assert capsys.readouterr() == ("", "")
    assert warnings(caplog) == []
    assert levels() == before


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def levels() -> list[Any]:
    names = (None, "torch", "onnxscript", "onnx_ir")
    return [logging.root.manager.disable, *(logging.getLogger(name).level for name in names)]
