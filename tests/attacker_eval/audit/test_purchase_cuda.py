"""Networks of white-box attacks are compared with endpoints in float32, on CUDA, too."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attack_lab import TeacherOracle
from audit_fakes import tiny_protocol
from stingy_attacker_eval.audit.runner import run_audit
from stingy_protection import build_policy

pytestmark = pytest.mark.cuda


class CloseCall(nn.Module):
    """Answers class 0 by so little that bfloat16 sees no difference to class 1."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 3)
        self.linear.weight.data.zero_()
        self.linear.bias.data = torch.tensor([1.0, 1.0 - 2**-10, 0.0])

    def forward(self, images: Tensor) -> Tensor:
        # The sign of a pixel decides between the first two classes.
        logits: Tensor = self.linear(images[:, 0, 0, :1])
        swapped = images[:, 0, 0, 0] > 0
        return torch.where(swapped[:, None], logits[:, [1, 0, 2]], logits)


def test_networks_whose_best_classes_are_close_are_the_same(tmp_path: Path, dataset: str) -> None:
    network = CloseCall().eval()
    oracle = TeacherOracle(network, build_policy("stingy", num_classes=3, n=2))
    protocol = tiny_protocol(dataset, attacks=('"label_only"',))
    report = run_audit(
        protocol, oracles={"stingy": oracle}, out=tmp_path / "out", networks={"stingy": network}
    )
    assert [row.attack for row in report.rows] == ["no_api", "label_only"]
