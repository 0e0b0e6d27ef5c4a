"""Attackers that cannot exist are refused with every fault at once, before a query is spent."""

from pathlib import Path

import numpy as np
import pytest

from stingy_attacker_eval.audit.protocol_file import parse_protocol
from stingy_attacker_eval.datasets.datasets import load_dataset
from stingy_attacker_eval.errors import ProtocolError
from stingy_attacker_eval.report_schema import Attacker

GOOD = """
title = "t"
dataset = "digits"
budget = 20000
students = ["cnn_tiny"]
seeds = [3, 4]
selection_seeds = [0, 1, 2]
epochs = 1
attacks = ["label_only", { name = "consistent", views = 4 }]
[[endpoints]]
name = "a"
model = "a"
defence = "open"
"""
VIEWS = '[[attackers]]\nname = "views"\nanswers = 4\n'


def faults(text: str) -> str:
    with pytest.raises(ProtocolError) as caught:
        parse_protocol(text)
    return "\n".join(caught.value.faults)


def attackers(*tables: str) -> str:
    return GOOD + "".join(f"[[attackers]]\n{table}\n" for table in tables)


def test_protocol_without_attackers_has_one_who_owns_everything() -> None:
    protocol = parse_protocol(GOOD)
    assert protocol.attackers == (Attacker(),)
    assert protocol.attackers[0].text == "the true labels of all its images"
    assert (protocol.margin, protocol.transfer_images) == (1.0, 0)
    assert protocol.all_seeds == (0, 1, 2, 3, 4)
    assert protocol.group_of(1) == (0, 1, 2)
    assert protocol.group_of(4) == (3, 4)


def test_impossible_attackers_are_all_named_at_once() -> None:
    found = faults(
        attackers(
            'name = "many"\nimages = 9999',
            'name = "unlabelled"\nlabelled = 0.001',
            'name = "views"\nanswers = 100',
            'name = "trained"\npretrained = "digits"',
            'name = "lost"\npretrained = "npz:/nowhere.npz"',
        )
    )
    for part in (
        "many: expected at most 1297 images, as the protocol has, got 9999",
        "unlabelled: expected true labels of all 10 classes, got those of 1: 1 of its 1297 images",
        "views: expected a budget of at least 130200 images (100 for each of its 1297",
        "trained: expected a network trained on other images than the audit's, got one on its own",
        "lost: pretrained: expected an npz file, got no file",
    ):
        assert part in found, part


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ('name = "a"\nlabelled = 1.5', "attackers.0.labelled"),
        ('name = "a"\nlabelled = -0.1', "attackers.0.labelled"),
        ('name = "a"\nanswers = 0', "attackers.0.answers"),
        ('name = "a"\naccounts = 0', "attackers.0.accounts"),
        ('name = "../a"', "attackers.0.name"),
        ('name = "a"\nmoney = 3', "attackers.0.money"),
    ],
)
def test_possessions_out_of_range_are_refused(table: str, fault: str) -> None:
    assert fault in faults(attackers(table))


def test_labels_must_cover_the_classes_at_each_budget() -> None:
    few = attackers('name = "few"\nlabelled = 0.05', 'name = "all"')
    found = faults(few.replace("epochs = 1", "epochs = 1\nbudgets = [20, 300]"))
    assert "few: expected true labels of all 10 classes, got those of 1: 1 of its 20" in found
    assert "of its 300" not in found


def test_two_attackers_of_one_name_are_refused() -> None:
    assert 'the attacker "a" once, got it 2 times' in faults(attackers('name = "a"', 'name = "a"'))


def test_views_without_an_attacker_for_them_are_refused() -> None:
    found = faults(attackers('name = "plain"\nanswers = 1'))
    assert "expected an attacker that can make consistent[views=4], got none: it needs" not in found
    assert (
        "expected an attacker that can make consistent, got none: it needs 5,188 answers" in found
    )
    assert (
        parse_protocol(attackers('name = "plain"\nanswers = 1') + VIEWS).attackers[1].answers == 4
    )


def test_attacker_without_a_possible_attack_is_refused() -> None:
    text = GOOD.replace('"label_only", ', "") + VIEWS + '[[attackers]]\nname = "p"\nanswers = 3\n'
    assert "p: expected an attack that it can make, got none" in faults(text)


def test_class_without_images_has_no_labels_to_own(tmp_path: Path) -> None:
    data, path = load_dataset("digits"), tmp_path / "nine.npz"
    kept = data.train_y != 9
    np.savez(
        path,
        train_x=data.train_x[kept],
        train_y=data.train_y[kept],
        test_x=data.test_x,
        test_y=data.test_y,
    )
    text = GOOD.replace('"digits"', f'"npz:{path}"')
    assert "expected true labels of all 10 classes, got those of 9" in faults(text)
    parse_protocol(text + '[[attackers]]\nname = "a"\nlabelled = 0\n')


def test_seed_that_chooses_and_is_reported_is_refused() -> None:
    found = faults(GOOD.replace("seeds = [3, 4]", "seeds = [2, 4]", 1))
    assert "expected seeds that do not choose, got 2 among both" in found
    assert 'the selection seed "1" once' in faults(GOOD.replace("[0, 1, 2]", "[1, 1]"))


def test_more_transfer_images_than_test_images_are_refused() -> None:
    text = GOOD.replace("epochs = 1", "epochs = 1\ntransfer_images = 501")
    assert "expected at most 500 transfer_images, as digits has, got 501" in faults(text)


@pytest.mark.parametrize("margin", ["0", "-1", "inf", "nan"])
def test_margin_is_a_positive_number(margin: str) -> None:
    assert "margin" in faults(GOOD.replace("epochs = 1", f"epochs = 1\nmargin = {margin}"))


def test_partial_labels_are_spread_over_the_classes() -> None:
    protocol = parse_protocol(attackers('name = "few"\nlabelled = 0.05'))
    known = protocol.attackers[0].labels(1297)
    assert known == 65
    assert np.bincount(protocol.load().train_y[:known]).min() >= 6


def test_baselines_are_taken_off_the_list() -> None:
    found = faults(GOOD.replace('"label_only"', '"guess", "no_api"'))
    assert "guess is the baseline" in found
    assert "no_api is the baseline" in found


def test_possessions_are_said_in_words() -> None:
    attacker = Attacker(images=2000, labelled=0.05, pretrained="cifar100", answers=9, accounts=2)
    assert attacker.text == (
        "2,000 images, true labels for 5 % of its images, a network trained on cifar100, "
        "9 answers an image and 2 accounts"
    )
    assert Attacker(labelled=0, answers=1).text == "no true label and 1 answer an image"
    for pretrained in ("npz:$AUDIT_DATA/tin100.npz", "folder:data/tin100"):
        attacker = Attacker(pretrained=pretrained)
        assert attacker.text.endswith(" and a network trained on tin100")
