"""A protocol that loads can be run; one that cannot names everything that is wrong with it."""

from pathlib import Path

import pytest
from tests.attacker_eval.fakes import save_striped

from stingy_attacker_eval.errors import ProtocolError
from stingy_attacker_eval.protocol import load_protocol, parse_protocol

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


def test_the_packaged_digits_protocol_is_what_the_demo_promises() -> None:
    protocol = load_protocol("digits")
    assert [endpoint.name for endpoint in protocol.endpoints] == ["normal", "nasty", "stingy"]
    assert len(protocol.seeds) == 3
    assert {attack.name for attack in protocol.variants} == {
        "label_only",
        "paper_kd",
        "soft_label",
        "sweep",
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
        '"digits" or "npz:PATH"',
        "budget: Input should be greater than 0",
        'got "resnet"',
        'the student "cnn_tiny" once',
        'the seed "1" once',
        "epochs: Input should be greater than 0",
        'got "magic"',
        "no_api is the baseline",
        'the attack "label_only" once',
        "tau above 0",
        "colour: Extra inputs",
        'the endpoint "none" once',
        'a name other than "none"',
    ):
        assert part.replace("a name", "an endpoint name") in found, part


def test_missing_fields_are_named() -> None:
    assert len(faults("")) == 8


def test_a_budget_below_what_the_run_needs_is_refused_before_a_query_is_spent() -> None:
    (fault,) = faults(GOOD.replace("1797", "1796"))
    assert "at least 1797 images (1297 to learn from, 500 to compare), got 1796" in fault


@pytest.mark.parametrize("name", ["a/b", "../x", "", "A"])
def test_an_endpoint_name_cannot_lead_out_of_the_folder(name: str) -> None:
    assert "endpoints.0.name" in faults(GOOD.replace('name = "a"', f'name = "{name}"'))[0]


def test_what_is_not_toml_is_refused() -> None:
    assert "expected TOML" in faults("title = ")[0]


@pytest.mark.parametrize("name", ["nothing", "absent.toml"])
def test_an_unknown_protocol_is_refused(name: str) -> None:
    with pytest.raises(ProtocolError, match="expected a protocol"):
        load_protocol(name)


def test_a_data_set_by_path_is_checked_as_the_protocol_loads(tmp_path: Path) -> None:
    name = save_striped(tmp_path)
    assert parse_protocol(GOOD.replace("digits", name)).dataset == name
    assert "no file" in faults(GOOD.replace("digits", f"{name}.gone"))[0]
