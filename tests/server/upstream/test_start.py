"""Settings of an upstream that do not fit are faults before the server listens."""

from pathlib import Path
from typing import Any, Literal

import pytest

from hostile import (
    says,
    upstream,
)
from serving import make_bundle, make_settings
from stingy_server import ConfigurationError, ModelSettings, create_app
from stingy_server.settings import TensorSettings
from upstream_edge import GOOD

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("engine", ["oip", "torchserve"])
async def test_P5_P6_strict_mode_that_an_engine_lacks_is_a_fault(
    tmp_path: Path, engine: Literal["oip", "torchserve"]
) -> None:
    bundle = make_bundle(tmp_path / "bundle", policy="stingy:n=2")
    with upstream(says(GOOD)) as url:
        model = ModelSettings(bundle=bundle, engine=engine, url=url, timeout_s=1.0)
        with pytest.raises(ConfigurationError) as error:
            create_app(make_settings(tmp_path / "state", model, strict=True))
    assert any(
        fault.startswith(f"digits: strict cannot be kept by the engine {engine}:")
        for fault in error.value.faults
    )


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"engine": "oip"}, "expected a url for the engine oip, got none"),
        ({"url": "http://h/x"}, "expected no url for the engine embedded, got one"),
        ({"engine": "oip", "url": "http://h/x", "key_file": "k"}, "expected no key_file"),
        ({"tensors": TensorSettings()}, "expected no tensors for the engine embedded"),
    ],
)
def test_settings_that_do_not_fit_the_engine_are_faults(
    tmp_path: Path, changes: dict[str, Any], fault: str
) -> None:
    model = ModelSettings(bundle=make_bundle(tmp_path / "b"), **changes)
    with pytest.raises(ConfigurationError, match=fault):
        create_app(make_settings(tmp_path / "s", model))


@pytest.mark.parametrize("url", ["ftp://h/x", "http://h", "http://user:key@h/x", "http://h/x?y=1"])
def test_upstream_url_that_is_not_plain_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match="url"):
        ModelSettings(bundle=tmp_path, engine="oip", url=url)
