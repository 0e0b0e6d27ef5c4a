"""The `stingy` command: its output, its exit codes and its plug-ins."""

import json
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, version
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import typer

from fake_server import KEY, PNG, FakeServer
from stingy_clients import Client, cli

Run = Callable[..., tuple[int, str, str]]


class OurPoint(EntryPoint):
    """An entry point of the distribution `stingy`."""

    class _Distribution:
        name = "stingy"

    dist = _Distribution()  # type: ignore[assignment]


class ForeignPoint(EntryPoint):
    """An entry point of a third-party distribution."""

    class _Distribution:
        name = "stingy-plugin"

    dist = _Distribution()  # type: ignore[assignment]


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """Replace the entry points that the command finds by a list, which a test fills."""
    found: list[EntryPoint] = []
    monkeypatch.setattr(cli, "entry_points", lambda *, group: {"stingy.commands": found}[group])
    return found


@pytest.fixture
def run(
    points: list[EntryPoint], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Return `run("predict", ...)`, which returns the exit code, stdout and stderr."""
    for name in ("STINGY_CA", "STINGY_KEY", "STINGY_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")

    def run_stingy(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["stingy", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return run_stingy


@pytest.fixture
def to_server(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Connect the command's client to the fake server, and return the list of its urls."""
    urls: list[str] = []

    def client(url: str, key: str, *, ca: Path | None) -> Client:
        urls.append(url)
        return Client(url, key, ca=ca, retries=0, transport=httpx.MockTransport(server))

    monkeypatch.setattr(cli, "Client", client)
    return urls


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    for name, last in (("a.png", 2), ("b.png", 4)):
        (tmp_path / name).write_bytes(PNG + bytes([last]))
    return [str(tmp_path / "a.png"), str(tmp_path / "b.png")]


def plugin(name: str, monkeypatch: pytest.MonkeyPatch, *, missing: str = "") -> None:
    """Add a module `name` whose `app` has the commands `hello` and `broken`.

    `broken` fails because the module `missing` is missing.
    """
    module = ModuleType(name)
    app = typer.Typer()

    @app.command()
    def hello() -> None:
        typer.echo("hello")

    @app.command()
    def broken() -> None:
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    module.app = app  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)


def test_predict_prints_a_table(run: Run, to_server: list[str], images: list[str]) -> None:
    code, out, err = run("predict", *images, "--key", KEY, "--model", "pets")
    assert (code, err) == (0, "")
    assert to_server == ["http://127.0.0.1:8080"]
    lines = out.splitlines()
    rows = [line.strip("│ ").split() for line in lines if "│" in line]
    assert [row[0] for row in rows] == ["cat", "dog", "elk", "ant"]
    assert [row[-1] for row in rows] == ["0.627", "0.373"] * 2
    withheld = "pets 1, 3 of 5 classes withheld, probabilities among the other 2"
    assert [line for line in lines if "withheld" in line] == [
        f"{image}: {withheld}" for image in images
    ]
    assert sum("probability (sent as log_prob)" in line for line in lines) == 2


@pytest.mark.parametrize(
    ("form", "options", "head", "values"),
    [
        ("prob", [], "probability (sent as prob)", ["0.627", "0.373"]),
        ("logit", [], "probability (sent as logit)", ["0.627", "0.373"]),
        ("rank", [], "rank", ["1", "2"]),
        ("log_prob", ["--raw"], "log_prob", ["-0.467", "-0.985"]),
        ("prob", ["--raw"], "prob", ["0.627", "0.373"]),
        ("logit", ["--raw"], "logit", ["2.5", "1.982"]),
    ],
)
def test_table_names_the_form_that_it_prints(
    run: Run,
    to_server: list[str],
    images: list[str],
    server: FakeServer,
    form: str,
    options: list[str],
    head: str,
    values: list[str],
) -> None:
    server.form = form
    code, out, _ = run("predict", images[0], "--key", KEY, *options)
    assert code == 0
    lines = [line.strip("│┃ ") for line in out.splitlines()]
    assert [line.split("┃")[-1].strip() for line in lines if line.startswith("label")] == [head]
    assert [line.split()[-1] for line in lines if line.startswith(("cat", "dog"))] == values


def test_labels_alone_have_no_column_of_scores(
    run: Run, to_server: list[str], images: list[str], server: FakeServer
) -> None:
    server.form = "none"
    _, out, _ = run("predict", images[0], "--key", KEY)
    assert out.startswith(f"{images[0]}: pets 1, 3 of 5 classes withheld, no scores\n")
    assert "probability" not in out


def test_open_and_single_classes_are_described(
    run: Run, to_server: list[str], images: list[str], server: FakeServer
) -> None:
    server.labels = ["ant", "bee"]
    assert ": pets 1, none of 2 classes withheld\n" in run("predict", images[0], "--key", KEY)[1]
    server.labels = list("abcde")
    body: dict[str, Any] = {"model": "pets", "version": "1", "scores": "log_prob"}
    body["answers"] = [{"classes": [{"index": 1, "label": "b", "score": 0.0}]}]
    server.next = [None, None, httpx.Response(200, json=body)]
    _, out, _ = run("predict", images[0], "--key", KEY)
    assert "4 of 5 classes withheld, so the probability is always 1\n" in out


