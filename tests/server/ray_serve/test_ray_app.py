"""Both sides of the boundary on Ray, without Ray between them. See tests/integration for Ray."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray.serve", reason="the package ray is not installed")

from sample_networks import NOT_A_NUMBER, POISON
from serving import make_bundle, make_settings, random_images
from stingy_protection import build_policy, read_manifest
from stingy_server import ConfigurationError, ServiceError
from stingy_server.identity import model_fingerprint
from stingy_server.ray_serve.app import Arguments, app
from stingy_server.ray_serve.engine import ModelReplica, RayEngine

pytestmark = pytest.mark.anyio
IMAGES = random_images(4)
N = 3
POLICY = f"stingy:n={N}"


class Handle:
    """A substitute for Ray's handle, which returns these replies one after the other."""

    def __init__(self, *replies: object) -> None:
        self._replies = iter(replies)
        self.predict = self.ready = self

    async def remote(self, *arguments: object) -> Any:
        reply = next(self._replies)
        if isinstance(reply, Exception):
            raise reply
        return reply


def engine(bundle: Path, *replies: object, policy: str = POLICY) -> RayEngine:
    manifest = read_manifest(bundle)
    name, _, options = policy.partition(":n=")
    built = build_policy(name, num_classes=len(manifest.classes), n=int(options))
    return RayEngine("digits", Handle(*replies), manifest=manifest, policy=built)


async def code(engine: RayEngine) -> str:
    with pytest.raises(ServiceError) as error:
        await engine.predict(IMAGES, caller="a")
    return error.value.refusal.code


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "digits", policy=POLICY)


async def test_L5_reply_size_does_not_grow_with_the_classes(tmp_path: Path) -> None:
    sizes = []
    for classes in (10, 1000):
        bundle = make_bundle(tmp_path / f"{classes}", policy=POLICY, num_classes=classes)
        replica = ModelReplica(make_settings(tmp_path / "state", bundle))
        reply = await replica.predict(IMAGES, caller="a")
        assert not isinstance(reply, str)
        assert reply[1].shape == (4, N)
        sizes.append(len(pickle.dumps(reply)))
    assert sizes[0] == sizes[1] < 800


async def test_edge_answers_as_the_embedded_engine(bundle: Path, tmp_path: Path) -> None:
    replica = ModelReplica(make_settings(tmp_path / "state", bundle))
    reply = await replica.predict(IMAGES, caller="a")
    embedded = (await replica._engine.predict(IMAGES, caller="a")).answer
    answer, _ = await engine(bundle, reply).predict(IMAGES, caller="a")
    assert answer.indices.equal(embedded.indices)
    assert answer.scores is not None
    assert embedded.scores is not None
    assert answer.scores.equal(embedded.scores)


@pytest.mark.parametrize(("pixel", "expected"), [(POISON, "internal"), (NOT_A_NUMBER, "refused")])
async def test_L4_failure_crosses_only_as_a_code(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, pixel: int, expected: str
) -> None:
    bundle = make_bundle(tmp_path / "f", factory="sample_networks:Fragile", policy=POLICY)
    images = IMAGES.copy()
    images[:, 0, 0] = pixel
    replica = ModelReplica(make_settings(tmp_path / "state", bundle))
    reply = await replica.predict(images, caller="a")
    assert reply == expected
    assert "cannot answer" not in caplog.text
    assert await code(engine(bundle, reply)) == expected


async def test_full_queue_of_the_model_is_overloaded_at_the_edge(
    bundle: Path, tmp_path: Path
) -> None:
    settings = make_settings(tmp_path / "state", bundle, queue_images=3)
    reply = await ModelReplica(settings).predict(IMAGES, caller="a")
    assert await code(engine(bundle, reply)) == "overloaded"


def answer(bundle: Path, *, n: int = N, rows: int = 4, policy: str = POLICY) -> tuple[Any, ...]:
    """Make a replica's reply whose n classes are equally likely."""
    indices = np.tile(np.arange(n), (rows, 1))
    scores = np.full((rows, n), np.round(-np.log(n), 3), np.float32)
    built = engine(bundle, policy=policy)
    return model_fingerprint(read_manifest(bundle), built._policy), indices, scores


