"""The layout and the configuration of an artefact in Triton's model repository."""

from pathlib import Path

from stingy_protection import BundleManifest
from stingy_server.models.artefact import IMAGE, Artefact

TYPES = {"indices": "TYPE_INT64", "scores": "TYPE_FP32"}


def triton_folder(repository: Path, manifest: BundleManifest) -> Path:
    """Return REPOSITORY/NAME/VERSION. Triton's versions are numbers, so any other becomes 1."""
    version = manifest.version
    number = int(version) if version.isdecimal() and int(version) > 0 else 1
    return repository / manifest.name / str(number)


def write_config(folder: Path, artefact: Artefact, *, batch_size: int) -> None:
    """Write `config.pbtxt` of an ONNX artefact into a model's folder in Triton's repository.

    Args:
        folder: the model's folder, without the version.
        artefact: the ONNX artefact.
        batch_size: the most images in one forward pass.
    """
    policy = artefact.policy
    outputs = ",\n".join(
        f'  {{ name: "{name}" data_type: {TYPES[name]} dims: [ {policy.support} ] }}'
        for name in artefact.outputs
    )
    height, width = artefact.manifest.preprocessing.size
    (folder / "config.pbtxt").write_text(f"""\
name: "{artefact.manifest.name}"
backend: "onnxruntime"
default_model_filename: "{artefact.file}"
max_batch_size: {batch_size}
input [
  {{ name: "{IMAGE}" data_type: TYPE_UINT8 dims: [ {height}, {width}, 3 ] }}
]
output [
{outputs}
]
dynamic_batching {{ }}
parameters {{ key: "stingy_policy" value {{ string_value: "{artefact.manifest.policy}" }} }}
parameters {{ key: "stingy_fingerprint" value {{ string_value: "{artefact.fingerprint}" }} }}
""")
