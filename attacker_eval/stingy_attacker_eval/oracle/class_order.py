"""The classes of an endpoint and of a data set, matched by their names.

Two sources of one task often number its classes in different orders: folders sort "10" before "2".
Answers whose indices name other classes would make every attack look weak.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from stingy_attacker_eval.datasets.datasets import Images
from stingy_attacker_eval.errors import AnswersError
from stingy_attacker_eval.oracle.oracle import Answers, PinnedOracle
from stingy_clients import ModelInfo

_SHOWN = 3


class OrderedOracle:
    """A pinned oracle whose class indices are those of a data set."""

    def __init__(self, oracle: PinnedOracle, class_names: Sequence[str]) -> None:
        """Match the classes by name.

        Raises AnswersError if the endpoint's labels are not the data set's class names.
        """
        labels = oracle.describe().labels
        fault = class_fault(labels, class_names)
        if fault is not None:
            raise AnswersError(fault)
        self._oracle = oracle
        self._names = tuple(class_names)
        number = {name: place for place, name in enumerate(class_names)}
        self._places = np.array([number[label] for label in labels], np.int64)

    def describe(self) -> ModelInfo:
        """Return the endpoint's description, with the labels in the data set's order."""
        return self._oracle.describe().model_copy(update={"labels": self._names})

    def query(self, images: Images) -> Answers:
        """Return the answers with the data set's class indices."""
        answers = self._oracle.query(images)
        return replace(answers, indices=self._places[answers.indices])

    def charged(self) -> int:
        return self._oracle.charged()


def class_fault(labels: Sequence[str], class_names: Sequence[str]) -> str | None:
    """Return why the labels of an endpoint are not the class names of a data set; None if they are.

    Their order may differ.
    """
    if len(labels) != len(class_names):
        return f"expected {len(class_names)} classes, got {len(labels)}"
    repeated = [
        name for names in (labels, class_names) for name, n in Counter(names).items() if n > 1
    ]
    if repeated:
        return f"expected each class name once, got {_list_first(repeated)} several times"
    if set(labels) == set(class_names):
        return None
    lacking = [name for name in class_names if name not in set(labels)]
    unknown = [label for label in labels if label not in set(class_names)]
    return (
        f"expected the data's classes {_list_first(lacking)}, got {_list_first(unknown)}: name the "
        "data's classes as the endpoint does"
    )


def _list_first(names: Sequence[str]) -> str:
    shown = ", ".join(f'"{name}"' for name in names[:_SHOWN])
    return f"{shown}, ..." if len(names) > _SHOWN else shown