async def test_U3_edge_returns_no_more_than_the_policy_allows(bundle: Path) -> None:
    assert len((await engine(bundle, answer(bundle)).predict(IMAGES, caller="a")).answer) == 4
    assert await code(engine(bundle, answer(bundle, n=N + 1))) == "refused"
    assert await code(engine(bundle, answer(bundle, rows=3))) == "refused"
    _, indices, _ = answer(bundle)
    raw = (answer(bundle)[0], indices, np.array([[5.5, 2.5, 1.5]] * 4, np.float32))
    assert await code(engine(bundle, raw)) == "refused"


async def test_answer_of_another_release_is_retried(bundle: Path) -> None:
    other, right = answer(bundle, n=2, policy="stingy:n=2"), answer(bundle)
    assert len((await engine(bundle, other, other, right).predict(IMAGES, caller="a")).answer) == 4
    assert await code(engine(bundle, other, other, other)) == "overloaded"


async def test_text_of_rays_errors_is_not_sent(
    bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from ray.exceptions import ActorUnavailableError, RayTaskError
    from ray.serve.exceptions import BackPressureError

    dead = ActorUnavailableError("a secret", None)
    assert (
        len((await engine(bundle, dead, dead, answer(bundle)).predict(IMAGES, caller="a")).answer)
        == 4
    )
    assert await code(engine(bundle, dead, dead, dead)) == "upstream_failed"
    assert await code(engine(bundle, BackPressureError(2, 1))) == "overloaded"
    failed = RayTaskError("predict", "a secret", ValueError("a secret"))
    assert await code(engine(bundle, failed)) == "upstream_failed"
    assert "a secret" not in caplog.text


def write_settings(folder: Path, text: str, bundle: Path, *, model: str = "") -> Arguments:
    (folder / "stingy.toml").write_text(f'{text}\n[[models]]\nbundle = "{bundle}"\n{model}\n')
    return Arguments(config=folder / "stingy.toml")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[ray.edge]\nmin_replicas = 2", "rate_store: expected a store that several workers"),
        ("[ray.edge]\nmax_replicas = 2", "rate_store: expected a store that several workers"),
        ("metrics_port = 9100", "metrics_port: expected none on Ray"),
        ('device = "cuda"', "expected num_gpus"),
        ("[ray.model]\nmin_replicas = 3\nmax_replicas = 2", "expected max_replicas of 3 or more"),
        ("workers = 0", "workers"),
    ],
)
def test_settings_that_ray_cannot_keep_are_refused(
    bundle: Path, tmp_path: Path, text: str, fault: str
) -> None:
    with pytest.raises(ConfigurationError, match=fault):
        app(write_settings(tmp_path, text, bundle))


def test_building_the_application_reads_no_weights(bundle: Path, tmp_path: Path) -> None:
    (bundle / "weights.safetensors").unlink()
    app(write_settings(tmp_path, "", bundle))
    with pytest.raises(ConfigurationError):
        ModelReplica(make_settings(tmp_path / "state", bundle))


def test_policy_with_noise_needs_the_pepper_of_the_edge(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", policy="keyed_noise")
    settings = make_settings(tmp_path / "state", bundle)
    with pytest.raises(ConfigurationError, match="expected a pepper"):
        ModelReplica(settings)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "pepper").write_bytes(bytes(32))
    ModelReplica(settings)


def test_each_model_reserves_the_resources_of_its_settings(bundle: Path, tmp_path: Path) -> None:
    for model, gpus, most in [
        ("", 0.25, 4),
        ("replicas = { num_gpus = 0.5, max_replicas = 2 }", 0.5, 2),
    ]:
        text = "[ray.model]\nnum_gpus = 0.25\nmax_replicas = 4\n"
        built = app(write_settings(tmp_path, text, bundle, model=model))
        (application,) = built._bound_deployment.init_args[1].values()
        deployed = application._bound_deployment
        assert deployed.name == "digits@1"
        assert deployed.ray_actor_options["num_gpus"] == gpus
        assert deployed._deployment_config.autoscaling_config.max_replicas == most
        (settings,) = deployed.init_args
        assert [each.bundle for each in settings.models] == [bundle]


async def test_U6_model_is_ready_if_a_replica_answers(
    bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from ray.exceptions import ActorUnavailableError
    from ray.serve.exceptions import BackPressureError

    assert await engine(bundle, True).ready()
    assert await engine(bundle, BackPressureError(2, 1)).ready()
    assert not await engine(bundle, ActorUnavailableError("a secret", None)).ready()
    assert "secret" not in caplog.text
