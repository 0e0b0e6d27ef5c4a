"""The Markdown of the repository as sources of the site: pages, links, navigation.

A link between two pages stays a link between pages, so that the build checks it. A link to another
file becomes a link to a copy of the file beside the pages.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[3]
INDEX = PurePosixPath("docs/index.md")
MORE_PAGES = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "THREAT_MODEL.md",
    "attacker_eval/results/README.md",
    "benchmarks/gpu/README.md",
)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s#:]+)(#[^()\s]*)?\)")
_FENCE = re.compile(r"^\s*(```+|~~~+)")
_ITEM = re.compile(r"^\s*- \[([^\]]+)\]\(([^()\s#:]+)\)")


@dataclass(frozen=True)
class Page:
    """A page of the navigation: its title there, and its name among the staged sources."""

    title: str
    name: str


@dataclass(frozen=True)
class Section:
    """A group of pages of the navigation."""

    caption: str
    pages: tuple[Page, ...]


def pages(root: Path = ROOT) -> list[PurePosixPath]:
    """List the Markdown pages of the site, as paths in the repository."""
    guides = sorted((root / "docs").glob("*.md"))
    return [
        *(PurePosixPath(path.relative_to(root).as_posix()) for path in guides),
        *map(PurePosixPath, MORE_PAGES),
    ]


def staged_name(path: PurePosixPath) -> PurePosixPath:
    """Return the place of a file of the repository in the site.

    The guides are at its root, and so is the README, which the landing page stands for.
    """
    if path == PurePosixPath("README.md"):
        return PurePosixPath("index.md")
    if path.suffix == ".ipynb":
        path = path.with_suffix(".md")
    elif path.name == "README.md":
        path = path.with_name("index.md")
    return path.relative_to("docs") if path.is_relative_to("docs") else path


def navigation(root: Path = ROOT) -> list[Section]:
    """Read the sections and their pages from the lists of the landing page."""
    sections: list[Section] = []
    for line in (root / INDEX).read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            sections.append(Section(line[3:], ()))
        elif sections and (item := _ITEM.match(line)):
            name = staged_name(_resolve(INDEX, item[2]))
            if name.suffix == ".md":
                last = sections[-1]
                page = Page(item[1], name.with_suffix("").as_posix())
                sections[-1] = Section(last.caption, (*last.pages, page))
    return [section for section in sections if section.pages]


def stage(
    out: Path, *, root: Path = ROOT, sections: list[Section] | None = None
) -> list[PurePosixPath]:
    """Write the sources of all pages to a folder.

    Args:
        out: the folder of the sources.
        sections: the navigation; None for that of the landing page.

    Returns:
        The files that pages link to, and that are no pages, as paths in the repository.
    """
    sections = navigation(root) if sections is None else sections
    listed = {page.name for section in sections for page in section.pages} | {"index"}
    known = {*pages(root), *_notebooks(root), PurePosixPath("README.md")}
    files: dict[str, None] = {}
    for path in pages(root):
        target = out / staged_name(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        change = partial(_site_link, path, root=root, known=known, files=files)
        text = _with_links((root / path).read_text(encoding="utf-8"), change)
        if path == INDEX:
            text += "".join(toctree(section) for section in sections)
        elif staged_name(path).with_suffix("").as_posix() not in listed:
            text = f"---\norphan: true\n---\n{text}"
        target.write_text(text, encoding="utf-8")
    for name in files:
        target = out / staged_name(PurePosixPath(name))
        if target.suffix in (".png", ".svg"):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, target)
    return [PurePosixPath(name) for name in files]


def folder_page(folder: Path) -> str:
    """Write a page with the Python files of a folder."""
    parts = ["---\norphan: true\n---", f"# {folder.name}"]
    for path in sorted(folder.glob("*.py")):
        code = path.read_text(encoding="utf-8").rstrip()
        parts.append(f"## {path.name}\n\n```python\n{code}\n```")
    return "\n\n".join(parts) + "\n"


def toctree(section: Section) -> str:
    """Write a section of the navigation as Sphinx reads it."""
    lines = [f"{page.title} </{page.name}>" for page in section.pages]
    head = ["", "```{toctree}", ":hidden:", f":caption: {section.caption}", ""]
    return "\n".join([*head, *lines, "```", ""])


def links(text: str) -> Iterator[tuple[str, str, str, str]]:
    """Find the relative links of a page outside of code: "!" or "", label, target, anchor."""
    found: list[tuple[str, str, str, str]] = []

    def keep(image: str, label: str, link: str, anchor: str) -> str:
        found.append((image, label, link, anchor))
        return ""

    _with_links(text, keep)
    return iter(found)


def _with_links(text: str, change: Callable[[str, str, str, str], str]) -> str:
    lines, fence = [], ""
    for line in text.splitlines():
        if (mark := _FENCE.match(line)) and (not fence or mark[1] == fence):
            fence = "" if fence else mark[1]
        if not fence:
            line = _LINK.sub(lambda m: change(m[1], m[2], m[3], m[4] or ""), line)
        lines.append(line)
    return "\n".join(lines) + "\n"


def _site_link(
    page: PurePosixPath,
    image: str,
    label: str,
    link: str,
    anchor: str,
    *,
    root: Path,
    known: set[PurePosixPath],
    files: dict[str, None],
) -> str:
    path = _resolve(page, link)
    target = os.path.relpath(staged_name(path), staged_name(page).parent)
    if path in known:
        return f"[{label}]({target}{anchor})"
    if (root / path).is_dir():
        return f"[{label}]({target}.md{anchor})"
    files[path.as_posix()] = None
    if image:
        return f"![{label}]({target})"
    return f'<a href="{target}">{label}</a>'


def _resolve(page: PurePosixPath, link: str) -> PurePosixPath:
    return PurePosixPath(os.path.normpath(page.parent / link))


def _notebooks(root: Path) -> list[PurePosixPath]:
    found = sorted((root / "docs" / "notebooks").glob("*.ipynb"))
    return [PurePosixPath(path.relative_to(root).as_posix()) for path in found]
