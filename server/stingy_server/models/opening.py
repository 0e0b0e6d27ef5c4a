"""Open the network of a loaded model on its device, in the layout and runtime that it needs.

Invariant: an open network has passed its trial.
"""

import logging

import torch
from torch import nn

from stingy_protection import BundleError, BundleManifest, Policy
from stingy_protection.bundles.outputs import LogitsOf
from stingy_server.inference.forward import Forward, Network
from stingy_server.inference.onnx_program import OnnxProgram, onnx_on_cuda
from stingy_server.inference.runtimes import (
    RuntimeUnfit,
    choose_runtime,
    device_of,
    to_layout,
)
from stingy_server.models.causes import describe_damage, find_cause
from stingy_server.models.trial import LOOK, Trial, make_trial_images, try_forward
from stingy_server.settings import Settings

log = logging.getLogger("stingy")


class NotServable(Exception):
    """A model that failed its trial.

    Attributes:
        forward: the model as far as it could be opened, so that it can be closed.
        faults: one sentence per fault.
    """

    def __init__(self, forward: Forward, faults: tuple[str, ...]) -> None:
        super().__init__("; ".join(faults))
        self.forward = forward
        self.faults = faults


def open_forward(
    network: nn.Module | OnnxProgram,
    *,
    manifest: BundleManifest,
    policy: Policy,
    settings: Settings,
) -> Forward:
    """Open a network and try it. See `try_forward`.

    Raises:
        NotServable: if it fails its trial, or cannot run as the settings demand.
    """
    opened = _Opening(manifest, policy, settings)
    return (
        opened.open_program(network)
        if isinstance(network, OnnxProgram)
        else (opened.open_network(network))
    )


def _explain(trial: Trial, cause: str) -> tuple[str, ...]:
    return tuple(f"{fault}; {cause}" for fault in trial.faults)


class _Opening:
    """The settings of one model that is being opened."""

    def __init__(self, manifest: BundleManifest, policy: Policy, settings: Settings) -> None:
        self._manifest = manifest
        self._policy = policy
        self._settings = settings
        self._device = device_of(settings)
        self._precision: torch.dtype = getattr(torch, settings.precision)

    def open_program(self, program: OnnxProgram) -> Forward:
        """Open an ONNX bundle's program in ONNX Runtime."""
        if self._settings.device == "auto" and not onnx_on_cuda():
            self._device = torch.device("cpu")
        others = ("openvino", "cuda_graphs")
        if self._precision != torch.float32 or self._settings.runtime in others:
            raise self._not_servable(
                "expected precision = float32 and runtime = auto, torch or onnxruntime for an ONNX "
                f"program, got {self._settings.precision} and {self._settings.runtime}"
            )
        try:
            network = program.open(device=self._device, threads=torch.get_num_threads())
        except BundleError as error:
            raise self._not_servable(*error.faults) from None
        forward = self._forward(network, arithmetic=getattr(torch, program.dtype))
        trial = self._try(forward)
        if trial.nonfinite:
            damaged = program.find_damage()
            cause = describe_damage(damaged) if damaged else LOOK
            raise NotServable(forward, _explain(trial, cause))
        if trial.faults:
            raise NotServable(forward, trial.faults)
        return forward

    def open_network(self, network: nn.Module) -> Forward:
        """Open a PyTorch network in the runtime of the settings."""
        network = to_layout(network, device=self._device, contiguous=False)
        forward = self._forward(network)
        trial = self._try(forward)
        if trial.raised:
            # Such as x.view(-1, n), which needs the strides of the shape.
            to_layout(network, device=self._device, contiguous=True)
            forward = self._forward(network, contiguous=True)
            trial = self._try(forward)
            if not trial.faults:
                log.info("%s: runs with contiguous inputs", self._manifest.name)
        if trial.nonfinite:
            image = make_trial_images(self._manifest.preprocessing, 1)
            inputs = forward.inputs(torch.from_numpy(image).to(self._device))
            raise NotServable(forward, _explain(trial, find_cause(network, inputs)))
        if trial.faults:
            raise NotServable(forward, trial.faults)
        if trial.wrapped or self._manifest.outputs == "probabilities":
            network = LogitsOf(network, outputs=self._manifest.outputs).eval()
        try:
            name, run = choose_runtime(
                network,
                preprocessing=self._manifest.preprocessing,
                policy=self._policy,
                settings=self._settings,
                contiguous=forward.contiguous,
            )
        except RuntimeUnfit as error:
            fault = f"not run by {self._settings.runtime}: {error}"
            raise NotServable(forward, (fault,)) from None
        chosen = self._forward(run, contiguous=forward.contiguous, are_logits=True)
        if name != "torch":
            trial = self._try(chosen, are_logits=True)
            if trial.faults:
                raise NotServable(chosen, trial.faults)
        return chosen

    def _forward(
        self,
        network: Network,
        *,
        contiguous: bool = False,
        are_logits: bool = False,
        arithmetic: torch.dtype | None = None,
    ) -> Forward:
        return Forward(
            network,
            preprocessing=self._manifest.preprocessing,
            outputs="logits" if are_logits else self._manifest.outputs,
            device=self._device,
            precision=self._precision,
            arithmetic=arithmetic,
            contiguous=contiguous,
        )

    def _try(self, forward: Forward, *, are_logits: bool = False) -> Trial:
        return try_forward(
            forward,
            preprocessing=self._manifest.preprocessing,
            num_classes=len(self._manifest.classes),
            outputs="logits" if are_logits else self._manifest.outputs,
            batch_size=self._settings.batch_size,
            strict=self._settings.strict,
        )

    def _not_servable(self, *faults: str) -> NotServable:
        return NotServable(self._forward(torch.nn.Identity()), faults)
