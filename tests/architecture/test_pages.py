"""README, CONTRIBUTING and the pages of docs/ name what is there, and their examples run."""

import re
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stingy_attacker_eval import Attack
from stingy_protection import Policy, sanitize

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
FOLDERS = "server|protection|clients|attacker_eval|tests|docs"
LAYERS = {
    contract["containers"][0]: contract["layers"]
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "importlinter"
    ]["contracts"]
    if contract["type"] == "layers"
}


def examples(page: Path) -> list[str]:
    """Return the page's Python examples."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def namespace(example: str, page: Path) -> dict[str, Any]:
    """Run an example and return its names."""
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example, page.name, "exec"), names)  # noqa: S102
    return names


def test_readme_has_at_most_500_words() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 500


def test_every_path_named_in_architecture_exists() -> None:
    paths = set(re.findall(rf"`((?:{FOLDERS})/[\w./]+)`", ARCHITECTURE))
    assert len(paths) > 40
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("package", sorted(LAYERS))
def test_architecture_lists_rooms_in_import_order(package: str) -> None:
    section = ARCHITECTURE.partition(f"### `{package}`\n")[2].partition("\n#")[0]
    rows = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in section.splitlines()[2:] if line]
    layers = [re.findall(r"\w+", layer) for layer in LAYERS[package]]
    assert [sorted(row) for row in rows] == [sorted(layer) for layer in layers]


def test_index_links_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in PAGES:
        assert page.name == "index.md" or f"]({page.name})" in index, page.name


def test_glossary_has_each_word_once() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    words = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    words = [word for word in words if word != "word"]
    assert len(words) > 30
    assert len(words) == len(set(words))


@pytest.mark.parametrize("name", ["audit", "bundles", "policies"])
def test_python_examples_of_a_page_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / f"{name}.md"
    assert examples(page)
    for example in examples(page):
        namespace(example, page)


def test_contributing_examples_work_in_ten_lines() -> None:
    page = ROOT / "CONTRIBUTING.md"
    policy_example, attack_example = examples(page)
    names = namespace(policy_example, page)
    (policy,) = [each for each in names.values() if is_new(each, Policy)]
    answer = sanitize(policy(num_classes=10), torch.eye(10))
    assert answer.indices[:, 0].tolist() == list(range(10))
    (attack,) = [each for each in namespace(attack_example, page).values() if is_new(each, Attack)]
    assert attack().label == "smoothed_label"  # reads what it requires
    logits = torch.zeros(4, 10, requires_grad=True)
    loss = attack().loss(logits, SimpleNamespace(top1=torch.arange(4)))
    assert loss.requires_grad
    assert torch.isfinite(loss)
    assert written(policy_example) <= 10
    assert written(attack_example) <= 10


def written(example: str) -> int:
    """Return the number of lines that are not blank."""
    return sum(bool(line.strip()) for line in example.splitlines())


def is_new(value: object, base: type) -> bool:
    """Return whether a value is a class that an example derived from this base."""
    return isinstance(value, type) and issubclass(value, base) and value.__module__ == "example"
