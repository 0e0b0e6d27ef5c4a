"""Exporting is quiet, and silences nobody else: a server may serve meanwhile."""

import logging
import sys
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stingy_server.inference.export import NotExportable, as_onnx, exported

EXAMPLE = torch.zeros(2, 10)


class Interrupted(nn.Module):
    """While it is traced, another thread speaks; then it speaks itself, and cannot be traced."""

    def forward(self, inputs: Tensor) -> Tensor:
        other = threading.Thread(target=speak, args=("another thread",))
        other.start()
        other.join()
        sys.stderr.write("this thread")
        logging.getLogger("torch.export").error("the exporter")
        return inputs if inputs.sum() > 0 else -inputs


def speak(who: str) -> None:
    sys.stdout.write(f"{who} on stdout")
    sys.stderr.write(f"{who} on stderr")
    logging.getLogger("stingy").error("%s in the log", who)


def test_O1_what_another_thread_says_meanwhile_is_heard(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    streams = (sys.stdout, sys.stderr)
    with pytest.raises(NotExportable):
        exported(Interrupted(), EXAMPLE)
    said = capsys.readouterr()
    assert said.out == "another thread on stdout"
    assert said.err == "another thread on stderr"
    assert warned(caplog) == ["another thread in the log"]
    assert (sys.stdout, sys.stderr) == streams


def test_an_export_says_nothing(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("onnxscript")
    before = levels()
    as_onnx(exported(nn.Linear(10, 3), EXAMPLE), image="image", outputs=("logits",))
    assert capsys.readouterr() == ("", "")
    assert warned(caplog) == []
    assert levels() == before


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def levels() -> list[Any]:
    names = (None, "torch", "onnxscript", "onnx_ir")
    return [logging.root.manager.disable, *(logging.getLogger(name).level for name in names)]
