"""The public names: each package's `__all__` is sorted and documented, and the docs match."""

import re
from importlib import import_module
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from stingy_attacker_eval.attacks import attack_types
from stingy_protection.policies.registry import policy_names
from stingy_server import Settings, errors
from stingy_server.errors import Refusal
from stingy_server.observability.metrics import Metrics

ROOT = Path(__file__).parents[2]
ROWS = {
    "L": 14, "P": 11, "A": 7, "B": 9, "C": 6, "D": 6, "Q": 12, "H": 12, "I": 5, "M": 3, "N": 2,
    "G": 4, "O": 6, "R": 3, "S": 6, "W": 3, "U": 6, "E": 8, "J": 5, "T": 3, "X": 2,
    "K": 8, "V": 8, "F": 3, "Y": 6, "Z": 4,
}  # fmt: skip
PACKAGES = ("stingy_clients", "stingy_protection", "stingy_server", "stingy_attacker_eval")


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_sorted_and_documented(package: str) -> None:
    module = import_module(package)
    assert module.__all__ == sorted(module.__all__)
    for name in module.__all__:
        assert getattr(module, name).__doc__, f"{package}.{name} has no docstring"


def test_M3_every_setting_is_documented() -> None:
    for name in Settings.model_fields:
        assert f"`{name}`" in page("serve"), name


def test_M3_every_error_code_is_documented() -> None:
    refusals = [value for value in vars(errors).values() if isinstance(value, Refusal)]
    assert len(refusals) > 10
    for refusal in refusals:
        assert re.search(rf"\| {refusal.status} \|.*`{refusal.code}`", page("query")), refusal.code


def test_M3_every_metric_is_documented() -> None:
    exposition = generate_latest(Metrics().registry).decode()
    names = re.findall(r"^# TYPE (\w+) ", exposition, re.MULTILINE)
    assert len(names) >= 8
    for name in names:
        if not name.endswith("_created"):
            assert f"| `{name}` |" in page("serve"), name


def test_M3_every_policy_is_documented() -> None:
    for name in policy_names():
        assert f"| `{name}` |" in page("policies"), name


def test_every_link_in_the_docs_has_a_target() -> None:
    results = ROOT / "attacker_eval" / "results" / "README.md"
    for source in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), results]:
        for target in re.findall(r"\]\(([^)#:]+)[^):]*\)", source.read_text(encoding="utf-8")):
            assert (source.parent / target).exists(), f"{source.name}: {target}"


def test_every_anchor_in_the_docs_is_a_heading() -> None:
    for source in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        text = source.read_text(encoding="utf-8")
        for target, anchor in re.findall(r"\]\(([\w./]*)#([\w-]+)\)", text):
            path = source.parent / target if target else source
            heads = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads]
            assert anchor in anchors, f"{source.name}: {target}#{anchor}"


def test_the_rows_of_each_promise_group_are_complete() -> None:
    rows = re.findall(r"`([A-Z])(\d+)`", (ROOT / "THREAT_MODEL.md").read_text(encoding="utf-8"))
    for group, last in ROWS.items():
        named = {int(number) for letter, number in rows if letter == group}
        assert named == set(range(1, last + 1)), group


def test_every_promise_of_the_threat_model_has_a_test() -> None:
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    promised = re.findall(r"`([A-Z]\d+)`", (ROOT / "THREAT_MODEL.md").read_text(encoding="utf-8"))
    assert len(promised) > 15
    for row in promised:
        assert f"test_{row}_" in tests, row


def test_every_attack_is_documented() -> None:
    for name in attack_types():
        assert f"| `{name}` |" in page("audit"), name
