"""A protocol that loads can be run; one that cannot names everything that is wrong with it."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stingy_attacker_eval
from audit_fakes import save_striped
from stingy_attacker_eval.audit import protocol as protocols
from stingy_attacker_eval.audit import protocol_faults
from stingy_attacker_eval.audit.protocol_file import load_protocol, parse_protocol
from stingy_attacker_eval.datasets import query_pools
from stingy_attacker_eval.datasets.datasets import Dataset, load_dataset
from stingy_attacker_eval.errors import ProtocolError

GOOD = """
title = "t"
dataset = "digits"
budget = 1797
students = ["cnn_tiny"]
seeds = [0]
epochs = 1
attacks = ["label_only"]
[[endpoints]]
name = "a"
model = "a"
defence = "open"
"""


def faults(text: str) -> tuple[str, ...]:
    with pytest.raises(ProtocolError) as caught:
        parse_protocol(text)
    return caught.value.faults


def test_packaged_digits_protocol_is_that_of_the_demo() -> None:
    protocol = load_protocol("digits")
    assert [endpoint.name for endpoint in protocol.endpoints] == ["normal", "nasty", "stingy"]
    assert len(protocol.seeds) == 3
    (attacker,) = protocol.attackers
    assert attacker.labels(1297) == 65  # with all labels no endpoint adds anything
    assert {attack.name for attack in protocol.variants} == {
        "label_only",
        "paper_kd",
        "soft_label",
        "sweep",
        "two_labels",
    }
    assert "reduced" in protocol.title


def test_a_protocol_is_read_from_a_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    assert load_protocol(str(path)).title == "t"


def test_all_faults_are_named_at_once() -> None:
    text = """
title = "t"
dataset = "cifar"
budget = 0
students = ["resnet", "cnn_tiny", "cnn_tiny"]
seeds = [1, 1]
epochs = 0
attacks = ["magic", "no_api", "label_only", "label_only", { name = "paper_kd", tau = -1 }]
colour = "red"
[[endpoints]]
name = "none"
model = "a"
defence = "open"
[[endpoints]]
name = "none"
model = "b"
defence = "open"
"""
    found = "\n".join(faults(text))
    for part in (
        '"npz:PATH" or "folder:PATH", got "cifar"',
        "budget: expected a number above 0, got 0",
        'got "resnet"',
        'the student "cnn_tiny" once',
        'the seed "1" once',
        "epochs: expected a number above 0, got 0",
        'got "magic"',
        "no_api is the baseline",
        'the attack "label_only" once',
        "tau above 0",
        "colour: expected a known setting, got another",
        'the endpoint "none" once',
        'an endpoint name other than "none"',
    ):
        assert part in found, part


def test_missing_fields_are_named() -> None:
    assert len(faults("")) == 8


def test_budget_below_the_run_is_refused_before_a_query() -> None:
    (fault,) = faults(GOOD.replace("1797", "1796"))
    assert "at least 1797 images (1297 to train on, 500 to compare), got 1796" in fault


@pytest.mark.parametrize("name", ["a/b", "../x", "", "A", "a" * 101])
def test_an_endpoint_name_cannot_lead_out_of_the_folder(name: str) -> None:
    assert "endpoints.0.name" in faults(GOOD.replace('name = "a"', f'name = "{name}"'))[0]


def test_file_other_than_toml_is_refused() -> None:
    assert "expected TOML" in faults("title = ")[0]


def test_file_other_than_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ProtocolError, match=r"expected TOML in UTF-8, got another .*mine\.toml"):
        load_protocol(str(path))


@pytest.mark.parametrize("name", ["nothing", "absent.toml"])
def test_an_unknown_protocol_is_refused(name: str) -> None:
    with pytest.raises(ProtocolError, match="expected a protocol"):
        load_protocol(name)


def test_a_data_set_by_path_is_checked_as_the_protocol_loads(tmp_path: Path) -> None:
    name = save_striped(tmp_path)
    assert parse_protocol(GOOD.replace("digits", name)).dataset == name
    assert "no file" in faults(GOOD.replace("digits", f"{name}.gone"))[0]


PROTOCOLS = Path(stingy_attacker_eval.__file__).parent / "protocols"
PACKAGED = sorted(path.stem for path in PROTOCOLS.iterdir())


@pytest.fixture
def any_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace every data set by one of its size and classes, with images of one grey."""

    def placeholder(name: str) -> Dataset:
        classes = 100 if "cifar100" in name or "tin100" in name else 10
        images = np.full((50_000, 32, 32, 3), sum(name.encode()) % 256, np.uint8)
        labels = np.arange(50_000) % classes
        names = tuple(map(str, range(classes)))
        tests = 5_000 if "tin100" in name else 10_000
        return Dataset(name, images, labels, images[:tests], labels[:tests], names)

    def cut(data: Dataset, pixels: int | None) -> Dataset:
        """Return smaller images at once, where a mean of each block takes a second."""
        parts = (data.train_x[:, :pixels, :pixels], data.test_x[:, :pixels, :pixels])
        return replace(data, train_x=parts[0], test_x=parts[1])

    monkeypatch.setattr(Dataset, "reduce", cut)
    monkeypatch.setattr(protocols, "load_dataset", placeholder)
    monkeypatch.setattr(protocol_faults, "load_dataset", placeholder)
    monkeypatch.setattr(query_pools, "load_dataset", placeholder)


