"""Whatever runs the model, an audit buys the same transfer set: byte for byte."""

from contextlib import closing
from pathlib import Path

import pytest

from buying import COUNT, bought_digits
from model_servers import mlserver, needs_mlserver, needs_torchserve, torchserve
from serving import make_bundle, make_key, served
from stingy_server import Database, Keys

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(
        tmp_path_factory.mktemp("bundles") / "digits",
        factory="sample_networks:convolutional",
        policy="stingy:n=3",
        gain=3.0,
    )


@pytest.fixture(scope="module")
def embedded(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return bought(tmp_path_factory.mktemp("embedded"), bundle)


def bought(folder: Path, bundle: Path, **model: object) -> dict[str, bytes]:
    """The files of a transfer set of digits, bought from an edge with this engine."""
    settings = [f"{name} = {value}" for name, value in model.items()]
    (folder / "stingy.toml").write_text(
        "\n".join(["[[models]]", f'bundle = "{bundle}"', *settings]), "utf-8"
    )
    state = folder / "state"
    key = make_key(state, budget=1000)
    with served("--config", folder / "stingy.toml", state=state, OMP_NUM_THREADS="1") as (url, _):
        files = bought_digits(url, key, folder / "bought")
    with closing(Database(state)) as database:
        ((_, budget),) = Keys(database).all()
        assert budget.used == COUNT + 1
    return files


@needs_torchserve()
def test_torchserve_answers_as_the_embedded_engine(
    tmp_path: Path, bundle: Path, embedded: dict[str, bytes]
) -> None:
    with torchserve(bundle) as server:
        got = bought(
            tmp_path,
            bundle,
            engine='"torchserve"',
            url=f'"{server.url}/predictions/digits"',
            key_file=f'"{server.key_file}"',
        )
    assert got == embedded


@needs_mlserver()
@pytest.mark.parametrize(
    ("runtime", "tensors"),
    [
        ("Gated", "{ binary = false }"),
        ("Logits", '{ datatype = "FP32", logits = "logits", binary = false }'),
    ],
)
def test_mlserver_answers_as_the_embedded_engine(
    tmp_path: Path, bundle: Path, embedded: dict[str, bytes], runtime: str, tensors: str
) -> None:
    with mlserver(bundle, runtime=runtime) as url:
        got = bought(tmp_path, bundle, engine='"oip"', url=f'"{url}/infer"', tensors=tensors)
    assert got == embedded
