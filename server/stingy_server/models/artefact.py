"""Fused artefacts: a network with its policy in one program file, beside a `model.json`.

The policy is part of the program and cannot be removed. A server of the artefact can only tighten
it.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from stingy_protection import (
    BundleError,
    BundleManifest,
    Policy,
    PolicyConfigError,
    SparseLogits,
    build_policy,
    parse_policy,
    sanitize,
)
from stingy_protection.bundles.bundle import MAX_WEIGHTS_BYTES
from stingy_protection.bundles.fused import FusedClassifier, FusedGate, read_outputs
from stingy_protection.bundles.manifest import (
    MANIFEST_FILE,
    format_manifest,
    parse_manifest,
    read_manifest_file,
)
from stingy_protection.files import read_regular_file
from stingy_server.inference.export import (
    NotExportable,
    export_program,
    onnx_session,
    to_onnx,
    to_pt2,
)
from stingy_server.inference.grid_comparison import answers_agree

Format = Literal["onnx", "pt2"]
IMAGE = "image"
TRIALS = 1000
Outputs = Sequence[npt.NDArray[Any]]


@dataclass(frozen=True)
class Artefact:
    """The content of an artefact's `model.json`.

    Args:
        manifest: the manifest of the source bundle. Its `policy` is the fused policy, its `sha256`
            the hash of the program.
        format: the format of the program.
        fingerprint: the fingerprint of the policy.
        weights: the SHA-256 of the bundle's weights.
        outputs: the names of the program's outputs.
    """

    manifest: BundleManifest
    format: Format
    fingerprint: str
    weights: str
    outputs: tuple[str, ...]

    @property
    def file(self) -> str:
        """The program's name in the folder."""
        return f"model.{self.format}"

    @property
    def policy(self) -> Policy:
        """The policy that is fused in."""
        return _build_policy(self.manifest)


def write_artefact(
    folder: Path, network: nn.Module, *, manifest: BundleManifest, policy: Policy, format: Format
) -> Artefact:
    """Fuse a bundle's network with a policy and write the program and its manifest.

    The fused gate must first agree with `sanitize` on `TRIALS` rows of logits, half of them with
    many ties.

    Raises:
        PolicyConfigError: if the policy cannot be fused.
        NotExportable: if the network or the policy has no form in `format`.
    """
    text = _policy_text(policy)
    _test_fused_gate(policy, format=format)
    fused = FusedClassifier(
        network.requires_grad_(False),
        preprocessing=manifest.preprocessing,
        policy=policy,
        outputs=manifest.outputs,
    )
    # Two rows, because an exporter may take a batch of one for a constant.
    example = torch.zeros(2, *manifest.preprocessing.size, 3, dtype=torch.uint8)
    program = _program(fused, example, fused.gate.outputs, format=format)
    frozen = replace(manifest, policy=text, sha256=hashlib.sha256(program).hexdigest())
    artefact = Artefact(frozen, format, policy.fingerprint, manifest.sha256, fused.gate.outputs)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / artefact.file).write_bytes(program)
    described = {
        "format": format,
        "fingerprint": artefact.fingerprint,
        "weights": artefact.weights,
        "input": IMAGE,
        "outputs": list(artefact.outputs),
    }
    fields = {**format_manifest(frozen), "artefact": described}
    content = json.dumps(fields, indent=2, ensure_ascii=False)
    (folder / MANIFEST_FILE).write_text(content + "\n", encoding="utf-8")
    return artefact


def is_artefact(folder: str | os.PathLike[str]) -> bool:
    """Return true if a folder's `model.json` describes an artefact.

    Returns false if the file cannot be read. Its faults appear when the bundle is read.
    """
    try:
        raw = json.loads(read_manifest_file(folder))
    except (BundleError, ValueError, RecursionError):
        return False
    return isinstance(raw, dict) and "artefact" in raw


def read_artefact(folder: str | os.PathLike[str]) -> Artefact:
    """Read and check the `model.json` of an artefact, without opening its program.

    Raises:
        BundleError: if the file is missing or invalid; the error names the fault.
    """
    try:
        raw = json.loads(read_manifest_file(folder))
        described = raw.pop("artefact")
        form, fingerprint = described["format"], described["fingerprint"]
        outputs, weights = tuple(described["outputs"]), described.get("weights")
        text = json.dumps(raw)
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        raise BundleError((f"expected {MANIFEST_FILE} of an artefact, got another",)) from None
    manifest = parse_manifest(text)
    policy = _build_policy(manifest)
    if form not in ("onnx", "pt2") or outputs != FusedGate(policy).outputs:
        raise BundleError(("expected the format onnx or pt2 and its outputs, got others",))
    if fingerprint != policy.fingerprint:
        raise BundleError(("expected the policy that was fused in, got another",))
    # The server needs the hash to report two policies over the same weights.
    if not (isinstance(weights, str) and len(weights) == len(manifest.sha256)):
        raise BundleError(("expected the sha256 of the bundle's weights, got none; export again",))
    return Artefact(manifest, form, fingerprint, weights, outputs)


