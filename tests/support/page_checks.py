"""Checks of a page in a browser: its figures' texts, its scroll boxes, its sheets of paper."""

import io
from typing import TYPE_CHECKING

from browser import find_overflowing

if TYPE_CHECKING:
    from playwright.sync_api import Page

A4_WIDTH = 703
"""CSS pixels between the margins of 12 mm of an A4 sheet."""

_OVERLAPPING = """() => {
  const found = [];
  for (const svg of document.querySelectorAll('svg')) {
    const boxes = [...svg.querySelectorAll(':scope > text')]
      .map(text => [text.textContent, text.getBoundingClientRect()])
      .filter(([, box]) => box.width > 0);
    const around = svg.getBoundingClientRect();
    boxes.forEach(([text, box], i) => {
      if (box.left < around.left - 16 || box.right > around.right + 16)
        found.push(`${text} leaves its figure`);
      for (const [other, next] of boxes.slice(i + 1)) {
        const apart = box.right <= next.left || next.right <= box.left
          || box.bottom <= next.top || next.bottom <= box.top;
        if (!apart) found.push(`${text} over ${other}`);
      }
    });
  }
  return found;
}"""

_SCROLLED = """() => [...document.querySelectorAll('.scroll')]
  .filter(box => box.scrollWidth > box.clientWidth + 1)
  .map(box => `${box.getAttribute('aria-labelledby')} ${box.scrollWidth} > ${box.clientWidth}`)"""


def find_overlapping_texts(page: "Page") -> list[str]:
    """Return one line for each pair of texts of a figure that overlap, or text outside of it."""
    lines: list[str] = page.evaluate(_OVERLAPPING)
    return lines


def find_wide(page: "Page") -> list[str]:
    """Return one line for each element whose content is wider than it, but for hidden text.

    Text that only screen readers get is one pixel wide on purpose. A text of a figure has no box
    of its own: `find_overlapping_texts` looks at those.
    """
    skipped = (".hidden ", "SVGAnimatedString")
    return [line for line in find_overflowing(page) if not any(text in line for text in skipped)]


def find_cut_tables(page: "Page") -> list[str]:
    """Return one line for each table that is wider than its box."""
    lines: list[str] = page.evaluate(_SCROLLED)
    return lines


def pdf_texts(page: "Page") -> list[str]:
    """Print the page, and return the text of each sheet."""
    from pypdf import PdfReader

    content = page.pdf(prefer_css_page_size=True)
    return [sheet.extract_text() for sheet in PdfReader(io.BytesIO(content)).pages]
