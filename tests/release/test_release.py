"""The version, the changelog and the pages of a release agree."""

import re
import runpy
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_changelog_has_the_projects_version_with_its_date_first() -> None:
    heads = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d{2}-\d{2}))?$", CHANGELOG, re.MULTILINE)
    assert heads[0] == ("Unreleased", "")
    assert heads[1][0] == PROJECT["version"]
    assert all(date for _, date in heads[1:])


def test_every_released_heading_has_each_kind_of_change_once() -> None:
    for section in CHANGELOG.split("\n## ")[1:]:
        kinds = re.findall(r"^### (\w+)$", section, re.MULTILINE)
        assert len(kinds) == len(set(kinds)), section.splitlines()[0]


def test_every_extra_of_the_product_is_tried_in_an_environment() -> None:
    tried = runpy.run_path(str(Path(__file__).with_name("try_release.py")))
    extras = set(PROJECT["optional-dependencies"])
    assert extras == set(tried["TRIED"]) - {""} | tried["REPOSITORY"]