def verified_program(folder: str | os.PathLike[str], artefact: Artefact) -> bytes:
    """Read the program and check its SHA-256 against the manifest.

    Raises:
        BundleError: if the file is missing, a link, or has another hash.
    """
    path = Path(folder) / artefact.file
    if not path.is_file() or path.is_symlink():
        raise BundleError((f"expected {path.name} to be a plain file, got none or a link",))
    try:
        program = read_regular_file(path, max_bytes=MAX_WEIGHTS_BYTES)
    except OSError:
        raise BundleError((f"expected {path.name} to be readable, got another file",)) from None
    if hashlib.sha256(program).hexdigest() != artefact.manifest.sha256:
        raise BundleError((f"expected {path.name} to have the manifest's sha256, got another",))
    return program


def open_artefact(
    folder: str | os.PathLike[str], *, threads: int = 1
) -> Callable[[npt.NDArray[np.uint8]], SparseLogits]:
    """Open an ONNX artefact as a function from images to answers.

    The function takes uint8 images `[batch, height, width, 3]`. It checks the program's outputs
    against the policy, as the gate does.

    Args:
        threads: the threads of one pass.

    Raises:
        BundleError: if the artefact is invalid, ONNX Runtime is not installed, or the format is
            pt2, which torch would unpickle.
    """
    artefact = read_artefact(folder)
    if artefact.format != "onnx":
        raise BundleError(("expected an artefact of the format onnx, got pt2; export it again",))
    policy = artefact.policy
    try:
        session = onnx_session(verified_program(folder, artefact), threads=threads)
    except ImportError:
        raise BundleError(("expected ONNX Runtime: pip install 'stingy[onnx]'",)) from None
    except ValueError as error:
        raise BundleError((str(error),)) from None

    def answer(images: npt.NDArray[np.uint8]) -> SparseLogits:
        outputs = session.run(list(artefact.outputs), {IMAGE: images})
        return read_outputs(policy, outputs, rows=len(images))

    return answer


def _program(
    module: nn.Module, example: torch.Tensor, outputs: Sequence[str], *, format: Format
) -> bytes:
    program = export_program(module, example)
    return to_pt2(program) if format == "pt2" else to_onnx(program, image=IMAGE, outputs=outputs)


def _test_fused_gate(policy: Policy, *, format: Format) -> None:
    """Compare the fused gate with `sanitize` on trial logits, without the network.

    Raises PolicyConfigError if the policy cannot be exported, or if the two disagree.
    """
    gate = FusedGate(policy)
    noise = torch.randn(TRIALS, policy.num_classes, generator=torch.Generator().manual_seed(0)) * 3
    logits = torch.cat([noise[: TRIALS // 2], noise[TRIALS // 2 :].round()])  # these have ties
    try:
        program = export_program(gate, logits[:2])
    except NotExportable:
        raise PolicyConfigError(
            (f"expected a policy that is one function of tensors, got {policy.name}",)
        ) from None
    outputs: Outputs
    if format == "onnx":
        content = to_onnx(program, image=IMAGE, outputs=gate.outputs)
        outputs = onnx_session(content, threads=1).run(None, {IMAGE: logits.numpy()})
    else:
        outputs = [output.numpy() for output in program.module()(logits)]
    answer, expected = read_outputs(policy, outputs, rows=TRIALS), sanitize(policy, logits)
    if not answers_agree(answer, expected):
        raise PolicyConfigError(
            (f"expected a policy with the same answers in {format} as here, got {policy.name}",)
        )


def _policy_text(policy: Policy) -> str:
    """Write out a policy with every option, in the form that `parse_policy` reads.

    Raises PolicyConfigError if `parse_policy` does not read the same policy from it.
    """
    options = {name: value for name, value in policy.options().items() if name != "num_classes"}
    text = f"{policy.name}:" + ",".join(f"{name}={value}" for name, value in options.items())
    try:
        name, read = parse_policy(text)
        if build_policy(name, num_classes=policy.num_classes, **read) == policy:
            return text
    except PolicyConfigError:
        pass
    raise PolicyConfigError((f"expected a policy whose options fit in a text, got {policy.name}",))


def _build_policy(manifest: BundleManifest) -> Policy:
    name, options = parse_policy(manifest.policy)
    return build_policy(name, num_classes=len(manifest.classes), **options)
