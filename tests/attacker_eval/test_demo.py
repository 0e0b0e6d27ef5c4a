"""The demo leaves other folders untouched; its server is real, counts right, and stops."""

import shlex
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from audit_results import audit_of, rows_of
from stingy_attacker_eval import demo
from stingy_attacker_eval.audit.protocol_file import load_protocol
from stingy_attacker_eval.audit.runner import run_audit
from stingy_attacker_eval.datasets.datasets import load_dataset
from stingy_attacker_eval.errors import DemoError
from stingy_attacker_eval.lab.teachers import TeacherSettings, train_teachers
from stingy_attacker_eval.oracle.oracle import HttpOracle
from stingy_attacker_eval.training import TrainSettings
from stingy_clients import Client, TransportError


def test_folder_with_other_files_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("mine")
    with pytest.raises(DemoError, match="choose another with --out"):
        demo.run_demo(tmp_path, console=Console(file=StringIO()))
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("mine")
    with pytest.raises(DemoError, match="got a file"):
        demo.run_demo(tmp_path / "demo", console=Console(file=StringIO()))


def test_earlier_demo_is_removed_and_other_files_stay(tmp_path: Path) -> None:
    demo._prepare_folder(tmp_path)
    (tmp_path / "bundles" / "normal").mkdir(parents=True)
    (tmp_path / "rows.jsonl").write_text("{}")
    (tmp_path / "notes.txt").write_text("mine")
    demo._prepare_folder(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".stingy-demo", "notes.txt"]


def test_symbolic_link_of_an_earlier_demo_is_not_followed(tmp_path: Path) -> None:
    folder, precious = tmp_path / "demo", tmp_path / "precious"
    demo._prepare_folder(folder)
    precious.mkdir()
    (precious / "file").touch()
    (folder / "state").symlink_to(precious)
    demo._prepare_folder(folder)
    assert (precious / "file").exists()
    assert not (folder / "state").is_symlink()


def test_stingy_variables_do_not_reach_the_demos_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STINGY_PORT", "1")
    assert not [name for name in demo._child_environment() if name.startswith("STINGY_")]


def test_server_that_fails_to_start_is_reported_with_its_log(tmp_path: Path) -> None:
    (tmp_path / "stingy.toml").write_text("port = 99999999")
    with (
        Client("http://127.0.0.1:9", "key") as client,
        pytest.raises(DemoError, match=r"got its exit before it was ready; its log: .*port"),
        demo._serve(tmp_path, client),
    ):
        pass


def test_demo_ends_with_what_leaked_to_whom_and_next(tmp_path: Path) -> None:
    uplifts = {"normal": {"soft_label": 6.0}, "stingy": {"soft_label": 0.1}}
    out = tmp_path / "my demo"
    out.mkdir()
    audit = audit_of(out, rows_of(uplifts))
    leaked, whom, command = demo.closing_lines(audit, out)
    assert leaked == ("what leaked   normal: +6.0 points of accuracy; stingy: nothing measurable")
    assert whom == (
        "to whom       an attacker with the true labels of all its images, for 1,000 images of each"
    )
    assert command.startswith("next          stingy try '")
    assert shlex.split(command)[1:] == [
        "stingy", "try", str(out / "bundles" / "normal"), "--audit", str(out)
    ]  # fmt: skip


def test_endpoint_whose_attacks_broke_is_not_called_safe(tmp_path: Path) -> None:
    rows = [
        each.model_copy(update={"finite": False}) if each.endpoint == "stingy" else each
        for each in rows_of({"stingy": {"soft_label": 0.1}})
    ]
    leaked, _, _ = demo.closing_lines(audit_of(tmp_path, rows), tmp_path)
    assert leaked == "what leaked   stingy: unknown, because no attack could be run"


def test_E1_audit_over_http_spends_what_the_server_counts(tmp_path: Path) -> None:
    settings = TeacherSettings(network="cnn_tiny", training=TrainSettings(epochs=1, lr=0.05))
    train_teachers(load_dataset("digits"), out=tmp_path / "bundles", settings=settings)
    port = demo._free_port()
    (tmp_path / "stingy.toml").write_text(demo._SETTINGS.format(port=port))
    key = demo._create_key(tmp_path)
    url = f"http://127.0.0.1:{port}"
    with Client(url, key) as client:
        with demo._serve(tmp_path, client) as server:
            printed = demo._predict(tmp_path, load_dataset("digits"), url, key)
            assert "digit.png" in printed
            protocol = load_protocol("digits").model_copy(
                update={"epochs": 1, "seeds": (0,), "attacks": ()}
            )
            oracles = {e.name: HttpOracle(client, model=e.model) for e in protocol.endpoints}
            report = run_audit(
                protocol, oracles=oracles, out=tmp_path / "audit", console=Console(file=StringIO())
            )
            for endpoint in report.endpoints:
                assert endpoint.queries_spent == endpoint.queries_charged == 1797
            assert [endpoint.support for endpoint in report.endpoints] == [10, 10, 2]
            assert client.usage().used == 3 * 1797 + 1
        assert server.poll() == 0
        with pytest.raises(TransportError):
            client.usage()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(key.encode() in path.read_bytes() for path in written)
