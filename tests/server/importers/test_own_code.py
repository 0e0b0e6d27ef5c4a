"""Networks of the person's own Python file: they are exported to ONNX."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from packing import pack
from stingy_server.importers.found import ImportOptions, NotImportable
from stingy_server.importers.own_code import import_own_code, is_own_code
from stingy_server.importers.state_file import read_weights

LABELS = ("cat", "dog", "bird")
GREY = """
import torch
from torch import nn
from sizes import HIDDEN  # a module beside this file

def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, HIDDEN, 3), nn.BatchNorm2d(HIDDEN), nn.ReLU(), nn.Dropout(0.5),
        nn.Flatten(), nn.Linear(HIDDEN * 26 * 26, 3),
    )
"""


def forward(output: str) -> str:
    """Write the code of a linear network that returns `output`."""
    return (
        "import torch\nfrom torch import nn\nclass N(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n        self.last = nn.Linear(192, 3)\n"
        f"    def forward(self, x):\n        return {output}\n"
        "def build(): return N()"
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "my_model.py").write_text(GREY)
    (tmp_path / "sizes.py").write_text("HIDDEN = 5\n")
    return tmp_path / "my_model.py"


def test_own_network_becomes_a_program_with_its_rows(source: Path, tmp_path: Path) -> None:
    network = torch.nn.Sequential(
        *(torch.nn.Conv2d(1, 5, 3), torch.nn.BatchNorm2d(5), torch.nn.ReLU()),
        *(torch.nn.Dropout(0.5), torch.nn.Flatten(), torch.nn.Linear(5 * 26 * 26, 3)),
    ).eval()
    torch.save({"state_dict": network.state_dict()}, tmp_path / "w.pth")
    found = import_own_code(
        f"{source}:build",
        ImportOptions(labels=LABELS, size=(28, 28), channels=1),
        weights=read_weights(tmp_path / "w.pth"),
    )
    assert (found.preprocessing.size, found.preprocessing.channels) == ((28, 28), 1)
    assert isinstance(found.model, bytes)
    session = onnxruntime.InferenceSession(found.model, providers=["CPUExecutionProvider"])
    batch = np.random.default_rng(0).random((7, 1, 28, 28), np.float32)
    (rows,) = session.run(None, {session.get_inputs()[0].name: batch})
    with torch.inference_mode():
        assert np.allclose(rows, network(torch.from_numpy(batch)).numpy(), atol=1e-5)
    assert "exported to ONNX, because a bundle has no code" in found.notes


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def build(): return 3", "expected a torch.nn.Module, got int"),
        (
            "def other(): ...",
            "expected a function build that returns the network, got none",
        ),
        ("def build(): raise KeyError('x')", "expected a network, got KeyError: 'x'"),
        ("import not_there", "got ModuleNotFoundError: No module named 'not_there'"),
        ("def build(:", "expected a network, got SyntaxError"),
        ("import sys; sys.exit(0)", "expected a network, got SystemExit"),
        (
            "from torch import nn\ndef build(): return nn.Linear(3, 2)",
            "network for float32 images of 3 channels and 8 x 8 pixels, got RuntimeError",
        ),
        (
            "from torch import nn\ndef build(): return nn.Flatten(2)",
            "expected rows of logits [2, classes] of 2 images, got [2, 3, 64] float32",
        ),
        (
            "from torch import nn\nbuild = nn.Flatten()",
            "expected a function build that returns the network, got a Flatten",
        ),
        (forward("self.last(x.flatten(1)).argmax(1)"), "got [2] int64"),
        (forward("self.last(x.flatten(1)).to(torch.complex64)"), "got [2, 3] complex64"),
        (forward("self.last(x.flatten(1))[:, :1]"), "let a network that ends in one logit x"),
        (forward("(self.last(x.flatten(1)), x)"), "one output named logits, got a tuple of 2"),
        (
            forward("self.last(nn.functional.dropout(x.flatten(1), 0.5, training=True))"),
            "expected the same answer to the same images each time, got different ones",
        ),
        (
            "import torch\nfrom torch import nn\nclass N(nn.Module):\n"
            "    def forward(self, x):\n"
            "        return x.flatten(1)[:, :3] * (2 if x.sum() > 1 else 1)\n"
            "def build(): return N()",
            "without an ONNX form, install the module my_model on the server, annotate build with",
        ),
    ],
)
def test_own_file_that_makes_no_network_is_refused(tmp_path: Path, code: str, words: str) -> None:
    (tmp_path / "my_model.py").write_text(code)
    result = pack(
        *(f"{tmp_path}/my_model.py:build", "--labels", "cat,dog,bird", "--size", "8"),
        *("--out", tmp_path / "out"),
    )
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "output", ["SimpleNamespace(logits={})", '{{"logits": {}, "image": x}}', "({},)"]
)
def test_output_object_is_replaced_by_its_logits(tmp_path: Path, output: str) -> None:
    (tmp_path / "my_model.py").write_text(
        "from types import SimpleNamespace\n" + forward(output.format("self.last(x.flatten(1))"))
    )
    found = import_own_code(
        f"{tmp_path}/my_model.py:build", ImportOptions(labels=LABELS, size=(8, 8))
    )
    assert found.classes == LABELS


@pytest.mark.parametrize("name", ["torch.py", "json.py"])
def test_own_file_that_hides_another_module_is_not_run(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("raise KeyError")
    with pytest.raises(NotImportable, match="expected a file that hides no other module"):
        import_own_code(f"{tmp_path}/{name}:build", ImportOptions(size=(8, 8)))
    assert torch.nn is not None


def test_missing_own_file_is_refused() -> None:
    with pytest.raises(NotImportable, match="expected a Python file, got none"):
        import_own_code("missing.py:build", ImportOptions(size=(8, 8)))


def test_own_code_has_the_form_of_a_file_and_a_function() -> None:
    assert is_own_code("a/b.py:build")
    assert not any(map(is_own_code, ("a.py", "a.py:", "torchvision:resnet18", "a.pth", "a.py:b c")))


def test_network_that_writes_into_its_input_is_packed(tmp_path: Path) -> None:
    (tmp_path / "my_model.py").write_text(forward("self.last(x.mul_(2).flatten(1))"))
    found = import_own_code(
        f"{tmp_path}/my_model.py:build", ImportOptions(labels=LABELS, size=(8, 8))
    )
    assert found.classes == LABELS
