"""Versions side by side: the routing of keys, and the combinations that are refused."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from serving import load_one, make_bundle, make_settings, start_one
from stingy_protection import build_policy
from stingy_server import ConfigurationError, ModelSettings, create_app
from stingy_server.models.artefact import write_artefact
from stingy_server.models.endpoints import Endpoint
from stingy_server.models.fleet import Fleet, overlaps
from stingy_server.models.summary import summary

CALLERS = [f"{number:08x}" for number in range(2000)]


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Endpoint:
    folder = tmp_path_factory.mktemp("fleet")
    return start_one(make_settings(folder / "s", make_bundle(folder / "b")))


def version_of(endpoint: Endpoint, version: str, share: float | None) -> Endpoint:
    return replace(endpoint, manifest=replace(endpoint.manifest, version=version), share=share)


def version_for(fleet: Fleet, caller: str) -> str:
    found = fleet.find("digits", None, caller=caller)
    assert found is not None
    return found.manifest.version


def test_canary_gets_its_share_of_the_keys(endpoint: Endpoint) -> None:
    fleet = Fleet(
        [version_of(endpoint, "2", 0.25), version_of(endpoint, "1", None)], secret=bytes(16)
    )
    share = sum(version_for(fleet, caller) == "2" for caller in CALLERS) / len(CALLERS)
    assert share == pytest.approx(0.25, abs=0.05)
    assert [version.manifest.version for version in fleet.versions("digits")] == ["1", "2"]


def test_key_always_gets_the_same_version(endpoint: Endpoint) -> None:
    versions = [version_of(endpoint, "1", None), version_of(endpoint, "2", 0.5)]
    one, reordered = Fleet(versions, secret=b"a" * 16), Fleet(versions[::-1], secret=b"a" * 16)
    assert [version_for(one, c) for c in CALLERS] == [version_for(reordered, c) for c in CALLERS]
    other = Fleet(versions, secret=b"b" * 16)
    assert [version_for(one, c) for c in CALLERS] != [version_for(other, c) for c in CALLERS]


@given(share=st.floats(0.0, 1.0))
def test_larger_share_takes_no_key_from_the_canary(endpoint: Endpoint, share: float) -> None:
    fleet = Fleet(
        [version_of(endpoint, "1", None), version_of(endpoint, "2", share)], secret=bytes(16)
    )
    before = {caller for caller in CALLERS[:200] if version_for(fleet, caller) == "2"}
    fleet.set_share(fleet.versions("digits")[1], 1.0)
    assert before <= {caller for caller in CALLERS[:200] if version_for(fleet, caller) == "2"}
    assert all(version_for(fleet, caller) == "2" for caller in CALLERS[:200])


def test_named_version_is_that_version_or_none(endpoint: Endpoint) -> None:
    fleet = Fleet([endpoint, version_of(endpoint, "2", 0.0)], secret=bytes(16))
    found = fleet.find("digits", "2", caller="")
    assert found is not None
    assert found.manifest.version == "2"
    assert fleet.find("digits", "3", caller="") is None
    assert fleet.find("other", None, caller="") is None
    assert fleet.take("digits", "2") is found
    assert fleet.take("digits", "2") is None
    assert [each.manifest.version for each in fleet] == ["1"]


def test_versions_that_exclude_each_other_are_refused(tmp_path: Path) -> None:
    one = make_bundle(tmp_path / "1")
    two = make_bundle(tmp_path / "2", version="2", num_classes=5)
    canary = make_bundle(tmp_path / "3", name="alone")
    settings = make_settings(
        tmp_path / "s",
        ModelSettings(bundle=one, budget=5),
        ModelSettings(bundle=two, budget=6),
        ModelSettings(bundle=canary, share=0.5),
    )
    with pytest.raises(ConfigurationError) as error:
        create_app(settings)
    assert [fault.partition(", got")[0] for fault in error.value.faults] == [
        "digits: expected a share for every version but one",
        "digits: expected the same classes in every version",
        "digits: expected one budget for all versions",
        "alone: expected a share for every version but one",
    ]


def test_P7_artefact_and_its_bundle_are_named_with_the_looser(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", policy="label")
    loaded = load_one(make_settings(tmp_path / "s", bundle))
    assert isinstance(loaded.network, nn.Module)
    policy = build_policy("stingy", num_classes=10, n=5)
    write_artefact(
        tmp_path / "a", loaded.network, manifest=loaded.manifest, policy=policy, format="onnx"
    )
    artefact = ModelSettings(bundle=tmp_path / "a", name="fused")
    service = create_app(make_settings(tmp_path / "s", bundle, artefact)).state.service
    (warning,) = [line for line in summary(service.fleet, service.settings) if "warning" in line]
    assert "digits 1, fused 1 serve the same weights" in warning
    assert warning.endswith("at least as open as fused 1")
    service.database.close()


def test_P7_one_policy_or_other_weights_give_no_warning(endpoint: Endpoint) -> None:
    assert overlaps([endpoint, replace(endpoint, name="twin")]) == []
    wide = replace(endpoint, name="wide", policy=build_policy("open", num_classes=10))
    assert overlaps([endpoint, replace(wide, weights="0" * 64)]) == []
    (found,) = overlaps([endpoint, wide])
    assert found.endpoints == (endpoint, wide)


def test_P7_incomparable_policies_are_named_without_a_looser(endpoint: Endpoint) -> None:
    ranked = build_policy("ranked_labels", num_classes=10, n=10)
    scored = build_policy("stingy", num_classes=10, n=2, scores="prob")
    pair = [replace(endpoint, policy=scored), replace(endpoint, name="ranks", policy=ranked)]
    (found,) = overlaps(pair)
    assert found.text == (
        "digits 1, ranks 1 serve the same weights: none of their policies contains the others, so "
        "together they reveal more than any of them"
    )
