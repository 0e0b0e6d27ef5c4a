"""The encryption of evidence."""

import os

import pytest

from marking import OTHER_SECRET, SECRET, assert_swapped_rows_fail, evidence
from stingy_server.marks.evidence import EvidenceUnreadable, Sealer

SEALER = Sealer(SECRET, random=os.urandom)
ROW = bytes(16)


def test_evidence_is_read_as_it_was_kept() -> None:
    kept = evidence(3, scores=None, answer=(3,))
    found = SEALER.open(ROW, SEALER.seal(ROW, kept))
    assert found.answered == kept.answered
    assert (found.pixels == kept.pixels).all()


def test_Y5_evidence_shows_no_pixel_and_no_length() -> None:
    kept, other = evidence(1), evidence(2, key="another key", answer=(3, 1), scores=(0.0, -1.0))
    sealed = SEALER.seal(ROW, kept)
    assert kept.pixels.tobytes()[:4] not in sealed
    assert b"digits" not in sealed
    assert len(SEALER.seal(ROW, other)) == len(sealed)
    assert SEALER.seal(ROW, kept) != sealed  # a nonce of its own


def test_Y5_row_opens_under_its_own_id_alone() -> None:
    assert_swapped_rows_fail(SEALER.seal, SEALER.open)


@pytest.mark.parametrize("place", [0, 12, 500, -1])
def test_Y5_changed_evidence_is_found(place: int) -> None:
    sealed = bytearray(SEALER.seal(ROW, evidence()))
    sealed[place] ^= 1
    with pytest.raises(EvidenceUnreadable, match="expected evidence as it was kept"):
        SEALER.open(ROW, bytes(sealed))


def test_evidence_under_another_secret_is_not_read() -> None:
    sealed = SEALER.seal(ROW, evidence())
    for broken in (sealed, sealed[:20], sealed[:5], b""):
        with pytest.raises(EvidenceUnreadable):
            Sealer(OTHER_SECRET, random=os.urandom).open(ROW, broken)