def test_model_and_version_are_optional(
    run: Run, to_server: list[str], images: list[str], server: FakeServer
) -> None:
    server.versions = ["1", "2"]
    assert "pets 1," in run("predict", images[0], "--key", KEY)[1]
    assert "pets 2," in run("predict", images[0], "--key", KEY, "--version", "2")[1]
    server.names = ["cats", "pets"]
    code, _, err = run("predict", images[0], "--key", KEY)
    assert (code, err.split("; ")[1]) == (1, "the server serves 2: cats, pets\n")


def test_predict_prints_one_json_object_per_image(
    run: Run, to_server: list[str], images: list[str]
) -> None:
    code, out, _ = run("predict", *images, "--key", KEY, "--model", "pets", "--json")
    assert code == 0
    first, second = map(json.loads, out.splitlines())
    assert first == {
        "image": images[0],
        "model": "pets",
        "version": "1",
        "scores": "log_prob",
        "classes": [
            {"index": 2, "label": "cat", "score": -0.467},
            {"index": 3, "label": "dog", "score": -0.985},
        ],
    }
    assert second["classes"][0]["label"] == "elk"


def test_predict_prints_labels_if_there_are_no_scores(
    run: Run, to_server: list[str], images: list[str], server: FakeServer
) -> None:
    server.form = "none"
    arguments = ["predict", images[0], "--key", KEY, "--model", "pets"]
    assert "cat" in run(*arguments)[1]
    assert json.loads(run(*arguments, "--json")[1])["classes"][0] == {"index": 2, "label": "cat"}


