"""Settings: three sources in order, and all faults told together."""

from pathlib import Path

import pytest

from stingy_server import load_settings


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_flags_beat_the_environment_which_beats_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stingy.toml").write_text("port = 1\nbatch_size = 2\ndeadline_s = 3.5\n")
    monkeypatch.setenv("STINGY_PORT", "10")
    monkeypatch.setenv("STINGY_BATCH_SIZE", "20")
    settings, faults = load_settings(port=100, host=None)
    assert faults == []
    assert (settings.port, settings.batch_size, settings.deadline_s) == (100, 20, 3.5)
    assert settings.host == "127.0.0.1"


def test_paths_in_a_file_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    file = tmp_path / "folder" / "s.toml"
    file.write_text('state = "state"\n[[models]]\nbundle = "bundles/a"\n')
    settings, faults = load_settings(file)
    assert faults == []
    assert settings.state == tmp_path / "folder" / "state"
    assert settings.models[0].bundle == tmp_path / "folder" / "bundles" / "a"


def test_P6_every_fault_is_reported_and_the_rest_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "s.toml"
    file.write_text(
        "port = 99999\nunknown = 1\nbatch_size = 7\n[[models]]\nbundle = 'a'\npolice = 'x'\n"
    )
    monkeypatch.setenv("STINGY_QUEUE_IMAGES", "none")
    monkeypatch.setenv("STINGY_ALOW_OPEN", "true")
    settings, faults = load_settings(file)
    text = "\n".join(faults)
    for word in ("port", "unknown", "models.0.police", "queue_images", "STINGY_ALOW_OPEN"):
        assert word in text
    assert len(faults) == 5
    assert settings.batch_size == 7


@pytest.mark.parametrize("content", [b"port = ", b"\xff\xfe"])
def test_an_unreadable_file_is_a_fault(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s.toml").write_bytes(content)
    _, faults = load_settings(tmp_path / "s.toml")
    assert len(faults) == 1
    _, faults = load_settings(tmp_path / "absent.toml")
    assert len(faults) == 1


def test_settings_do_not_change_once_made() -> None:
    settings, _ = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1


def test_the_clients_own_variables_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STINGY_URL", "http://localhost")
    monkeypatch.setenv("STINGY_KEY", "k")
    assert load_settings()[1] == []


def test_a_tier_that_would_be_ignored_is_a_fault(tmp_path: Path) -> None:
    file = tmp_path / "stingy.toml"
    file.write_text("[tiers.full]\nclasses = 1\n")
    settings, faults = load_settings(file)
    assert settings.tiers == {}
    (fault,) = faults
    assert "tiers" in fault
    assert "expected other names than full" in fault
