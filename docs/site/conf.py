"""Sphinx's settings of the docs site. The build is strict: each warning is an error."""

import re
import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

project = "Stingy"
copyright = "the authors of Stingy, Apache-2.0"
release = installed_version("stingy")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
html_theme = "furo"
html_title = f"Stingy {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = [("site.js", {"defer": "defer"})]
html_extra_path = [str(Path(__file__).parents[2] / ".docs" / "extra")]
html_logo = str(Path(__file__).parents[1] / "logo.svg")
html_favicon = html_logo
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": False}
# Both have at least 4.5:1 on their backgrounds.
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
suppress_warnings = ["misc.highlighting_failure"]

myst_heading_anchors = 4

toc_object_entries = False  # each name has a heading
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
autodoc_default_options = {"exclude-members": "model_config, model_post_init"}
default_role = "code"

_CODE = re.compile(r"(``[^`]+``|`[^`]+`)")
_WORD = r'(?:"[^"]+"|[a-z_]\w*|\.\.\.)'
_FIELD = re.compile(rf"^({_WORD}(?:, {_WORD})*): (.+)$")


def change_docstring(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Make a docstring reStructuredText: its code stays code, and its fields become a list."""
    lines[:] = list_fields([escape_line(line) for line in lines])


def escape_line(line: str) -> str:
    """Keep Markdown's code, and escape what reStructuredText reads as markup outside of it."""
    parts = _CODE.split(line)
    parts[::2] = [re.sub(r"([*|])|(?<=\w)_(?=\W|$)", r"\\\g<0>", part) for part in parts[::2]]
    return "".join(parts)


def list_fields(lines: list[str]) -> list[str]:
    """Write the lines "name: text" of a docstring, with what continues them, as a list."""
    changed: list[str] = []
    inside = False
    for line in lines:
        if (field := _FIELD.match(line)) and (inside or not changed or not changed[-1]):
            changed += [] if inside else [""]
            changed.append(f"- `{field[1]}`: {field[2]}")
            inside = True
        elif inside and line.startswith(" "):
            changed.append(f"  {line.strip()}")
        else:
            changed += ["", line] if inside and line else [line]
            inside = False
    return changed


def setup(app: Any) -> None:
    """Register the change of docstrings, before napoleon reads their sections."""
    app.connect("autodoc-process-docstring", change_docstring, priority=100)
