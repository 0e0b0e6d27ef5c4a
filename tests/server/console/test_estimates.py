"""Row V7: an estimate is out of an audit of the same model, version, policy and tier, or none."""

from contextlib import closing
from pathlib import Path

import pytest

from console_pages import add_entries, entry, make_report, make_state, opened
from stingy_server import Database
from stingy_server.console.estimates import Audits
from stingy_server.console.traffic import Endpoint
from stingy_server.detection.key_profiles import KeyProfileStore, Observation
from stingy_server.settings import Tier

POLICY = "0123456789ab"
DIGITS = Endpoint("digits", "1", POLICY)
PARTNER = Tier(classes=1)


def texts(audits: Audits, images: int, *, tier: str = "full") -> list[str]:
    return [each.text for each in audits.ranges(DIGITS, tier, images)]


def test_V7_range_comes_from_the_points_around_it() -> None:
    audits = Audits([make_report(fingerprint=POLICY)], {})
    # 4 of 40 points with 100 answers, 20 of 40 with 1,000; the intervals reach 0.88 points.
    assert texts(audits, 99) == ["up to 13 %"]
    assert texts(audits, 100) == ["7 to 13 %"]
    assert texts(audits, 101) == ["7 to 53 %"]
    assert texts(audits, 1000) == ["47 to 53 %"]
    assert texts(audits, 1001) == ["47 % or more"]


@pytest.mark.parametrize(
    ("report", "tier"),
    [
        ({"fingerprint": "f" * 12}, "full"),
        ({"fingerprint": POLICY, "model": "other"}, "full"),
        ({"fingerprint": POLICY, "version": "2"}, "full"),
        ({"fingerprint": POLICY}, "partner"),
        ({"fingerprint": PARTNER.fingerprint(POLICY)}, "full"),
        ({"fingerprint": POLICY}, "unknown"),
    ],
    ids=["policy", "model", "version", "tier", "audited tier", "unknown tier"],
)
def test_V7_other_audit_gives_no_estimate(report: dict[str, str], tier: str) -> None:
    audits = Audits([make_report(**report)], {"partner": PARTNER})
    assert texts(audits, 500, tier=tier) == []


def test_V7_audit_under_a_tier_is_that_of_its_keys() -> None:
    audits = Audits([make_report(fingerprint=PARTNER.fingerprint(POLICY))], {"partner": PARTNER})
    assert texts(audits, 1000, tier="partner") == ["47 to 53 %"]


def test_V7_worst_attacker_comes_first() -> None:
    near, far = make_report(fingerprint=POLICY), make_report(fingerprint=POLICY)
    stronger = far.model_copy(
        update={
            "summary": tuple(
                each.model_copy(update={"uplift_mean": 2 * each.uplift_mean})
                if each.endpoint == "e" and each.uplift_mean is not None
                else each
                for each in far.summary
            )
        }
    )
    assert texts(Audits([near, stronger], {}), 100) == ["17 to 23 %", "7 to 13 %"]


def test_V7_one_seed_gives_no_estimate() -> None:
    report = make_report(fingerprint=POLICY)
    single = report.model_copy(
        update={"summary": tuple(each.model_copy(update={"n": 1}) for each in report.summary)}
    )
    assert texts(Audits([single], {}), 100) == []


@pytest.mark.anyio
async def test_row_of_a_key_has_its_estimate(tmp_path: Path) -> None:
    ((audited, _), (other, _)) = make_state(tmp_path, "audited", "other")
    add_entries(
        tmp_path,
        [
            entry(audited.id, answered=100, fingerprint=POLICY),
            entry(audited.id, answered=1, fingerprint="another"),
            entry(other.id, answered=100, fingerprint="another"),
        ],
    )
    async with opened(tmp_path, audits=[make_report(fingerprint=POLICY)]) as page:
        leak = (await page.key(audited.id))["leak"]
        assert (leak["text"], leak["attacker"], leak["unaudited"]) == ("7 to 13 %", "owner", 1)
        assert (await page.key(other.id))["leak"] is None
        answered = (await page.document(key=audited.id))["detail"]["answered"]
        assert [each["leaks"] for each in answered] == [
            [{"audit": "Digits", "attacker": "owner", "text": "7 to 13 %"}],
            [],
        ]


@pytest.mark.anyio
async def test_V7_answers_that_the_ledger_has_no_more_count_too(tmp_path: Path) -> None:
    ((key, _),) = make_state(tmp_path, "alice")
    add_entries(tmp_path, [entry(key.id, answered=10, fingerprint=POLICY)])
    with closing(Database(tmp_path)) as database:
        profiles = KeyProfileStore(database)
        profiles.add(key.id, Observation(images=1000, bits=1.0), alarm=0.9, ladder=[])
    async with opened(tmp_path, audits=[make_report(fingerprint=POLICY)]) as page:
        assert (await page.key(key.id))["leak"]["text"] == "47 to 53 %"
