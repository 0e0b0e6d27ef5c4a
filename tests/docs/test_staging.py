"""The sources of the docs site: every guide is in its navigation, and every link has a target."""

import re
from pathlib import Path, PurePosixPath

import pytest

from stingy_site.staging import (
    INDEX,
    ROOT,
    Page,
    Section,
    links,
    navigation,
    pages,
    stage,
    staged_name,
)

GUIDES = sorted(path.stem for path in (ROOT / "docs").glob("*.md") if path.stem != "index")
NOTEBOOKS = sorted(path.stem for path in (ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """Stage the sources. Return their folder, and the files that the build adds beside them."""
    folder = tmp_path_factory.mktemp("staged")
    files = stage(folder)
    written = {f"notebooks/{name}.md" for name in NOTEBOOKS} | {"examples.md"}
    return folder, written | {str(staged_name(path)) for path in files}


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


def test_navigation_has_every_guide_and_notebook_once() -> None:
    named = [page.name for section in navigation() for page in section.pages]
    assert len(named) == len(set(named))
    assert set(named) >= {*GUIDES, *(f"notebooks/{name}" for name in NOTEBOOKS)}
    captions = [section.caption for section in navigation()]
    assert captions[:5] == ["Start", "Serve", "Query", "Audit", "Operate"]


def test_every_link_of_a_staged_page_has_a_target(staged: tuple[Path, set[str]]) -> None:
    folder, added = staged
    count = 0
    for page in folder.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        hrefs = [(target, "") for target in re.findall(r'<a href="([^":]+)">', text)]
        for target, anchor in [(target, anchor) for _, _, target, anchor in links(text)] + hrefs:
            path = (page.parent / target).resolve()
            name = path.relative_to(folder.resolve()).as_posix()
            assert path.exists() or name in added, f"{page.name}: {target}"
            if anchor and path.suffix == ".md" and path.exists():
                found = anchors(path.read_text(encoding="utf-8"))
                assert anchor.removeprefix("#") in found, f"{page.name}: {target}{anchor}"
            count += 1
    assert count > 100


def test_pages_keep_their_text(staged: tuple[Path, set[str]]) -> None:
    folder, _ = staged
    for page in pages():
        source = (ROOT / page).read_text(encoding="utf-8")
        text = (folder / staged_name(page)).read_text(encoding="utf-8")
        assert "".join(source.splitlines()[0]) in text
        for block in re.findall(r"^```.*?^```", source, re.MULTILINE | re.DOTALL):
            assert block in text, page


def test_link_in_code_is_left_and_link_to_a_file_is_a_copy(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    guide = "# A\n[b](b.md#c) [file](../x.toml)\n\n```\n[b](b.md)\n```\n![p](p.svg)\n"
    for name, text in {
        "index": "# I\n## S\n- [A](a.md): a\n",
        "a": guide,
        "b": "# B\n## C",
    }.items():
        (tmp_path / "docs" / f"{name}.md").write_text(text)
    (tmp_path / "docs" / "p.svg").write_text("<svg/>")
    for name in ("CHANGELOG.md", "CONTRIBUTING.md", "THREAT_MODEL.md"):
        (tmp_path / name).write_text("# X")
    for folder in ("attacker_eval/results", "benchmarks/gpu"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "README.md").write_text("# X")
    files = stage(tmp_path / "out", root=tmp_path)
    assert files == [PurePosixPath("x.toml"), PurePosixPath("docs/p.svg")]
    text = (tmp_path / "out" / "a.md").read_text()
    assert '[b](b.md#c) <a href="x.toml">file</a>' in text
    assert "```\n[b](b.md)\n```" in text
    assert (tmp_path / "out" / "p.svg").exists()
    assert "orphan: true" in (tmp_path / "out" / "b.md").read_text()
    assert navigation(tmp_path) == [Section("S", (Page("A", "a"),))]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("docs/serve.md", "serve.md"),
        ("README.md", "index.md"),
        ("CHANGELOG.md", "CHANGELOG.md"),
        ("attacker_eval/results/README.md", "attacker_eval/results/index.md"),
        ("docs/notebooks/a.ipynb", "notebooks/a.md"),
        ("examples/real/imagenet.py", "examples/real/imagenet.py"),
    ],
)
def test_place_of_a_file_in_the_site(path: str, name: str) -> None:
    assert staged_name(PurePosixPath(path)) == PurePosixPath(name)
    assert staged_name(INDEX) == PurePosixPath("index.md")
