"""Endpoints: either all of them start, or none."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest
from torch import nn

from serving import load_one, make_bundle, make_settings
from stingy_server import ConfigurationError, ModelSettings, create_app
from stingy_server.models.endpoints import start_endpoints
from stingy_server.settings import Settings


def model_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "model"}


@pytest.fixture
def one_sound_of_two(tmp_path: Path) -> Settings:
    """Make settings with a model that starts, and one whose upstream does not run."""
    sound = make_bundle(tmp_path / "b")
    url = "http://127.0.0.1:1/v2/models/digits/infer"
    absent = ModelSettings(bundle=sound, name="absent", engine="oip", url=url)
    return make_settings(tmp_path / "s", sound, absent)


def test_P6_engines_started_before_a_fault_are_closed(one_sound_of_two: Settings) -> None:
    before = model_threads()
    with pytest.raises(ConfigurationError, match="absent: the upstream failed"):
        create_app(one_sound_of_two)
    assert model_threads() == before


class Unmovable(nn.Module):
    """A network that raises before it can get a trial image."""

    def eval(self) -> Self:
        raise OSError


def test_started_engines_are_closed_if_another_cannot_be_made(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    before = model_threads()
    sound = load_one(settings)
    with pytest.raises(OSError):  # noqa: PT011  it has no message
        start_endpoints([sound, replace(sound, network=Unmovable())], settings, secret=bytes(16))
    assert model_threads() == before
