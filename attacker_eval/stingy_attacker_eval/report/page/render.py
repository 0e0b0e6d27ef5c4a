"""The rendering of pages: templates, one hashed script, one hashed style sheet, and words."""

import base64
import hashlib
import re
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from markupsafe import Markup, escape

from stingy_attacker_eval.report.formatting import percent, printed, readable, signed
from stingy_attacker_eval.report.page.figures import line_mark, mark
from stingy_attacker_eval.templates import open_templates

_PACKAGE = "stingy_attacker_eval.report.page"


def render_page(template: str, values: Mapping[str, Any]) -> str:
    """Render one template of this folder.

    Every name in a page passes `readable`, so that no direction mark reorders the text around it.
    """
    environment = open_templates(_PACKAGE, finalize=_readable_text)
    environment.filters |= {
        "percent": percent,
        "signed": signed,
        "printed": printed,
        "breakable": _breakable,
    }
    environment.globals |= {"mark": mark, "line_mark": line_mark}
    style, script = _read("style.css"), _read("tables.js")
    return environment.get_template(template).render(
        style=Markup(style),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
        style_hash=_content_hash(style),
        script_hash=_content_hash(script),
        words=tuple(tomllib.loads(_read("words.toml")).items()),
        **values,
    )


def _readable_text(value: object) -> object:
    """Return a plain text without characters that reorder or hide others."""
    return readable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _breakable(text: str) -> Markup:
    """Allow a long name to break after its punctuation."""
    parts = re.split(r"(?<=[\[\],=_])", readable(text))
    return Markup("<wbr>").join(escape(part) for part in parts if part)


def _read(name: str) -> str:
    return (files(_PACKAGE) / name).read_text(encoding="utf-8")


def _content_hash(text: str) -> str:
    """Return the source expression of a script or a style sheet in a content security policy."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"sha256-{digest}"