def test_url_and_key_come_from_the_environment(
    run: Run, to_server: list[str], images: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STINGY_KEY", KEY)
    monkeypatch.setenv("STINGY_URL", "http://other.test")
    assert run("predict", images[0], "--model", "pets")[0] == 0
    assert to_server == ["http://other.test"]
    assert KEY not in run("predict", "--help")[1]


def test_an_error_is_one_line_after_the_paid_answers(
    run: Run, to_server: list[str], images: list[str], server: FakeServer
) -> None:
    refusal = {"error": {"code": "budget_exhausted", "message": "The budget is used up."}}
    server.next = [None, None, httpx.Response(429, json=refusal)]
    code, out, err = run("predict", *images, "--key", KEY, "--model", "pets", "--json")
    assert code == 1
    assert json.loads(out)["image"] == images[0]
    assert err == "429 budget_exhausted: The budget is used up.\n"


def test_a_wrong_key_is_not_shown(run: Run, to_server: list[str], images: list[str]) -> None:
    code, out, err = run("predict", images[0], "--key", "sk-other", "--model", "pets")
    assert code == 1
    assert err.startswith("401 unauthenticated")
    assert "sk-other" not in out + err


def test_control_characters_of_a_server_are_replaced(
    run: Run, to_server: list[str], images: list[str], server: FakeServer
) -> None:
    server.labels[2] = "\x1b[31m[red]cat\n"
    _, out, _ = run("predict", images[0], "--key", KEY, "--model", "pets")
    assert "?[31m[red]cat?" in out
    server.next = [httpx.Response(500, json={"error": {"code": "x", "message": "\x1b[2J"}})]
    _, _, err = run("predict", images[0], "--key", KEY, "--model", "pets")
    assert err == "500 x: ?[2J\n"


def test_predict_prints_a_line_for_each_image_of_a_folder(
    run: Run, to_server: list[str], images: list[str], tmp_path: Path
) -> None:
    for name in (".hidden.png", "notes.txt"):
        (tmp_path / name).write_bytes(PNG)
    arguments = ["predict", str(tmp_path), "--key", KEY, "--model", "pets"]
    code, out, err = run(*arguments)
    lines = [f"{images[0]}: cat 0.627, dog 0.373", f"{images[1]}: elk 0.627, ant 0.373"]
    assert (code, out.splitlines(), err) == (0, lines, "")
    assert [
        json.loads(line)["image"] for line in run(*arguments, "--json")[1].splitlines()
    ] == images
    (tmp_path / "aa.JPG").write_bytes(b"GIF89a")  # it is named, and the others are classified
    code, out, err = run(*arguments)
    assert (code, out.splitlines()) == (1, lines)
    assert err.endswith("aa.JPG: expected a JPEG, PNG or WebP, got a GIF; convert it\n")


def test_predict_of_a_folder_without_images_says_so(
    run: Run, to_server: list[str], server: FakeServer, tmp_path: Path
) -> None:
    code, _, err = run("predict", str(tmp_path), "--key", KEY, "--model", "pets")
    assert (code, server.requests) == (1, [])
    assert "expected images in the folder" in err


def test_a_missing_file_costs_nothing(
    run: Run, to_server: list[str], server: FakeServer, tmp_path: Path
) -> None:
    code, _, err = run("predict", str(tmp_path / "none.png"), "--key", KEY, "--model", "pets")
    assert code == 1
    assert "none.png" in err
    assert server.requests == []


@pytest.mark.parametrize("left_out", ["--key", "IMAGE"])
def test_a_missing_argument_is_named(run: Run, left_out: str) -> None:
    given = {"--key": ["--key", KEY], "IMAGE": ["a.png"]}
    arguments = [word for name, words in given.items() if name != left_out for word in words]
    code, _, err = run("predict", *arguments)
    assert code == 2
    assert left_out in err


def test_version_prints_the_distributions_version(run: Run) -> None:
    assert run("--version") == (0, f"stingy {version('stingy')}\n", "")


def test_a_plugin_adds_commands(
    run: Run, points: list[EntryPoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin("stingy_fake", monkeypatch)
    points.append(ForeignPoint("more", "stingy_fake:app", "stingy.commands"))
    assert run("hello") == (0, "hello\n", "")
    assert {"hello", "broken", "predict"} <= set(run("--help")[1].split())


def test_a_command_that_lacks_a_module_names_its_extra(
    run: Run, points: list[EntryPoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin("stingy_fake", monkeypatch, missing="torch")
    points.append(OurPoint("server", "stingy_fake:app", "stingy.commands"))
    assert run("broken") == (2, "", "stingy broken needs: pip install 'stingy[server]'\n")
    assert run("hello") == (0, "hello\n", "")


@pytest.mark.parametrize("missing", ["stingy_server.nothing", "stingy_server", "torch.nothing"])
def test_a_missing_module_that_is_in_no_extra_is_raised(
    points: list[EntryPoint], monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    plugin("stingy_fake", monkeypatch, missing=missing)
    points.append(OurPoint("server", "stingy_fake:app", "stingy.commands"))
    monkeypatch.setattr(sys, "argv", ["stingy", "broken"])
    with pytest.raises(ModuleNotFoundError):
        cli.main()


def test_a_missing_module_of_a_foreign_command_is_raised(
    points: list[EntryPoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin("stingy_fake", monkeypatch, missing="torch")
    points.append(ForeignPoint("more", "stingy_fake:app", "stingy.commands"))
    monkeypatch.setattr(sys, "argv", ["stingy", "broken"])
    with pytest.raises(ModuleNotFoundError):
        cli.main()


@pytest.fixture
def without_extras(points: list[EntryPoint], tmp_path: Path, monkeypatch: Any) -> None:
    """Add both extras with modules that cannot be imported."""
    (tmp_path / "needs_extra.py").write_text("import a_module_that_an_extra_brings\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("audit", "server"):
        points.append(OurPoint(name, "needs_extra:app", "stingy.commands"))


@pytest.mark.usefixtures("without_extras")
def test_predict_works_without_extras(run: Run, to_server: list[str], images: list[str]) -> None:
    assert run("predict", images[0], "--key", KEY, "--model", "pets")[0] == 0


@pytest.mark.usefixtures("without_extras")
def test_help_names_the_missing_extras(run: Run) -> None:
    _, out, _ = run("--help")
    hint = "More commands: pip install 'stingy[audit]' or pip install 'stingy[server]'"
    assert hint in " ".join(out.split())


@pytest.mark.usefixtures("without_extras")
def test_a_command_of_a_missing_extra_names_the_extras(run: Run) -> None:
    hint = "pip install 'stingy[audit]' or pip install 'stingy[server]'"
    assert run("serve") == (2, "", f"stingy serve needs: {hint}\n")


def test_a_refused_image_is_named(
    run: Run, to_server: list[str], images: list[str], server: FakeServer
) -> None:
    refusal = {"error": {"code": "bad_image", "message": "The image could not be read."}}
    server.next = [None, httpx.Response(422, json=refusal)]
    code, _, err = run("predict", images[0], "--key", KEY, "--model", "pets")
    assert code == 1
    assert err == f"{images[0]}: 422 bad_image: The image could not be read.\n"


def test_usage_prints_every_limit_and_its_reset(
    run: Run, to_server: list[str], server: FakeServer
) -> None:
    server.charged = 12
    code, out, err = run("usage", "--key", KEY)
    assert (code, err) == (0, "")
    rows = [line.strip("│ ").replace("│", "").split() for line in out.splitlines() if "│" in line]
    assert rows == [
        ["all", "in", "all", "12", "500"],
        ["all", "day", "2026-11-27", "00:00", "7", "no", "limit"],
        ["all", "month", "2026-12-01", "00:00", "12", "1,000"],
        ["pets", "in", "all", "12", "20"],
    ]
    assert out.splitlines()[-1] == "key abcd1234: 488 images left now"
    document = json.loads(run("usage", "--key", KEY, "--json")[1])
    assert document["day"] == {"budget": None, "used": 7, "resets": "2026-11-27T00:00:00Z"}
    assert document["models"]["pets"]["remaining"] == 8


def test_refused_usage_is_one_line(run: Run, to_server: list[str]) -> None:
    code, out, err = run("usage", "--key", "sk-other")
    assert (code, out) == (1, "")
    assert err.startswith("401 unauthenticated")
