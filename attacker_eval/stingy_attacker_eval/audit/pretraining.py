"""The networks that an attacker owns before an audit: students trained on another data set."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_weights
from safetensors.torch import save as save_weights
from torch import Tensor
from torch.nn import functional

from stingy_attacker_eval.audit.protocol import Protocol
from stingy_attacker_eval.datasets.datasets import Dataset, load_dataset
from stingy_attacker_eval.datasets.query_pools import resize
from stingy_attacker_eval.errors import AuditError
from stingy_attacker_eval.files import digest_json, write_atomic
from stingy_attacker_eval.oracle.transfer_set import digest_images
from stingy_attacker_eval.progress import Reporter
from stingy_attacker_eval.students import student_spec
from stingy_attacker_eval.training import to_device, train

Start = dict[str, Tensor]
"""The weights of a trained network, by name."""

_SEED = 0


def pretrain(
    protocol: Protocol,
    data: Dataset,
    folder: Path,
    device: torch.device,
    reporter: Reporter,
) -> dict[tuple[str, str], Start]:
    """Return the weights that students start from, by data set and student.

    Each student of the protocol is trained once on each data set that an attacker names, with the
    protocol's schedule. FOLDER/pretrained keeps the weights, so a second call trains nothing.

    Raises AuditError if a loss is not finite. Raises DatasetError if a data set cannot be used.
    """
    found = {}
    sources = [attacker.pretrained for attacker in protocol.attackers if attacker.pretrained]
    for source in dict.fromkeys(sources):
        other = load_dataset(source)
        for name in protocol.students_of(None):
            reporter.say(f"the network {name} that is trained on {source}")
            found[source, name] = _weights(name, other, protocol, data, folder, device)
    return found


def _weights(
    name: str,
    other: Dataset,
    protocol: Protocol,
    data: Dataset,
    folder: Path,
    device: torch.device,
) -> Start:
    """Return the weights of one student that was trained on another data set."""
    images = resize(other.train_x, data.image_size)
    facts = {
        "student": name,
        "images": digest_images(images),
        "labels": other.train_y.tolist(),
        "training": repr(protocol.training),
    }
    path = folder / "pretrained" / f"{digest_json(facts)[:32]}.safetensors"
    if path.exists():
        try:
            return load_weights(path.read_bytes())
        except SafetensorError:
            raise AuditError(f"expected weights at {path}, got a damaged file: delete it") from None
    labels = torch.from_numpy(other.train_y).to(device)
    torch.manual_seed(_SEED)
    network = student_spec(name).build(other.num_classes).to(device)
    result = train(
        network,
        to_device(images, device),
        lambda logits, rows, _: functional.cross_entropy(logits, labels[rows]),
        settings=protocol.training,
        seed=_SEED,
        pure=True,
    )
    if not result.finite:
        raise AuditError(
            f"expected a finite loss of {name} on {other.name}, got {result.last_loss}: lower the "
            "learning rate"
        )
    weights = {
        key: tensor.contiguous().cpu().clone() for key, tensor in network.state_dict().items()
    }
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, save_weights(weights))
    return weights
