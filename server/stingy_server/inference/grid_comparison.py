"""Compare answers of two programs for the same images on the grid of their policy."""

import torch

from stingy_protection import SparseLogits

MOST_MOVED = 0.01  # of the trial rows, each by one step of the grid: P5


def answers_agree(
    answer: SparseLogits, expected: SparseLogits, *, most_moved: float = MOST_MOVED
) -> bool:
    """Return true if two answers have the same classes and nearly all the same scores.

    Args:
        answer, expected: answers for the same rows, under the same policy.

        most_moved: the largest fraction of the rows whose scores may be off by one step.

    Returns:
        False if an index differs, a score is off by more than one step of the grid, or more than
        `most_moved` of the rows have a score that is off by one.
    """
    if not torch.equal(answer.indices, expected.indices):
        return False
    if answer.scores is None or expected.scores is None:
        return True
    steps = ((answer.scores.double() - expected.scores.double()) * 10.0**answer.decimals).abs()
    moved = (steps > 0.5).any(dim=1).double().mean()
    return not bool((steps > 1.5).any()) and float(moved) <= most_moved


def find_dependence(alone: SparseLogits, repeated: SparseLogits, beside: SparseLogits) -> list[str]:
    """Return the fault of a model whose logits do not leave its process, by its answers.

    They may move by a step of the policy's grid beside another image.

    Args:
        alone, repeated: two answers to one image.
        beside: the answer to this image and a second one.
    """
    if not _are_equal(alone, repeated):
        return ["expected the same answer to the same image each time, got different ones"]
    if len(beside) != 2 or not answers_agree(beside.rows(0, 1), alone, most_moved=1.0):
        return ["expected an answer that depends on one image, got another one beside other images"]
    return []


def _are_equal(answer: SparseLogits, other: SparseLogits) -> bool:
    if not torch.equal(answer.indices, other.indices):
        return False
    if answer.scores is None or other.scores is None:
        return True
    return torch.equal(answer.scores, other.scores)
