"""The lab of a protocol: its teachers, the settings that serve them, and their networks.

OUT/stingy.toml serves every endpoint of the protocol that names a bundle.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from torch import nn

from stingy_attacker_eval.attacks.networks import compute_logits
from stingy_attacker_eval.audit.protocol import EndpointEntry, Protocol
from stingy_attacker_eval.datasets.datasets import Dataset
from stingy_attacker_eval.environment import default_device
from stingy_attacker_eval.errors import EvalError
from stingy_attacker_eval.lab.teachers import (
    Teacher,
    TeacherSettings,
    load_network,
    train_teachers,
)
from stingy_attacker_eval.report_schema import TeacherEntry
from stingy_attacker_eval.students import StudentSpec, student_spec
from stingy_attacker_eval.training import to_device
from stingy_protection import BundleError, class_prototypes, read_manifest, write_prototypes

_KINDS = ("normal", "nasty")


def train_protocol_teachers(
    protocol: Protocol, *, out: Path, console: Console | None = None
) -> tuple[Teacher, ...]:
    """Train every teacher of the protocol into OUT, and write OUT/stingy.toml to serve them.

    `stingy serve --config OUT/stingy.toml` then serves every endpoint of the protocol that names
    a bundle. A class_prototype policy without lists gets the lists of its teacher, computed on the
    teacher's training images. OUT/stingy.toml has their absolute path, so call this again after
    a move.

    Raises EvalError if the protocol describes no teacher.
    """
    if not protocol.teachers:
        raise EvalError("expected a protocol with [[teachers]], got one without")
    data = protocol.load_whole()
    found: list[Teacher] = []
    for entry in protocol.teachers:
        settings = TeacherSettings(
            name=entry.name,
            network=entry.network,
            width=entry.width,
            training=entry.training,
            images=entry.images,
            skip=entry.skip,
            seed=entry.seed,
            nasty=entry.nasty,
            omega=entry.omega,
            tau=entry.tau,
            nasty_from_normal=entry.nasty_from_normal,
            nasty_epochs=entry.nasty_epochs,
            nasty_lr=entry.nasty_lr,
        )
        found += train_teachers(data, out=out, settings=settings, console=console)
    lists = {
        f"{entry.name}-{kind}": _write_lists(out / f"{entry.name}-{kind}", entry, data)
        for entry in protocol.teachers
        for kind in _KINDS
        if any(
            endpoint.bundle == f"{entry.name}-{kind}" and _lacks_lists(endpoint.policy)
            for endpoint in protocol.endpoints
        )
    }
    (out / "stingy.toml").write_text(format_server_settings(protocol, lists))
    return tuple(found)


def protocol_networks(protocol: Protocol, *, bundles: Path) -> dict[str, nn.Module]:
    """Load the network of every endpoint that names a bundle, by endpoint, for white-box attacks.

    Raises EvalError, with every fault, if a bundle is absent or does not fit.
    """
    if not bundles.is_dir():
        raise EvalError(f"expected a folder of bundles, got none at {bundles}")
    specs = {f"{t.name}-{kind}": _spec(t) for t in protocol.teachers for kind in _KINDS}
    data, faults = protocol.load(), []
    found: dict[str, nn.Module] = {}
    for endpoint in protocol.endpoints:
        if endpoint.bundle is None:
            continue
        spec = specs[endpoint.bundle]
        try:
            found[endpoint.name] = load_network(bundles / endpoint.bundle, spec, data)
        except (BundleError, RuntimeError):  # load_state_dict raises RuntimeError
            faults.append(f"a bundle of {spec.name} for {endpoint.name} at {endpoint.bundle}")
    if faults:
        raise EvalError(f"expected {'; '.join(faults)} in {bundles}, got none or another")
    return found


def format_server_settings(protocol: Protocol, lists: Mapping[str, Path]) -> str:
    """Format the server's settings, TOML, for the endpoints that name a bundle.

    The bundles' paths are relative, so the file belongs beside the bundles.

    lists: by bundle, the file of canonical lists for policies that lack one.
    """
    factories = {student_spec(teacher.network).factory for teacher in protocol.teachers}
    modules = ", ".join(sorted({f'"{factory.partition(":")[0]}"' for factory in factories}))
    models = "".join(
        f'\n[[models]]\nname = "{endpoint.model}"\nbundle = "{endpoint.bundle}"\n'
        + _format_policy(endpoint, lists)
        for endpoint in protocol.endpoints
        if endpoint.bundle
    )
    return (
        "# Teachers of the lab. Some of them are served open.\n"
        f'allow_open = true\nstate = "state"\ntrusted_factories = [{modules}]\n{models}'
    )


def _spec(entry: TeacherEntry) -> StudentSpec:
    return student_spec(entry.network).with_width(entry.width)


def _lacks_lists(policy: str | None) -> bool:
    return (policy or "").partition(":")[0] == "class_prototype" and "lists=" not in (policy or "")


def _format_policy(endpoint: EndpointEntry, lists: Mapping[str, Path]) -> str:
    if endpoint.policy is None:
        return ""
    if endpoint.bundle is None or not _lacks_lists(endpoint.policy):
        return f'policy = "{endpoint.policy}"\n'
    name, _, options = endpoint.policy.partition(":")
    parts = [f"lists={lists[endpoint.bundle]}", *([options] if options else [])]
    return f"policy = '{name}:{','.join(parts)}'\n"


def _write_lists(folder: Path, entry: TeacherEntry, data: Dataset) -> Path:
    """Write every class's complete canonical list; the file's name has the weights' digest."""
    manifest = read_manifest(folder)
    path = (folder / f"lists-{manifest.sha256[:12]}.json").resolve()
    if set(",'") & set(str(path)):
        raise EvalError(f"expected a path without commas and quotes for a policy, got {path}")
    if not path.exists():
        device = default_device()
        model = load_network(folder, _spec(entry), data).to(device)
        owned = data.subset(entry.images, skip=entry.skip)
        logits = compute_logits(model, to_device(owned.train_x, device))
        temporary = path.with_suffix(".tmp")
        write_prototypes(temporary, class_prototypes(logits, n=data.num_classes))
        os.replace(temporary, path)
    return path
