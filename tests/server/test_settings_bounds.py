"""P6: whatever stands in settings, manifests and policies, reading it ends in a fault and soon."""

import asyncio
import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import STINGY
from stingy_protection import (
    BundleError,
    Policy,
    PolicyConfigError,
    build_policy,
    parse_policy,
    read_manifest,
    verified_weights,
)
from stingy_protection.bundles.manifest import parse_manifest
from stingy_server import Settings, load_settings
from stingy_server.models.artefact import is_artefact, read_artefact
from stingy_server.upstream.http_client import Upstream, UpstreamError

pytestmark = pytest.mark.timeout(100)
HUGE = "1" + "0" * 400
DIGITS = "9" * 5000
DEEP = "[" * 100_000

MANIFEST: dict[str, Any] = {
    "name": "digits",
    "version": "1",
    "factory": "sample_networks:linear",
    "arguments": {"num_classes": 2},
    "classes": ["zero", "one"],
    "preprocessing": {"size": [8, 8], "mean": [0.0] * 3, "std": [1.0] * 3, "resize_shorter": 8},
    "policy": "label",
    "sha256": "0" * 64,
}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def faults_of(text: str) -> list[str]:
    Path("s.toml").write_text(text, encoding="utf-8")
    return load_settings(Path("s.toml"))[1]


@contextlib.contextmanager
def soon() -> Iterator[None]:
    """Check that a block takes less than a second of the processor."""
    start = time.process_time()
    yield
    assert time.process_time() - start < 1.0


def policy_of(text: str) -> Policy:
    name, options = parse_policy(text)
    return build_policy(name, num_classes=10, **options)


