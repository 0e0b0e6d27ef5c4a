"""Labels from a file or from the command line. Invariant: K different texts that UTF-8 has."""

import codecs
import json
import unicodedata
from pathlib import Path
from typing import Any

from stingy_protection.bundles.rules import MAX_CLASSES, MAX_TEXT
from stingy_protection.files import read_regular_file
from stingy_server.importers.found import NotImportable

MAX_LABEL_BYTES = 16 * 2**20
# Joiners are letters of Persian, of Indian scripts and of emoji. Other format characters are
# invisible, or turn the text around them.
JOINERS = "\u200c\u200d"
UNPRINTABLE = ("Cc", "Cf", "Cn", "Co", "Zl", "Zp")
MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_labels(text: str) -> tuple[str, ...]:
    """Read labels from a list with commas, or from a file.

    A file has one label a line, or is JSON: a list, or an object from index to label or from label
    to index.

    Args:
        text: the list, or the name of the file.

    Raises:
        NotImportable: if the file cannot be read, or a label is empty, occurs twice or has no form
            in UTF-8.
    """
    path = Path(text)
    if _is_file(path):
        where, labels = path.name, _read_file(path)
    elif "," in text:
        where, labels = "--labels", [label.strip() for label in text.split(",")]
    else:
        raise NotImportable(f"--labels: expected a file or a list with commas, got {text}")
    return check_labels(where, labels)


def check_labels(where: str, labels: list[Any]) -> tuple[str, ...]:
    """Check that labels are different texts with a form in UTF-8.

    Args:
        where: where they come from, for the sentence of a fault.

    Raises:
        NotImportable: if they are not.
    """
    places: dict[str, int] = {}
    for index, label in enumerate(labels):
        if not isinstance(label, str):
            raise NotImportable(f"{where}: expected texts as labels, got another value at {index}")
        if not label.strip():
            raise NotImportable(f"{where}: expected a label for index {index}, got an empty one")
        try:
            label.encode()
        except UnicodeEncodeError:
            raise NotImportable(
                f"{where}: expected labels that UTF-8 has, got half of a surrogate pair at index "
                f"{index}"
            ) from None
        for character in label:
            if unicodedata.category(character) in UNPRINTABLE and character not in JOINERS:
                raise NotImportable(
                    f"{where}: expected printable labels, got the control character "
                    f"U+{ord(character):04X} at index {index}"
                )
        if len(label) > MAX_TEXT:
            raise NotImportable(
                f"{where}: expected labels of at most {MAX_TEXT} characters, got {len(label)} at "
                f"index {index}"
            )
        composed = unicodedata.normalize("NFC", label)  # é has two forms, which look the same
        if composed in places:
            raise NotImportable(
                f"{where}: expected different labels, got {label} at index {places[composed]} and "
                f"at index {index}"
            )
        places[composed] = index
    if len(labels) < 2:
        raise NotImportable(
            f"{where}: expected two labels or more, got {len(labels)}; a file has one a line"
        )
    if len(labels) > MAX_CLASSES:
        raise NotImportable(f"{where}: expected at most {MAX_CLASSES} labels, got {len(labels)}")
    return tuple(labels)


def require_labels(labels: tuple[str, ...] | None, *, num_classes: int) -> tuple[str, ...]:
    """Return the labels of a network that does not name its classes.

    Raises:
        NotImportable: if there are none, or of another number than the network's classes.
    """
    if labels is None:
        require_rows(num_classes)
        raise NotImportable(
            f"expected labels for {num_classes} classes, got none; give --labels FILE with one "
            "label a line, or --labels cat,dog"
        )
    require_rows(num_classes)
    if len(labels) != num_classes:
        raise NotImportable(
            f"--labels: expected {num_classes} labels, one for each class of the network, got "
            f"{len(labels)}"
        )
    return labels


def require_rows(num_classes: int) -> None:
    """Check that a network has a number for each of two classes or more.

    Raises:
        NotImportable: if it has one, as with a sigmoid.
    """
    if num_classes < 2:
        raise NotImportable(
            f"expected a number for each of two classes or more, got {num_classes} an image; let "
            "a network that ends in one logit x return two, 0 and x"
        )


def _is_file(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a list may be no name of a file
        return False


def _read_file(path: Path) -> list[Any]:
    try:
        content = read_regular_file(path, max_bytes=MAX_LABEL_BYTES)
    except OSError:
        raise NotImportable(f"{path.name}: expected a file of labels, got another") from None
    if content.startswith(MARKS):
        raise NotImportable(
            f"{path.name}: expected plain UTF-8, got a byte order mark, as of UTF-16; "
            "save it as UTF-8 without one"
        )
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise NotImportable(
            f"{path.name}: expected UTF-8, got other bytes in line {line}; save it as UTF-8"
        ) from None
    if path.suffix.lower() == ".json" or _is_json(text):
        return _parse_json(path.name, text)
    # Not splitlines, which would also split a label at a character such as U+2028.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    lines = [line.strip(" \t") for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    return list(lines)


def _is_json(text: str) -> bool:
    """Return true for a list or an object of JSON in a file of another name."""
    if text.lstrip()[:1] not in ("[", "{"):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _parse_json(name: str, text: str) -> list[Any]:
    try:
        raw = json.loads(text, object_pairs_hook=_unique)
    except _Repeated as error:
        raise NotImportable(f"{name}: expected each index once, got {error} twice") from None
    except (ValueError, RecursionError):
        raise NotImportable(f"{name}: expected JSON, got another text") from None
    if isinstance(raw, dict):
        return labels_by_index(name, raw)
    if not isinstance(raw, list):
        raise NotImportable(f"{name}: expected a list or an object of labels, got another value")
    return raw


def labels_by_index(where: str, raw: dict[str, Any]) -> list[Any]:
    """List the labels of an object from index to label.

    Also of one from label to index, such as torchvision's `class_to_idx`.

    Raises:
        NotImportable: if the indices are not 0 to K - 1.
    """
    names = any(not key.isdecimal() for key in raw)
    if names and all(type(value) is int for value in raw.values()):
        raw = {str(value): name for name, value in raw.items()}
    if set(raw) != {str(index) for index in range(len(raw))}:
        raise NotImportable(f"{where}: expected the indices 0 to {len(raw) - 1}, got others")
    return [raw[str(index)] for index in range(len(raw))]


class _Repeated(Exception):
    """A name that an object of JSON has twice. The text is the name."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _Repeated(name[:64])
        found[name] = value
    return found
