"""Settings from flags, environment and `stingy.toml`, in this order of precedence.

Nothing here changes after start-up. Every fault is collected, none is the only one reported.
"""

import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

ENV_PREFIX = "STINGY_"
CLIENT_VARIABLES = {"STINGY_URL", "STINGY_KEY"}  # the client's own, not settings of the server
DEFAULT_FILE = Path("stingy.toml")

Count = Annotated[int, Field(ge=1)]
LogFormat = Literal["text", "json"]


class TensorSettings(BaseModel):
    """How a model server elsewhere is asked over the Open Inference Protocol.

    `input`, `datatype`: the tensor it takes: pixels, UINT8 [batch, height, width, 3], or FP32
    [batch, 3, height, width], as the bundle's preprocessing makes them. `logits`: the output with
    raw logits, for the gate here; without it the server must answer with `indices` and `scores`
    under the policy. `binary`: whether tensors travel in binary.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: str = "image"
    datatype: Literal["UINT8", "FP32"] = "UINT8"
    logits: str | None = None
    binary: bool = True


class ReplicaSettings(BaseModel):
    """How many replicas of a kind Ray keeps, by their load, and what each of them reserves.

    `max_replicas` is `min_replicas` where it is not given. Of a GPU a replica may reserve a part.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_replicas: Count = 1
    max_replicas: Count | None = None
    num_cpus: float = Field(default=1.0, ge=0.0)
    num_gpus: float = Field(default=0.0, ge=0.0)

    @property
    def most(self) -> int:
        return self.max_replicas or self.min_replicas

    @model_validator(mode="after")
    def _ordered(self) -> "ReplicaSettings":
        if self.most < self.min_replicas:
            raise ValueError(
                f"expected max_replicas of {self.min_replicas} or more, got {self.most}"
            )
        return self


class RaySettings(BaseModel):
    """What Ray Serve runs: replicas of the edge, and of each model that would run in its process.

    `max_queued`: how many requests an edge replica may have waiting for a model; more are refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    edge: ReplicaSettings = ReplicaSettings()
    model: ReplicaSettings = ReplicaSettings()
    max_queued: Count = 128


class ModelSettings(BaseModel):
    """One endpoint: a bundle, the name it is served under, its policy, its budget, its engine.

    The budgets, in images, are of all keys together, and of all versions of the model. `share`, of
    a version beside another, is the share of keys that meet it when they name no version. Where
    the model runs elsewhere, `url` is the full address of its predictions, `key_file` TorchServe's,
    `tensors` an OIP server's, `timeout_s` the seconds until it is given up, and `passes` how many
    requests it is asked at once: what comes meanwhile waits, and goes together. `replicas` are
    those of this model on Ray.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: Path
    budget: Count | None = None
    budget_per_day: Count | None = None
    engine: Literal["embedded", "torchserve", "oip"] = "embedded"
    url: str | None = Field(default=None, pattern=r"^https?://[^\s/@]+/[^\s?#]+$")
    key_file: Path | None = None
    tensors: TensorSettings | None = None
    timeout_s: float = Field(default=10.0, gt=0.0)
    passes: Count = 4
    name: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9._-]*$")
    policy: str | None = None
    share: float | None = Field(default=None, ge=0.0, le=1.0)
    replicas: ReplicaSettings | None = None


class Tier(BaseModel):
    """What a key of this tier may see at most: fewer classes, a coarser grid, no scores."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: Count | None = None
    decimals: Annotated[int, Field(ge=0, le=6)] | None = None
    scores: Literal["keep", "rank", "none"] = "keep"


class WatchSettings(BaseModel):
    """From which score on a key is in alarm, and what then becomes of its answers.

    `then`: "labels" leaves its top-1 without scores, "refuse" nothing; a list is a ladder, climbed
    by a step an alarm; "nothing" tells the ledger and the metrics alone.
    `images_per_s`: how many are looked at, in each process and of all keys together; the others
    are only counted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    alarm: float = Field(default=0.9, gt=0.0, le=1.0)
    then: Literal["nothing", "labels", "refuse"] | tuple[Literal["labels", "refuse"], ...] = (
        "nothing"
    )
    images_per_s: Count = 512

    @property
    def ladder(self) -> tuple[str, ...]:
        """The steps one after the other."""
        if isinstance(self.then, tuple):
            return self.then
        return () if self.then == "nothing" else (self.then,)


FULL_TIER = "full"


