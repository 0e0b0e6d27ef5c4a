"""ONNX files: what is read from the graph, and graphs that are no image classifier."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import onnx_files
from packing import pack
from stingy_server.importers.found import ImportOptions, NotImportable
from stingy_server.importers.onnx_file import import_onnx
from stingy_server.inference.export import export_program, to_onnx

LABELS = ("cat", "dog", "bird")
FLOAT = TensorProto.FLOAT
Axes = Sequence[int | str]


def write(
    path: Path,
    *,
    image: Axes = ("batch", 3, 8, 8),
    rows: Axes = ("batch", 3),
    elem_type: int = FLOAT,
    extra_outputs: tuple[str, ...] = (),
    extra_inputs: tuple[str, ...] = (),
    softmax: bool | Literal["kept"] = False,
    external: bool = False,
) -> Path:
    """Write a small classifier: one linear layer over the flattened image."""
    inside = [axis if isinstance(axis, int) else 8 for axis in image[1:]]
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((int(np.prod(inside)), 3)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    last = "logits"
    if softmax:
        nodes.append(helper.make_node("Softmax", ["logits"], ["probs"], axis=1))
        nodes.append(helper.make_node("Identity", ["probs"], ["kept"]))
        last = "kept" if softmax == "kept" else "probs"
    nodes += [helper.make_node("Identity", ["logits"], [name]) for name in extra_outputs]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", elem_type, image)]
        + [helper.make_tensor_value_info(name, FLOAT, [1]) for name in extra_inputs],
        [helper.make_tensor_value_info(last, FLOAT, rows)]
        + [helper.make_tensor_value_info(name, FLOAT, rows) for name in extra_outputs],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path, save_as_external_data=external, location="w.data", size_threshold=0)
    return path


def run(program: bytes, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    session = onnxruntime.InferenceSession(program, providers=["CPUExecutionProvider"])
    (rows,) = session.run(None, {session.get_inputs()[0].name: images})
    result: npt.NDArray[np.float32] = rows
    return result


def images(*shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(1).random(shape, np.float32)


def options(**values: Any) -> ImportOptions:
    return ImportOptions(labels=LABELS, **values)


def test_nchw_graph_is_kept_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx")
    found = import_onnx(path, options())
    assert found.preprocessing.size == (8, 8)
    assert found.preprocessing.channels == 3
    assert found.outputs == "logits"
    assert found.name == "m"
    assert "pixels are divided by 255 and not normalised" in found.notes[0]
    assert found.model == path.read_bytes()


def test_nhwc_graph_is_kept_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", image=["n", 6, 9, 3])
    found = import_onnx(path, options())
    assert found.preprocessing.size == (6, 9)
    assert found.model == path.read_bytes()
    assert "input image in the order NHWC" in found.title


def test_output_named_logits_is_taken_of_several(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", extra_outputs=("features",))
    assert import_onnx(path, options()).title.endswith("output logits")


def test_grey_graph_has_one_channel(tmp_path: Path) -> None:
    found = import_onnx(write(tmp_path / "m.onnx", image=["n", 1, 28, 20]), options(mean=(0.5,)))
    assert found.preprocessing.channels == 1
    assert found.preprocessing.size == (28, 20)
    assert found.preprocessing.mean == (0.5,)


@pytest.mark.parametrize("softmax", [True, "kept"])
def test_graph_that_ends_in_softmax_has_probabilities(
    tmp_path: Path, softmax: Literal[True, "kept"]
) -> None:
    path = write(tmp_path / "m.onnx", softmax=softmax)
    found = import_onnx(path, options())
    assert found.outputs == "probabilities"
    assert "the graph ends in a softmax, so its rows are probabilities" in found.notes
    assert import_onnx(path, options(outputs="logits")).outputs == "logits"


def test_size_that_the_graph_leaves_open_must_be_given(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", image=["n", 3, "h", "w"])
    with pytest.raises(NotImportable, match="give --size"):
        import_onnx(path, options())
    assert import_onnx(path, options(size=(8, 8))).preprocessing.size == (8, 8)


@pytest.mark.parametrize("labels", [LABELS, None, ("cat", "dog")])
def test_open_number_of_classes_is_that_of_the_labels(
    tmp_path: Path, labels: tuple[str, ...] | None
) -> None:
    path = write(tmp_path / "m.onnx", rows=["batch", "k"])
    if labels is None:
        with pytest.raises(NotImportable, match="leaves the number of classes open"):
            import_onnx(path, ImportOptions())
        return
    assert import_onnx(path, ImportOptions(labels=labels)).classes == labels
    result = pack(path, "--labels", ",".join(labels), "--out", tmp_path / "out")
    assert result.exit_code == (0 if labels == LABELS else 2)
    if labels != LABELS:
        assert "expected one logit for each of 2 classes, got 3" in result.stderr


def test_weights_in_a_file_beside_the_graph_are_packed(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", external=True)
    found = import_onnx(path, options())
    assert isinstance(found.model, bytes)
    (tmp_path / "w.data").unlink()
    expected = run(write(tmp_path / "n.onnx").read_bytes(), images(2, 3, 8, 8))
    assert np.array_equal(run(found.model, images(2, 3, 8, 8)), expected)
    with pytest.raises(
        NotImportable, match=r"m\.onnx: expected its weights in w\.data beside it, got none"
    ):
        import_onnx(path, options())


def test_export_of_torch_is_read(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 3)).eval()
    program = export_program(network, torch.zeros(2, 3, 8, 8))
    (tmp_path / "m.onnx").write_bytes(to_onnx(program, image="pixels", outputs=("scores",)))
    found = import_onnx(tmp_path / "m.onnx", options())
    assert isinstance(found.model, bytes)
    batch = images(5, 3, 8, 8)
    with torch.inference_mode():
        expected = network(torch.from_numpy(batch)).numpy()
    assert np.allclose(run(found.model, batch), expected, atol=1e-5)
    assert "pytorch" in found.source


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (
            {"extra_outputs": ("features",), "softmax": True},
            "expected one output, got 2: probs, features; keep one with onnx.utils.extract_model",
        ),
        ({"extra_inputs": ("mask",)}, "expected one input, got 2: image, mask"),
        ({"image": ["n", 8, 8, 8]}, "got image of [any, 8, 8, 8]"),
        ({"image": ["n", 3, 8, 3]}, "expected an image input [batch, channels, height, width] or"),
        ({"image": ["n", "c", "h", "w"]}, "got image of [any, any, any, any]"),
        ({"image": ["n", 192]}, "got image of [any, 192]"),
        ({"image": [1, 3, 8, 8]}, "expected a batch axis of any size, got a static one of 1"),
        ({"elem_type": TensorProto.UINT8}, "expected an input of float32 or float16"),
        (
            {"rows": ["batch", 3, 1, 1]},
            "expected an output [batch, classes], got logits of",
        ),
        ({"rows": ["batch", 4]}, "--labels: expected 4 labels, one for each class"),
    ],
)
def test_B9_graph_that_is_no_classifier_is_refused(
    tmp_path: Path, graph: dict[str, Any], words: str
) -> None:
    path = write(tmp_path / "m.onnx", **graph)
    result = pack(path, "--labels", "cat,dog,bird", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("content", [b"", b"hello", bytes(100), b"\x08\x07" * 50])
def test_file_that_is_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(NotImportable, match=r"^m\.onnx: expected an ONNX program"):
        import_onnx(tmp_path / "m.onnx", options())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"size": (9, 9)}, r"m\.onnx: expected --size 8x8, got 9x9"),
        ({"channels": 1}, r"m\.onnx: expected --channels 3, got 1"),
        ({"mean": (0.5, 0.5)}, "--mean: expected 3 numbers, one a channel, got 2"),
    ],
)
def test_options_that_contradict_the_graph_are_refused(
    tmp_path: Path, values: dict[str, Any], words: str
) -> None:
    with pytest.raises(NotImportable, match=words):
        import_onnx(write(tmp_path / "m.onnx"), options(**values))


def test_missing_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotImportable, match=r"m\.onnx: expected an ONNX file, got none"):
        import_onnx(tmp_path / "m.onnx", options())


def with_end(kind: str, *, typed: int = FLOAT, domain: str = "", **attributes: Any) -> bytes:
    """Return a program whose rows pass one more operation."""
    model = onnx_files.program(outputs=("rows_out",))
    model.graph.node.append(
        helper.make_node(kind, ["rows_out"], ["end"], domain=domain, **attributes)
    )
    del model.graph.output[:]
    value = helper.make_tensor_value_info("end", typed, ["N", None])
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 3))
        row = helper.make_map_type_proto(
            TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
        )
        value = helper.make_value_info("end", helper.make_sequence_type_proto(row))
    model.graph.output.append(value)
    content: bytes = model.SerializeToString()
    return content


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (with_end("Sigmoid"), "got a graph that ends in a sigmoid"),
        (
            with_end("ArgMax", typed=TensorProto.INT64, axis=1),
            "expected an output of floating-point rows, got int64; .* such as an argmax",
        ),
        (
            with_end("ZipMap", domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2, 3, 4]),
            "got a sequence of maps; .*'zipmap': False",
        ),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
        (onnx_files.content(batch=0), "got a static one of 0"),
    ],
)
def test_graph_that_is_no_classifier_of_images_is_named(
    tmp_path: Path, program: bytes, words: str
) -> None:
    (tmp_path / "m.onnx").write_bytes(program)
    with pytest.raises(NotImportable, match=rf"^m\.onnx: .*{words}"):
        import_onnx(tmp_path / "m.onnx", options())


def test_type_of_an_input_that_is_not_taken_is_named(tmp_path: Path) -> None:
    for kind, name in ((TensorProto.UINT8, "uint8"), (TensorProto.DOUBLE, "float64")):
        with pytest.raises(NotImportable, match=f"float32 or float16, got {name}; export"):
            import_onnx(write(tmp_path / "m.onnx", elem_type=kind), options())


def test_weights_of_a_program_that_are_not_finite_are_named(tmp_path: Path) -> None:
    model = onnx_files.program()
    damaged = np.full((192, onnx_files.K), np.nan, np.float32)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(damaged, "weights"))
    onnx.save(model, tmp_path / "m.onnx")
    result = pack(tmp_path / "m.onnx", "--labels", "a,b,c,d,e", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "got NaN or infinity; the weights have some in weights: the training diverged" in (
        result.stderr
    )