@pytest.mark.usefixtures("any_data")
@pytest.mark.parametrize("name", sorted(set(PACKAGED) - {"digits"}))
def test_a_packaged_protocol_can_be_run(name: str) -> None:
    protocol = load_protocol(name)
    assert all(endpoint.bundle for endpoint in protocol.endpoints)
    is_reduced = name not in ("figure", "table1", "table2", "table2_cifar100")
    assert ("reduced" in protocol.title) == is_reduced
    if is_reduced:
        assert len(protocol.seeds) >= 3
        assert protocol.images is not None


@pytest.mark.usefixtures("any_data")
def test_table1_is_the_papers() -> None:
    protocol = load_protocol("table1")
    assert [e.name for e in protocol.endpoints] == [
        f"{teacher}-{defence}"
        for teacher in ("resnet18", "resnet50", "resnext29")
        for defence in ("normal", "nasty", "stingy")
    ]
    of = {e.name: protocol.students_of(e)[3:] for e in protocol.endpoints}
    assert of["resnet18-nasty"] == ()
    assert of["resnet50-nasty"] == ("resnet50",)
    assert of["resnext29-stingy"] == ("resnext29",)
    assert {(t.omega, t.tau, t.epochs) for t in protocol.teachers} == {(0.005, 20.0, 200)}
    assert (protocol.milestones, protocol.gamma) == ((60, 120, 160), 0.2)


def test_the_baseline_is_for_every_student_of_any_endpoint() -> None:
    protocol = parse_protocol(GOOD + 'students = ["cnn_small", "cnn_tiny"]\n')
    assert protocol.students_of(protocol.endpoints[0]) == ("cnn_tiny", "cnn_small")
    assert protocol.students_of(None) == ("cnn_tiny", "cnn_small")


def test_attacker_with_fewer_images_needs_a_smaller_budget() -> None:
    text = GOOD.replace("budget = 1797", "budget = 600\nimages = 100")
    assert len(parse_protocol(text).load().train_x) == 100
    assert "at least 600 images (100 to train on" in faults(text.replace("600", "599"))[0]


def test_pixels_reduce_the_images_of_attacker_and_teacher() -> None:
    protocol = parse_protocol(GOOD.replace("epochs = 1", "epochs = 1\npixels = 4"))
    expected = np.rint(load_dataset("digits").test_x[0, :2, :2].mean(axis=(0, 1)))
    for data in (protocol.load(), protocol.load_whole()):
        assert data.image_size == (4, 4)
        np.testing.assert_array_equal(data.test_x[0, 0, 0], expected)


def test_pixels_that_do_not_divide_the_images_are_refused() -> None:
    (fault,) = faults(GOOD.replace("epochs = 1", "epochs = 1\npixels = 3"))
    assert "expected pixels that divide square images, got 3 for images of 8x8" in fault


def test_shift_beyond_the_images_is_refused() -> None:
    teacher = '[[teachers]]\nname = "b"\nnetwork = "cnn_tiny"\nepochs = 1\naugment = 9\n'
    text = GOOD.replace("epochs = 1", "epochs = 1\naugment = 4096")
    assert list(faults(text + teacher)) == [
        f"expected an augment of at most 8, the images' side, got {augment}"
        for augment in (4096, 9)
    ]
    assert parse_protocol(text.replace("4096", "8")).augment == 8


@pytest.mark.parametrize("rounds", [1001, 10**9, 2**63])
def test_attack_of_endless_rounds_is_refused_at_once(rounds: int) -> None:
    attacks = f'attacks = [{{ name = "jbda", rounds = {rounds} }}]'
    text = re.sub(r"attacks = \[.*?\]", attacks, GOOD, count=1, flags=re.DOTALL)
    assert any(f"expected at most 1000 rounds, got {rounds}" in fault for fault in faults(text))


def test_teacher_that_skips_too_many_images_is_refused() -> None:
    teacher = '[[teachers]]\nname = "b"\nnetwork = "cnn_tiny"\nepochs = 1\n'
    text = GOOD + teacher + "skip = 1000\nimages = 297\n"
    assert parse_protocol(text).teachers[0].skip == 1000
    (fault,) = faults(text.replace("297", "298"))
    assert "at most 1297 images, as digits has, got 1298" in fault


