"""Every fault of a protocol's file is named at once, in one form: expected, got."""

import json

import pytest

from stingy_attacker_eval.audit.protocol_file import parse_protocol
from stingy_attacker_eval.errors import ProtocolError

FIELDS = {
    "title": '"t"',
    "dataset": '"digits"',
    "budget": "20000",
    "students": '["cnn_tiny"]',
    "seeds": "[0]",
    "epochs": "1",
    "attacks": '["label_only"]',
}
ENDPOINT = '[[endpoints]]\nname = "a"\nmodel = "a"\ndefence = "open"\n'


def text(*tables: str, endpoints: str = ENDPOINT, **changed: str) -> str:
    """Return a protocol with changed or further fields, and further tables."""
    fields = "".join(f"{name} = {value}\n" for name, value in (FIELDS | changed).items())
    return fields + endpoints + "".join(f"[[attackers]]\n{table}\n" for table in tables)


def faults(content: str) -> list[str]:
    with pytest.raises(ProtocolError) as caught:
        parse_protocol(content)
    return list(caught.value.faults)


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("epochs", "true", "expected an integer, got true"),
        ("epochs", '"5"', 'expected an integer, got "5"'),
        ("epochs", "-1", "expected a number above 0, got -1"),
        ("epochs", "nan", "expected an integer, got nan"),
        ("epochs", "1.5", "expected an integer, got 1.5"),
        ("lr", "nan", "expected a finite number, got nan"),
        ("lr", '"high"', 'expected a number, got "high"'),
        ("flip", '"yes"', 'expected true or false, got "yes"'),
        ("flip", "1", "expected true or false, got 1"),
        ("gamma", "1.5", "expected 1.0 or less, got 1.5"),
        ("title", "5", "expected text, got 5"),
        ("title", '""', 'expected text that is not empty, got ""'),
        ("title", "2026-01-01", "expected text, got 2026-01-01"),
        ("budget", "12:00:00", "expected an integer, got 12:00:00"),
        ("attacks", "5", "expected a list, got 5"),
        ("attacks", "{ a = 1 }", "expected a list, got a table"),
        ("students", '"cnn_tiny"', 'expected a list, got "cnn_tiny"'),
        ("seeds", "[]", "expected one or more, got none"),
        ("attackers", "[]", "expected one or more, got none"),
        ("colour", "1", "expected a known setting, got another: correct its name or remove it"),
    ],
)
def test_E8_value_of_another_type_is_refused(name: str, value: str, fault: str) -> None:
    assert faults(text(**{name: value})) == [f"{name}: {fault}"]


@pytest.mark.parametrize("content", ["", "title = 1\n[endpoints]\n", "a = " + "[" * 5000])
def test_E8_faults_have_one_form(content: str) -> None:
    assert all("expected" in fault and ", got " in fault for fault in faults(content))


def test_E8_faults_of_values_hide_no_fault_between_fields() -> None:
    found = faults(
        text(
            'name = "a"\nlabelled = 0.001',
            'name = "b"\nlabelled = 2',
            attacks='[{ name = "paper_kd", tau = 0 }, "label_votes", "magic"]',
            students='["cnn_tiny", "resnet", "lenet5"]',
            seeds="[0, 1, 1]",
            selection_seeds="[1]",
            epochs="0",
            budget="2000",
            transfer_images="9999",
            endpoints=ENDPOINT + 'bundle = "b"\n[[endpoints]]\nname = "c d"\ndefence = "x"\n',
        )
    )
    for part in (
        "attackers.1.labelled: expected 1.0 or less, got 2",
        "attacks.0: paper_kd: expected a finite tau above 0",
        "attacks.2: expected an attack out of",
        "students.1: expected a student out of",
        "epochs: expected a number above 0, got 0",
        "endpoints.1.name: expected text of the form",
        "endpoints.1.model: expected a value, got none",
        'the seed "1" once, got it 2 times',
        "expected seeds that do not choose, got 1 among both",
        "lenet5 takes no images of (8, 8)",
        "a: expected true labels of all 10 classes",
        "expected at most 500 transfer_images",
        "expected a bundle of the teachers for a, got b",
        "expected a budget of at least ",
    ):
        assert any(part in fault for fault in found), part
    # Nothing is blamed that follows from other faults alone.
    assert not any("that it can make" in fault or "got none:" in fault for fault in found)


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_E8_missing_field_is_the_only_fault_that_it_makes(name: str) -> None:
    content = "".join(f"{key} = {value}\n" for key, value in FIELDS.items() if key != name)
    assert faults(content + ENDPOINT) == [f"{name}: expected a value, got none"]