def number_schemas(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the schema of each number in the settings, of those within others too."""
    definitions = [("Settings", schema), *schema.get("$defs", {}).items()]
    for owner, definition in definitions:
        for name, field in definition.get("properties", {}).items():
            stack = [field]
            while stack:
                each = stack.pop()
                stack += each.get("anyOf", [])
                if each.get("type") in ("integer", "number"):
                    yield f"{owner}.{name}", each


def test_P6_every_number_of_the_settings_has_bounds() -> None:
    numbers = dict(number_schemas(Settings.model_json_schema()))
    assert len(numbers) > 30
    lower, upper = {"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}
    unbounded = {
        name
        for name, schema in numbers.items()
        if not (schema.keys() & lower and schema.keys() & upper)
    }
    assert not unbounded


@pytest.mark.parametrize("number", ["inf", "nan", "-inf", "1e300", HUGE, "-1"])
def test_P6_number_without_a_sane_size_is_a_fault(number: str) -> None:
    names = [
        *(name for name, field in Settings.model_fields.items() if field.annotation in (int, float))
    ]
    assert {"drain_s", "batch_size", "max_pixels", "trace_share", "port"} <= set(names)
    faults = faults_of("\n".join(f"{name} = {number}" for name in names))
    assert {fault.partition(":")[0] for fault in faults} == set(names)


BAD_SETTINGS = {
    "an infinite drain": "drain_s = inf",
    "a huge budget": f"[[models]]\nbundle = 'a'\nbudget = {HUGE}",
    "an infinite timeout": "[[models]]\nbundle = 'a'\ntimeout_s = inf",
    "a share that is no number": "[[models]]\nbundle = 'a'\nshare = nan",
    "infinite replicas": "[ray.model]\nnum_gpus = inf",
    "thousands of digits": f"port = {DIGITS}",
    "very deep lists": f"models = {DEEP}",
    "deep lists": "models = " + "[" * 900 + "]" * 900,
    "a null character in a path": 'state = "a\\u0000b"',
    "a path of a megabyte": f"state = '{'a' * 1_000_000}'",
    "a long ladder": "[watch]\nthen = [" + '"labels",' * 1000 + "]",
    "a long policy": f"[[models]]\nbundle = 'a'\npolicy = '{'a' * 10_000}'",
    "a host with a null character": 'host = "a\\u0000b"',
    "a large file": "#" * 2**21,
}


@pytest.mark.parametrize("kind", BAD_SETTINGS)
def test_P6_setting_that_cannot_be_is_a_fault(kind: str) -> None:
    faults = faults_of(BAD_SETTINGS[kind])
    assert faults
    assert all(len(fault) < 1000 and "\n" not in fault for fault in faults)


@pytest.mark.parametrize("value", [DEEP, f"[{DIGITS}]", "\udcff", "{"])
def test_P6_environment_that_cannot_be_read_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("STINGY_MODELS", value)
    assert load_settings()[1]


def write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


ODD_FILES: dict[str, Callable[[Path], object]] = {
    "fifo": os.mkfifo,
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
    "binary": write(b"\xff\xfe"),
    "deep": write(DEEP.encode()),
    "digits": write(f'{{"lists": [[{DIGITS}]]}}'.encode()),
}


@pytest.mark.parametrize("kind", ODD_FILES)
def test_P6_odd_file_in_place_of_a_text_is_a_fault(tmp_path: Path, kind: str) -> None:
    odd = tmp_path / "odd"
    ODD_FILES[kind](odd)
    assert len(load_settings(odd)[1]) == 1
    with pytest.raises(PolicyConfigError):
        build_policy("class_prototype", num_classes=2, n=1, lists=str(odd))
    url = "http://127.0.0.1:1/x"
    upstream = Upstream(url, ready_url=url, timeout_s=1.0, connections=1, key_file=odd)
    with pytest.raises(UpstreamError, match="key file"):
        asyncio.run(upstream.post(b"", {}, max_bytes=1))
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    ODD_FILES[kind](bundle / "model.json")
    assert not is_artefact(bundle)
    for read in (read_manifest, read_artefact):
        with pytest.raises(BundleError):
            read(bundle)


@pytest.mark.parametrize("kind", ["fifo", "endless device", "folder", "binary"])
def test_P6_odd_file_in_place_of_weights_is_a_fault(tmp_path: Path, kind: str) -> None:
    (tmp_path / "model.json").write_text(json.dumps(MANIFEST))
    ODD_FILES[kind](tmp_path / "weights.safetensors")
    with pytest.raises(BundleError):
        verified_weights(tmp_path, parse_manifest(json.dumps(MANIFEST)))


def manifest_with(old: str, new: str) -> str:
    text = json.dumps(MANIFEST)
    assert old in text
    return text.replace(old, new, 1)


BAD_MANIFESTS = {
    "a huge side": manifest_with("[8, 8]", f"[8, {HUGE}]"),
    "a side of a billion": manifest_with("[8, 8]", "[8, 1000000000]"),
    "a huge resize": manifest_with('"resize_shorter": 8', f'"resize_shorter": {HUGE}'),
    "a huge mean": manifest_with("[0.0, 0.0", f"[{HUGE}, 0.0"),
    "an infinite mean": manifest_with("[0.0, 0.0", "[1e999, 0.0"),
    "a tiny std": manifest_with("[1.0, 1.0", "[1e-320, 1.0"),
    "a huge std": manifest_with("[1.0, 1.0", f"[{HUGE}, 1.0"),
    "a huge argument": manifest_with('"num_classes": 2', f'"num_classes": {HUGE}'),
    "thousands of digits": manifest_with("[8, 8]", f"[8, {DIGITS}]"),
    "deep arguments": manifest_with('"num_classes": 2', '"a": ' + "[" * 900 + "]" * 900),
    "arguments deeper than 8": manifest_with('"num_classes": 2', '"a": ' + "[" * 9 + "]" * 9),
    "many arguments": manifest_with('"num_classes": 2', '"a": ' + str([0] * 20_000)),
    "very deep": DEEP,
    "half a character": manifest_with('"one"', '"\\ud800"'),
    "a long label": manifest_with('"one"', f'"{"a" * 2000}"'),
    "a long name": manifest_with('"digits"', f'"{"a" * 2000}"'),
    "a long version": manifest_with('"version": "1"', f'"version": "{"1" * 2000}"'),
    "a long factory": manifest_with("sample_networks", "a" * 2000),
    "a long policy": manifest_with('"label"', f'"{"a" * 10_000}"'),
    "a ratio with a huge exponent": manifest_with('"label"', '"stingy:ratio=1e-999999999"'),
}


@pytest.mark.parametrize("kind", BAD_MANIFESTS)
def test_P6_manifest_beyond_the_bounds_is_a_fault(kind: str) -> None:
    parse_manifest(json.dumps(MANIFEST))
    with pytest.raises(BundleError) as error:
        parse_manifest(BAD_MANIFESTS[kind])
    assert all(len(fault) < 1000 and "\n" not in fault for fault in error.value.faults)


def test_P6_arguments_of_8_nested_lists_are_valid() -> None:
    nested = manifest_with('"num_classes": 2', '"a": ' + "[" * 8 + "1" + "]" * 8)
    assert "a" in parse_manifest(nested).arguments


@pytest.mark.parametrize(
    "text",
    [
        "stingy:ratio=1e-999999999",
        "stingy:ratio=1e999999999",
        "stingy:ratio=1E-1000",
        "stingy:ratio=1/0",
        f"stingy:ratio=0.{'1' * 3000}",
        f"stingy:ratio=1e{DIGITS[:3000]}",
        f"stingy:n={DIGITS[:3000]}",
        f"stingy:n={'1' * 400}",
        "keyed_noise:n=2,sigma=1e300",
        "keyed_noise:n=2,sigma=inf",
        "keyed_noise:n=2,sigma=nan",
        "modelguard_w:eps=nan",
        "reverse_sigmoid:beta=inf",
        "ranked_buckets:n=2,buckets=99999999999",
        "class_prototype:n=2,lists=a\0b",
        f"class_prototype:n=2,lists={'a' * 4000}",
        "stingy:" + ",".join(["n=1"] * 2000),
    ],
)
def test_P6_policy_text_beyond_the_bounds_is_a_fault(text: str) -> None:
    with pytest.raises(PolicyConfigError):
        policy_of(text)


def test_P4_ratio_of_a_small_exponent_stays_exact() -> None:
    for ratio, expected in (("29e-2", 29), ("0.29", 29), ("29/100", 29), ("1e-99", 1)):
        assert build_policy("stingy", num_classes=100, ratio=ratio).support == expected


SOUP = st.text(alphabet='0123456789eE+-./_:=,[]{}"\\ \n#tfinae\0\ud800\u00e9', max_size=80)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


def toml_of(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml_of(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_of, value)) + "]"
    return "0x0" if value is None else json.dumps(value).replace("Infinity", "inf").lower()


@given(name=st.sampled_from(sorted(Settings.model_fields)), value=VALUES, soup=SOUP)
@settings(max_examples=200)
def test_P6_any_settings_text_is_valid_or_a_fault(name: str, value: Any, soup: str) -> None:
    for text in (f"{name} = {toml_of(value)}", f"{name} = {soup}", soup):
        Path("s.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
        with soon():
            found, faults = load_settings(Path("s.toml"))
        assert isinstance(found, Settings)
        assert all(fault and "\n" not in fault.replace(soup, "") for fault in faults)


@given(field=st.sampled_from([*MANIFEST, *MANIFEST["preprocessing"]]), value=VALUES, soup=SOUP)
@settings(max_examples=200)
def test_P6_any_manifest_text_is_valid_or_a_fault(field: str, value: Any, soup: str) -> None:
    image = {**MANIFEST["preprocessing"], field: value}
    documents = [{**MANIFEST, field: value}, {**MANIFEST, "preprocessing": image}]
    for text in (*map(json.dumps, documents), soup):
        with soon(), contextlib.suppress(BundleError):
            assert parse_manifest(text).classes


OPTIONS = ("n", "ratio", "scores", "decimals", "sigma", "eps", "beta", "buckets", "lists")


@given(
    name=st.sampled_from(["stingy", "keyed_noise", "ranked_buckets", "class_prototype", "rounded"]),
    option=st.sampled_from(OPTIONS),
    value=SOUP | st.from_regex(r"-?[0-9]{1,30}(\.[0-9]{0,9})?([eE]-?[0-9]{1,12})?", fullmatch=True),
)
@settings(max_examples=200)
def test_P6_any_policy_text_is_valid_or_a_fault(name: str, option: str, value: str) -> None:
    with soon(), contextlib.suppress(PolicyConfigError):
        assert policy_of(f"{name}:{option}={value}").name == name


COMMANDS = {
    "a fifo as settings": ("serve", "--config", "fifo"),
    "a fifo as manifest": ("bundle", "show", "bundle"),
    "an endless key": ("keys", "create", "x", "--days", "99999999999"),
    "a huge number of lines": ("ledger", "tail", "-n", "9" * 30),
    "a huge entry": ("ledger", "export", "--after", "9" * 30),
    "a share that is no number": ("models", "share", "a", "1", "nan"),
    "a negative port": ("serve", "bundle", "--port", "-1", "--host", "a" * 70_000),
}


@pytest.mark.parametrize("kind", COMMANDS)
def test_P6_command_with_a_fault_ends_with_status_2(tmp_path: Path, kind: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "bundle").mkdir()
    os.mkfifo(tmp_path / "bundle" / "model.json")
    done = subprocess.run(
        [*STINGY, *COMMANDS[kind]], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