def test_a_schedule_reaches_the_training() -> None:
    text = GOOD.replace("epochs = 1", "epochs = 9\nflip = true\nmilestones = [3, 6]\ngamma = 0.1")
    training = parse_protocol(text).training
    assert (training.flip, training.milestones, training.gamma) == (True, (3, 6), 0.1)


def test_inconsistent_fields_are_all_named_at_once() -> None:
    text = GOOD.replace(
        'students = ["cnn_tiny"]', 'students = ["torchvision:vit_b_32"]\nimages = 9999'
    )
    text += """
bundle = "b-nasty"
[[teachers]]
name = "b"
network = "cnn_tiny"
epochs = 1
nasty = false
"""
    found = "\n".join(faults(text))
    for part in (
        "at most 1297 images, as digits has, got 9999",
        "torchvision:vit_b_32 takes no images of (8, 8)",
        "a bundle of the teachers for a, got b-nasty",
    ):
        assert part in found, part


def test_a_teacher_of_an_unknown_network_is_refused() -> None:
    text = GOOD + '[[teachers]]\nname = "b"\nnetwork = "resnet19"\nepochs = 1\n'
    assert 'got "resnet19"' in faults(text)[0]


@pytest.mark.usefixtures("any_data")
@pytest.mark.parametrize("data", ["tin100", "cifar10", "fashion"])
def test_frontier_varies_one_thing_at_a_time_around_its_base(data: str) -> None:
    protocol = load_protocol(f"frontier_{data}")
    base, *others = protocol.attackers
    assert (base.labelled, base.answers, base.pretrained) == (0.05, 1, None)
    for other in others:
        own = other.model_dump(exclude={"name"}).items()
        assert len(own - base.model_dump(exclude={"name"}).items()) == 1
    assert protocol.budgets
    assert (len(protocol.selection_seeds), len(protocol.seeds)) == (3, 5)
    (teacher,) = protocol.teachers
    assert teacher.skip == protocol.images  # it did not train on an attacker's image


def test_an_endpoint_has_attacks_of_its_own_beside_those_of_all() -> None:
    protocol = parse_protocol(GOOD + 'attacks = ["paper_kd", { name = "sweep", tau = [1, 4] }]\n')
    found = [attack.name for attack in protocol.variants_of(protocol.endpoints[0])]
    assert found[:2] == ["label_only", "paper_kd"]
    assert found[2:] == ["sweep"] * 8


def test_faults_of_an_endpoints_own_attacks_are_named() -> None:
    found = faults(GOOD + 'attacks = ["magic", "no_api", "paper_kd", "paper_kd"]\n')
    for fault, part in zip(
        found, ('got "magic"', "no_api is the baseline", 'the attack "paper_kd" once'), strict=True
    ):
        assert part in fault
    (fault,) = faults(GOOD + 'attacks = ["label_only"]\n')
    assert 'the attack "label_only" once for a, got it twice' in fault


def test_partner_and_pool_are_checked_before_a_query() -> None:
    large = GOOD.replace("1797", "20000")
    own = large + 'attacks = [{ name = "collusion", partner = "b" }, { name = "knockoff" }]\n'
    (fault,) = faults(own)
    assert fault == 'expected a partner out of other endpoints for collusion, got "b"'
    parse_protocol(own + '[[endpoints]]\nname = "b"\nmodel = "b"\ndefence = "open"\n')
    (fault,) = faults(large + 'attacks = [{ name = "knockoff", pool = "nosuch" }]\n')
    assert fault.startswith("knockoff[pool=nosuch]: expected the data set")


@pytest.mark.parametrize("part", ["train", "test"])
def test_audits_own_images_are_refused_as_a_pool(tmp_path: Path, part: str) -> None:
    data, path = load_dataset("digits"), tmp_path / "other.npz"
    large = GOOD.replace("1797", "20000")
    arrays: dict[str, Any] = {
        f"{split}_{kind}": getattr(data, f"{part}_{kind}")
        for split in ("train", "test")
        for kind in ("x", "y")
    }
    np.savez(path, **arrays)
    for pool in ("digits", f"npz:{path}") if part == "train" else (f"npz:{path}",):
        (fault,) = faults(large + f'attacks = [{{ name = "knockoff", pool = "{pool}" }}]\n')
        assert fault.endswith("a pool of other images than the audit's, got its own digits")
    arrays["train_x"] = arrays["train_x"] // 2
    np.savez(path, **arrays)
    parse_protocol(large + f'attacks = [{{ name = "knockoff", pool = "npz:{path}" }}]\n')


def test_budgets_must_be_distinct_and_below_the_whole() -> None:
    assert parse_protocol(GOOD.replace("budget =", "budgets = [10, 100]\nbudget =")).budgets
    (fault,) = faults(GOOD.replace("budget =", "budgets = [1297]\nbudget ="))
    assert "below the 1297 images that students train on, got 1297" in fault
    (fault,) = faults(GOOD.replace("budget =", "budgets = [10, 10]\nbudget ="))
    assert 'the budget "10" once' in fault