def test_E8_fault_of_the_data_hides_no_other() -> None:
    found = faults(text(dataset='"npz:/none.npz"', selection_seeds="[0]", pixels="0"))
    assert found == [
        "pixels: expected a number above 0, got 0",
        "expected seeds that do not choose, got 0 among both",
        "dataset: expected an npz file, got no file at /none.npz",
    ]
    found = faults(text(pixels="3", budget="5"))
    assert found[0].startswith("pixels: expected pixels that divide square images, got 3")
    assert found[1].startswith("expected a budget of at least 1797 images")


def test_E8_teachers_network_and_epochs_are_named_together() -> None:
    table = '[[teachers]]\nname = "t"\nnetwork = "resnet19"\nepochs = 0\n'
    found = faults(text() + table)
    assert [fault.partition(":")[0] for fault in found] == [
        "teachers.0.epochs",
        "teachers.0.network",
    ]


def test_E8_budget_must_cover_the_attacks_queries() -> None:
    (fault,) = faults(text(attacks='["label_votes"]', budget="2000"))
    assert fault.startswith("expected a budget of at least 12173 images (1297 to train on, 500")


def test_E8_budget_in_a_file_need_cover_one_seed_only() -> None:
    more = {"attacks": '[{ name = "data_free_hard", queries = 1000 }]', "seeds": "[0, 1, 2]"}
    assert parse_protocol(text(budget="2797", **more)).budget == 2797
    assert "at least 2797 images" in faults(text(budget="2796", **more))[0]


def test_E8_answers_that_no_attack_uses_are_refused() -> None:
    views = '[{ name = "consistent", views = 4 }]'
    parse_protocol(text('name = "a"\nanswers = 4', attacks=views))
    (fault,) = faults(text('name = "a"\nanswers = 5', attacks=views))
    assert fault == (
        "a: expected an attack that uses its 5 answers an image, got attacks that use 4 at most"
    )


def test_E8_accounts_that_no_attack_uses_are_refused() -> None:
    found = faults(text('name = "a"\naccounts = 2'))
    assert found == [
        "a: expected an attack that uses its 2 accounts, got attacks that use 1 at most"
    ]
    both = ENDPOINT + ENDPOINT.replace('name = "a"', 'name = "b"')
    joined = text(
        'name = "a"\naccounts = 2',
        attacks='[{ name = "collusion", partner = "b" }]',
        endpoints=both,
    )
    parse_protocol(joined)
    assert "its 3 accounts" in faults(joined.replace("accounts = 2", "accounts = 3"))[0]


def test_E8_too_few_images_to_train_on_are_refused() -> None:
    (fault,) = faults(text('name = "a"\nimages = 3\nlabelled = 0'))
    assert fault == "a: expected 4 images or more to train on, got 3"
    (fault,) = faults(text('name = "a"\nlabelled = 0', budgets="[1]"))
    assert fault == "a: expected 4 images or more to train on, got 1"


def test_E8_an_endpoint_is_no_partner_of_its_own() -> None:
    collusion = '[{ name = "collusion", partner = "a" }]'
    (fault,) = faults(text(attacks=collusion))
    assert fault == 'expected an endpoint beside the partner "a" of collusion, got none'
    (fault,) = faults(text(endpoints=f"{ENDPOINT}attacks = {collusion}\n"))
    assert fault == 'expected a partner out of other endpoints for collusion, got "a"'


def test_protocol_keeps_numbers_and_lists_as_written() -> None:
    protocol = parse_protocol(text(lr="1", attacks='[{ name = "sweep", tau = [1, 4] }]'))
    assert (protocol.lr, type(protocol.lr)) == (1.0, float)
    assert [json.dumps(attack.settings()) for attack in protocol.variants][:2] == [
        '{"tau": 1.0, "alpha": 0.1}',
        '{"tau": 1.0, "alpha": 0.5}',
    ]
