"""The teachers of a protocol are trained, served as it says, and read for white-box attacks."""

import shutil
from pathlib import Path

import pytest
import torch

from audit_fakes import save_striped
from stingy_attacker_eval.attacks.networks import compute_logits
from stingy_attacker_eval.audit.protocol_file import parse_protocol
from stingy_attacker_eval.errors import EvalError
from stingy_attacker_eval.lab.protocol_lab import protocol_networks, train_protocol_teachers
from stingy_attacker_eval.students import cnn, student_spec
from stingy_attacker_eval.training import to_device
from stingy_protection import (
    build_policy,
    class_prototypes,
    parse_policy,
    read_manifest,
    verified_weights,
)
from stingy_protection.policies.buckets import ClassPrototype
from stingy_server import Settings
from stingy_server.settings_sources import load_settings

PROTOCOL = """
title = "t"
dataset = "{dataset}"
budget = 144
students = ["cnn_tiny"]
seeds = [0]
epochs = 1
attacks = ["label_only"]

[[teachers]]
name = "small"
network = "resnet8"
images = 32
epochs = 2
batch = 16
lr = 0.05

[[teachers]]
name = "plain"
network = "cnn_tiny"
epochs = 1
nasty = false

[[endpoints]]
name = "nasty"
model = "one"
defence = "nasty"
bundle = "small-nasty"
policy = "open"

[[endpoints]]
name = "stingy"
model = "two"
defence = "stingy"
bundle = "plain-normal"
policy = "stingy:n=2"

[[endpoints]]
name = "elsewhere"
model = "three"
defence = "unknown"
"""


def test_teachers_of_a_protocol_are_trained_and_can_be_served(tmp_path: Path) -> None:
    protocol = parse_protocol(PROTOCOL.format(dataset=save_striped(tmp_path)))
    teachers = train_protocol_teachers(protocol, out=tmp_path / "bundles")
    assert [t.name for t in teachers] == ["small-normal", "small-nasty", "plain-normal"]
    manifest = read_manifest(tmp_path / "bundles" / "small-nasty")
    assert manifest.factory == "stingy_attacker_eval.zoo:resnet8"
    model = student_spec("resnet8").build(3)
    model.load_state_dict(verified_weights(tmp_path / "bundles" / "small-nasty", manifest))
    settings, faults = load_settings(tmp_path / "bundles" / "stingy.toml")
    assert not faults
    assert served_models(settings) == [
        ("one", "small-nasty", "open"),
        ("two", "plain-normal", "stingy:n=2"),
    ]
    assert "stingy_attacker_eval.zoo" in settings.trusted_factories


def test_canonical_lists_of_the_teacher_are_written_and_served(tmp_path: Path) -> None:
    text = PROTOCOL.format(dataset=save_striped(tmp_path))
    protocol = parse_protocol(text.replace('"stingy:n=2"', '"class_prototype:n=2,buckets=1"'))
    train_protocol_teachers(protocol, out=tmp_path / "bundles")
    settings, faults = load_settings(tmp_path / "bundles" / "stingy.toml")
    assert not faults
    (_, (_, bundle, policy)) = served_models(settings)
    assert policy is not None
    name, options = parse_policy(policy)
    built = build_policy(name, num_classes=3, **options)
    assert isinstance(built, ClassPrototype)
    assert (built.n, built.buckets) == (2, 1)
    folder = tmp_path / "bundles" / bundle
    model = cnn(num_classes=3, width=8)
    model.load_state_dict(verified_weights(folder, read_manifest(folder)))
    images = to_device(protocol.load().train_x, torch.device("cpu"))
    assert built.lists == class_prototypes(compute_logits(model, images), n=3)
    # The lists are written once, because the teacher is the same.
    before = Path(options["lists"]).stat().st_mtime_ns
    train_protocol_teachers(protocol, out=tmp_path / "bundles")
    assert Path(options["lists"]).stat().st_mtime_ns == before


def served_models(settings: Settings) -> list[tuple[str | None, str, str | None]]:
    return [(model.name, model.bundle.name, model.policy) for model in settings.models]


def test_endpoint_networks_are_read_from_the_lab_folder(
    tmp_path: Path,
) -> None:
    protocol = parse_protocol(PROTOCOL.format(dataset=save_striped(tmp_path)))
    train_protocol_teachers(protocol, out=tmp_path / "bundles")
    networks = protocol_networks(protocol, bundles=tmp_path / "bundles")
    assert list(networks) == ["nasty", "stingy"]  # "elsewhere" names no bundle
    assert not networks["nasty"].training
    weights = tmp_path / "bundles" / "small-nasty" / "weights.safetensors"
    weights.write_bytes(b"damaged")
    shutil.rmtree(tmp_path / "bundles" / "plain-normal")
    with pytest.raises(EvalError) as caught:
        protocol_networks(protocol, bundles=tmp_path / "bundles")
    assert "resnet8 for nasty at small-nasty" in str(caught.value)
    assert "cnn_tiny for stingy at plain-normal" in str(caught.value)


def test_bundle_of_another_network_is_refused(tmp_path: Path) -> None:
    text = PROTOCOL.format(dataset=save_striped(tmp_path))
    train_protocol_teachers(parse_protocol(text), out=tmp_path / "bundles")
    other = parse_protocol(text.replace('network = "cnn_tiny"', 'network = "cnn_small"'))
    with pytest.raises(EvalError, match="cnn_small for stingy"):
        protocol_networks(other, bundles=tmp_path / "bundles")


def test_protocol_without_teachers_is_refused(tmp_path: Path) -> None:
    text = PROTOCOL.format(dataset=save_striped(tmp_path))
    text = text[: text.index("[[teachers]]")] + text[text.index('[[endpoints]]\nname = "else') :]
    with pytest.raises(EvalError, match=r"\[\[teachers\]\]"):
        train_protocol_teachers(parse_protocol(text), out=tmp_path)


def test_protocols_teacher_takes_a_width(tmp_path: Path) -> None:
    text = PROTOCOL.format(dataset=save_striped(tmp_path))
    wide = text.replace('network = "cnn_tiny"', 'network = "cnn_tiny"\nwidth = 5')
    protocol = parse_protocol(wide)
    train_protocol_teachers(protocol, out=tmp_path / "bundles")
    assert list(protocol_networks(protocol, bundles=tmp_path / "bundles")) == ["nasty", "stingy"]
    with pytest.raises(EvalError, match="cnn_tiny for stingy"):
        protocol_networks(parse_protocol(text), bundles=tmp_path / "bundles")
    with pytest.raises(EvalError, match="a network with a width"):
        parse_protocol(text.replace('network = "resnet8"', 'network = "resnet8"\nwidth = 4'))
