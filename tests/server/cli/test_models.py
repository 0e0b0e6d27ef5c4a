"""What `stingy models list` tells of a version that several processes serve."""

import pytest

from stingy_server.cli.models import _row
from stingy_server.store.deployments import Report


def report(process: str, policy: str, *, share: float = 0.5, fault: str | None = None) -> Report:
    return Report(process, "digits", "2", policy, share, fault, reported_at=0.0)


ONE = report("1", "label")


@pytest.mark.parametrize(
    ("other", "share", "text"),
    [
        (report("2", "label"), "0.5", "label"),
        (report("2", "stingy"), "0.5", "processes differ: label; stingy"),
        (report("2", "label", share=1.0), "0.5 or 1", "label"),
        (report("2", "", fault="no file"), "0.5", "processes differ: label; not served: no file"),
    ],
)
def test_list_shows_processes_that_differ(other: Report, share: str, text: str) -> None:
    assert _row([ONE, other]) == ("digits", "2", share, "2", text)
