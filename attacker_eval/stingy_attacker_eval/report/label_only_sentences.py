"""The sentences on lists and labels alone: which list taught more, less, or was not compared."""

from collections.abc import Sequence

from stingy_attacker_eval.report.formatting import percent, readable, signed
from stingy_attacker_eval.report.label_only_baseline import (
    LabelOnlyBaseline,
    Outcome,
    controls,
    is_decisive,
)


def label_only_sentence(
    baselines: Sequence[LabelOnlyBaseline], list_endpoints: Sequence[str]
) -> str:
    """State which policies give a ranked list and teach no more than labels alone.

    list_endpoints: the endpoints that give a list, compared or not.
    """
    if baselines and all(item.outcome is Outcome.ONE_SEED for item in baselines):
        return "Lists are not compared with labels alone, because one seed gives no error."
    compared = [
        item for item in baselines if item.outcome not in (Outcome.UNTRIED, Outcome.ONE_SEED)
    ]
    left = [name for name in list_endpoints if name not in {item.endpoint for item in compared}]
    parts = [_comparison_sentence(compared, of=len(list_endpoints))] if compared else []
    if left:
        parts.append(
            f"Not compared with labels alone: {', '.join(map(readable, left))}. Both sides of a "
            "comparison need two seeds or more, true labels on both or on neither, and as many "
            "answers."
        )
    return " ".join(parts)


def _comparison_sentence(baselines: Sequence[LabelOnlyBaseline], *, of: int) -> str:
    """State the result of the comparisons with labels alone.

    of: the number of endpoints that give a list, compared or not.
    """
    if not is_decisive(baselines):
        where = "not even on the open endpoint" if controls(baselines)[0].is_open else "nowhere"
        more = [readable(item.endpoint) for item in baselines if item.outcome is Outcome.MORE]
        if more:
            return (
                f"Shown to teach more than labels alone: {', '.join(more)}. Of other lists this "
                "audit decides nothing, because that of the open endpoint was not shown to."
            )
        return (
            "This audit does not decide whether a list teaches more than labels alone: "
            f"{where} was the best attack shown to gain more than labels."
        )
    whole = "this audit" if len(baselines) == of else "this audit that was compared"
    # An open endpoint that taught more is the control. Any other one is a list like the rest.
    closed = [item for item in baselines if not item.is_open or item.outcome is not Outcome.MORE]
    equal = [item for item in closed if item.outcome is Outcome.NO_MORE]
    if equal:
        return (
            f"On {len(equal)} of {len(closed)} compared endpoints that give a list, the best "
            f"attack on the list gained less than {_points(equal[0].margin)} more than labels "
            f"alone (one-sided, 5 % over all lists): {', '.join(map(_equal_text, equal))}."
        )
    unclear = [item for item in closed if item.outcome is Outcome.UNCLEAR]
    if unclear:
        return (
            f"No list of {whole} was shown to teach less than {_points(unclear[0].margin)} more "
            f"than labels alone. Undecided: {', '.join(map(_equal_text, unclear))}."
        )
    least = min(closed or baselines, key=lambda item: item.gap.mean)
    return (
        f"Every list of {whole} taught more than labels alone. The closest, "
        f"{readable(least.endpoint)}, taught {signed(least.gap.mean)} points more "
        f"({readable(least.reader.attack)})."
    )


def _points(number: float) -> str:
    return f"{number:g} point" if number == 1 else f"{number:g} points"


def _equal_text(item: LabelOnlyBaseline) -> str:
    left = f"; {', '.join(map(readable, item.skipped))} could not run" if item.skipped else ""
    return f"{readable(item.endpoint)} (first five {percent(item.utility.top5)} %{left})"
