"""Endpoints start together or not at all."""

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
def half_sound(tmp_path: Path) -> Settings:
    """A model that starts, and one whose server nobody runs."""
    sound = make_bundle(tmp_path / "b")
    url = "http://127.0.0.1:1/v2/models/digits/infer"
    absent = ModelSettings(bundle=sound, name="absent", engine="oip", url=url)
    return make_settings(tmp_path / "s", sound, absent)


def test_P6_what_was_started_before_a_fault_is_ended(half_sound: Settings) -> None:
    before = model_threads()
    with pytest.raises(ConfigurationError, match="absent: the upstream failed"):
        create_app(half_sound)
    assert model_threads() == before


class Unmovable(nn.Module):
    """A network that raises before it can be tried."""

    def eval(self) -> Self:
        raise OSError


def test_what_was_started_is_ended_where_one_cannot_even_be_made(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    before = model_threads()
    sound = load_one(settings)
    with pytest.raises(OSError):  # noqa: PT011  it has no message
        start_endpoints([sound, replace(sound, network=Unmovable())], settings, secret=bytes(16))
    assert model_threads() == before
