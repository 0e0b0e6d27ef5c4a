"""Labels from files and from the command line."""

from pathlib import Path

import pytest

from stingy_server.importers.found import NotImportable
from stingy_server.importers.labels import check_labels, read_labels, require_labels


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.txt", "cat\ndog\nKäse 🧀\n"),
        ("labels.txt", "cat\r\n dog \r\nKäse 🧀\r\n\r\n"),
        ("labels.txt", "cat\ndog\nKäse 🧀"),
        ("labels.json", '["cat", "dog", "K\\u00e4se \\ud83e\\uddc0"]'),
        ("labels.json", '{"2": "Käse 🧀", "0": "cat", "1": "dog"}'),
        ("class_to_idx.json", '{"Käse 🧀": 2, "cat": 0, "dog": 1}'),
        ("labels.txt", '[\n"cat",\n"dog",\n"Käse 🧀"\n]\n'),
        ("labels.txt", "cat\rdog\rKäse 🧀\r"),
    ],
)
def test_file_of_labels_is_read_in_the_order_of_the_indices(
    tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_bytes(content.encode())
    assert read_labels(str(tmp_path / name)) == ("cat", "dog", "Käse 🧀")


def test_joiners_and_wide_spaces_are_parts_of_labels(tmp_path: Path) -> None:
    labels = (
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "👩\u200d🌾",
        "東京\u3000駅",
        "a\u00a0b",
    )
    (tmp_path / "l.txt").write_text("\n".join(labels), encoding="utf-8")
    assert read_labels(str(tmp_path / "l.txt")) == labels


def test_network_of_one_output_is_refused_with_the_way_to_two() -> None:
    for labels in (None, ("cat", "dog"), ("cat",)):
        with pytest.raises(NotImportable, match=r"got 1 an image; let .* return two, 0 and x"):
            require_labels(labels, num_classes=1)


def test_list_with_commas_is_read() -> None:
    assert read_labels("cat, dog,Käse") == ("cat", "dog", "Käse")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"\xef\xbb\xbfcat\ndog\n", "a.txt: expected plain UTF-8, got a byte order mark"),
        ("a.txt", "cat\ndog\n".encode("utf-16"), "got a byte order mark"),
        ("a.txt", b"cat\nK\xe4se\n", "expected UTF-8, got other bytes in line 2"),
        ("a.txt", b"cat\ndog\ncat\n", "got cat at index 0 and at index 2"),
        ("a.txt", b"cat\n\ndog\n", "expected a label for index 1, got an empty one"),
        ("a.txt", b"cat\nd\x1bog\n", "got the control character U+001B at index 1"),
        ("a.txt", b"cat\nd\xe2\x80\xaeog\n", "got the control character U+202E"),
        ("a.txt", b"cat\n", "expected two labels or more, got 1"),
        ("a.txt", b"", "expected two labels or more, got 0"),
        ("a.txt", "cat\ndog\n".encode("utf-16-le"), "got the control character U+0000 at index 0"),
        ("a.txt", "é\ne\u0301\n".encode(), "expected different labels"),  # the same to the eye
        ("a.txt", b"cat\n" + b"d" * 1025, "expected labels of at most 1024 characters"),
        ("a.txt", b"cat,dog\n", "got 1; a file has one a line"),
        ("a.json", b'{"0": "cat", "1": "dog", "0": "ox"}', "expected each index once, got 0 twice"),
        ("a.json", b'{"cat": 0, "dog": 2}', "expected the indices 0 to 1, got others"),
        ("a.json", b'{"0": 1, "1": 0}', "expected texts as labels"),
        ("a.json", b'["cat", "\\ud800"]', "half of a surrogate pair at index 1"),
        ("a.json", b'["cat", 3]', "expected texts as labels, got another value at 1"),
        ("a.json", b'{"1": "cat", "2": "dog"}', "expected the indices 0 to 1, got others"),
        ("a.json", b'"cat"', "expected a list or an object of labels"),
        ("a.json", b"[" * 100_000, "expected JSON"),
    ],
)
def test_faulty_file_of_labels_is_refused_with_a_sentence(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(NotImportable) as refused:
        read_labels(str(tmp_path / name))
    (fault,) = refused.value.faults
    assert fault.startswith(f"{name}: ")
    assert words in fault


def test_labels_that_are_no_file_and_no_list_are_refused() -> None:
    with pytest.raises(NotImportable, match=r"--labels: expected a file or a list with commas"):
        read_labels("missing.txt")
    with pytest.raises(NotImportable, match="expected a file of labels"):
        read_labels("/dev")
    assert len(read_labels(",".join(map(str, range(3000))))) == 3000  # no name of a file


def test_labels_of_another_number_are_refused_with_both_numbers() -> None:
    with pytest.raises(NotImportable, match=r"expected 3 labels, .* got 2"):
        require_labels(("cat", "dog"), num_classes=3)
    with pytest.raises(NotImportable, match="expected labels for 3 classes, got none; give"):
        require_labels(None, num_classes=3)


def test_lone_surrogate_of_the_command_line_is_refused() -> None:
    with pytest.raises(NotImportable, match="half of a surrogate pair"):
        check_labels("--labels", ["cat", "d\udcffog"])