class Settings(BaseSettings):
    """Everything `create_app` needs to know; frozen.

    Attributes:
        models: the endpoints. `name` and `policy` default to the bundle's own.
        tiers: what the keys of a tier may see at most; the tier "full" sees the policy's answer.
        state: the folder of keys, budgets and the pepper.
        store: where keys, budgets and ledger are instead, for several hosts: a PostgreSQL.
        allow_open: whether a policy that lets all logits out may be served at all.
        runtime: what runs the network on the CPU; "auto" measures and takes the fastest.
        strict: run every forward pass at one padded batch shape, so that no batch mate can
            move an answer even by one step of the grid.
        batch_size: images in one forward pass.
        max_delay_ms: how long a forward pass may wait for company.
        queue_images, queue_bytes: what may wait or run at once; more is refused with 503.
        max_held_bytes: bytes of the bodies of all requests at once; more are refused with 503.
        max_concurrency: requests at once; more are refused with 503.
        header_timeout_s, body_timeout_s: seconds a request's head and body may take to arrive;
            the latter also those that a client may leave an answer untaken.
        deadline_s: seconds from a request's body to its answer.
        watch: which keys look like they copy the model, and what then becomes of their answers.
        workers: processes that serve; they share the state folder.
        rate_store: where rates are counted: memory:// for one process, redis://... for several.
        log_format: text or json, a line a record.
        trace_endpoint: where an OpenTelemetry collector takes spans over HTTP; None for nowhere.
        trace_share: of all requests, how many have spans.
        metrics_port: where Prometheus may ask, apart from the public port; None for nowhere.
        trusted_factories: modules a bundle may name as the home of its network.
        first_key_budget: images the key made at the first start may ask.
        ray: what is run on Ray Serve, by `stingy_server.ray_serve.app`.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    models: tuple[ModelSettings, ...] = ()
    tiers: dict[str, Tier] = {}
    state: Path = Path(".stingy")
    store: str | None = Field(default=None, pattern=r"^postgres(ql)?://", repr=False)
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    allow_open: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    runtime: Literal["auto", "torch", "onnxruntime", "openvino"] = "torch"
    strict: bool = False
    batch_size: Count = 64
    max_delay_ms: float = Field(default=0.0, ge=0.0, le=1000.0)
    queue_images: Count = 1024
    queue_bytes: Count = 256 * 2**20
    max_request_images: Count = 256
    max_body_bytes: Count = 40 * 2**20
    max_held_bytes: Count = 2**30
    max_pixels: Count = 2**24
    max_concurrency: Count = 256
    header_timeout_s: float = Field(default=10.0, gt=0.0)
    body_timeout_s: float = Field(default=30.0, gt=0.0)
    deadline_s: float = Field(default=30.0, gt=0.0)
    drain_s: float = Field(default=30.0, gt=0.0)
    first_key_budget: Count = 10_000
    watch: WatchSettings = WatchSettings()
    workers: Count = 1
    ray: RaySettings = RaySettings()
    rate_store: str = "memory://"
    log_format: LogFormat = "text"
    trace_endpoint: str | None = Field(default=None, pattern=r"^https?://")
    trace_share: float = Field(default=0.01, ge=0.0, le=1.0)
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    metrics_host: str = "127.0.0.1"
    trusted_factories: tuple[str, ...] = (
        "torchvision.models",
        "timm",
        "stingy_attacker_eval.students",
        "stingy_attacker_eval.zoo",
    )

    @field_validator("tiers")
    @classmethod
    def _reserve_full(cls, tiers: dict[str, Tier]) -> dict[str, Tier]:
        if FULL_TIER in tiers:
            raise ValueError(
                f"expected other names than {FULL_TIER}: it sees what the policy lets out"
            )
        return tiers

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # The sources are merged in `load_settings`, where their faults can be told together.
        return (init_settings,)


def misplaced_settings(model: ModelSettings) -> Iterator[str]:
    """What the engine of a model needs and has not, or has and does not take."""
    if (model.url is None) != (model.engine == "embedded"):
        given = "none" if model.url is None else "one"
        wanted = "no url" if model.engine == "embedded" else "a url"
        yield f"expected {wanted} for the engine {model.engine}, got {given}"
    if model.key_file is not None and model.engine != "torchserve":
        yield f"expected no key_file for the engine {model.engine}, got one"
    if model.tensors is not None and model.engine != "oip":
        yield f"expected no tensors for the engine {model.engine}, got some"


def load_settings(config: Path | None = None, **flags: Any) -> tuple[Settings, list[str]]:
    """The settings, with faulty ones left at their defaults, and the list of faults.

    Args:
        config: a TOML file; `stingy.toml` in the working directory is read if there is one.
        flags: what the command line gave; None means not given.
    """
    from_file, faults = _from_file(config)
    from_environment, found = _from_environment()
    faults += found
    given = from_file | from_environment
    given |= {name: value for name, value in flags.items() if value is not None}
    try:
        return Settings(**given), faults
    except ValidationError as error:
        faults += [_sentence(detail) for detail in error.errors(include_input=False)]
        sound = _without_faults(given, [detail["loc"] for detail in error.errors()])
    return Settings(**sound), faults


def _without_faults(given: dict[str, Any], places: list[tuple[Any, ...]]) -> dict[str, Any]:
    """What is left when faulty settings, and faulty models among the models, are taken away."""
    faulty_models = {place[1] for place in places if place[0] == "models" and len(place) > 1}
    faulty = {place[0] for place in places if not (place[0] == "models" and len(place) > 1)}
    sound = {name: value for name, value in given.items() if name not in faulty}
    if "models" in sound:
        models = enumerate(sound["models"])
        sound["models"] = [model for index, model in models if index not in faulty_models]
    return sound


def _from_file(config: Path | None) -> tuple[dict[str, Any], list[str]]:
    path = config or DEFAULT_FILE
    if config is None and not path.exists():
        return {}, []
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return {}, [f"{path}: expected a readable settings file"]
    except tomllib.TOMLDecodeError as error:
        return {}, [f"{path}: not valid TOML: {error}"]
    return _relative_to(path.parent, found), []


def _relative_to(folder: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Paths in a settings file are relative to that file, wherever the server is started."""
    if isinstance(found.get("state"), str):
        found["state"] = folder / found["state"]
    models = found.get("models")
    for model in models if isinstance(models, list) else []:
        for name in ("bundle", "key_file"):
            if isinstance(model, dict) and isinstance(model.get(name), str):
                model[name] = folder / model[name]
    return found


def _from_environment() -> tuple[dict[str, Any], list[str]]:
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields} | CLIENT_VARIABLES
    faults = [
        f"{name}: unknown setting in the environment"
        for name in sorted(os.environ)
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known
    ]
    try:
        return EnvSettingsSource(Settings)(), faults
    except SettingsError as error:
        return {}, [*faults, f"environment: {error}"]


def _sentence(detail: Any) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{where}: unknown setting"
    return f"{where}: {detail['msg']}"
