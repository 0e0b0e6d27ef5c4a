"""Advice on policies and preprocessings that surprise people."""

from stingy_protection import Policy, Preprocessing, ScoreForm, Stingy, hides_nothing

LARGEST = 1.0  # of a mean and a standard deviation of numbers from 0 to 1
FEW = 4  # classes; with fewer, the scores of two tell the whole row


def policy_notes(policy: Policy) -> list[str]:
    """Return a note on a policy that sends one class with a renormalised score.

    Such a score is the same for every image: log-probability 0, or probability 1.
    """
    if policy.support > 1 or policy.scores not in (ScoreForm.LOG_PROB, ScoreForm.PROB):
        return []
    other = "label, which sends no score"
    if not hides_nothing(Stingy(num_classes=policy.num_classes, n=2)):
        other = "stingy:n=2, which sends scores that differ"
    return [f"one class leaves, so its score is always the same; see --policy {other}"]


def scale_notes(preprocessing: Preprocessing) -> list[str]:
    """Return a note on a mean or std that is of pixels from 0 to 255, not of pixels / 255."""
    largest = max(map(abs, (*preprocessing.mean, *preprocessing.std)))
    if largest <= LARGEST:
        return []
    return [
        f"mean and std are of pixels / 255, which are 0 to 1, but one is {largest:g}; "
        "divide those of pixels from 0 to 255 by 255"
    ]


def openness_notes(policy: Policy) -> list[str]:
    """Return a note on a policy with which a server refuses to start."""
    if not hides_nothing(policy):
        return []
    return [f"this policy hides nothing, so a server refuses it; {openness_advice(policy)}"]


def openness_advice(policy: Policy) -> str:
    """Return what to do about a policy that hides nothing and needs `allow_open`."""
    if policy.num_classes < FEW:
        return (
            f"with {policy.num_classes} classes scores tell the row; "
            "use the policy label, which sends none"
        )
    return "set allow_open = true to serve it"
