"""The settings of a server. They do not change after start-up."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from stingy_server.web_settings import Images, OidcSettings, Origins

ENV_PREFIX = "STINGY_"

# Every number has bounds. The upper ones are far above what a server can use, and keep sums and
# waits within what the operating system and the store can represent.
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Bytes = Annotated[int, Field(ge=1, le=2**40)]
Seconds = Annotated[float, Field(gt=0.0, le=86_400.0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Text = Annotated[str, Field(max_length=4096)]
Host = Annotated[str, Field(max_length=255, pattern=r"^[!-~]*$")]


def _check_path(path: Path) -> Path:
    if "\0" in str(path) or len(str(path)) > 4096:
        raise ValueError("expected a path of at most 4096 characters, got another")
    return path


def _check_overload(status: int) -> int:
    if status not in (429, 503):
        raise ValueError(f"expected 503 or 429, got {status}")
    return status


FilePath = Annotated[Path, AfterValidator(_check_path)]
OverloadStatus = Annotated[int, Field(ge=429, le=503), AfterValidator(_check_overload)]
LogFormat = Literal["text", "json"]


class TensorSettings(BaseModel):
    """The tensors of an upstream model server that speaks the Open Inference Protocol.

    Attributes:
        input: the name of its input tensor.
        datatype: UINT8 for pixels, [batch, height, width, 3]; FP32 for the output of the bundle's
            preprocessing, [batch, 3, height, width].
        logits: the name of the output with raw logits, to which this server applies the gate.
            Without it the upstream must answer with `indices` and `scores` under the policy.
        binary: whether tensors are sent in binary.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: str = "image"
    datatype: Literal["UINT8", "FP32"] = "UINT8"
    logits: str | None = None
    binary: bool = True


class ReplicaSettings(BaseModel):
    """The number of replicas of one kind on Ray, and the resources that each reserves.

    Attributes:
        min_replicas: the fewest replicas. Ray chooses their number by their load.
        max_replicas: the most replicas; None for `min_replicas`.
        num_cpus: processor cores that a replica reserves.
        num_gpus: GPUs that a replica reserves, also a part of one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_replicas: Count = 1
    max_replicas: Count | None = None
    num_cpus: float = Field(default=1.0, ge=0.0, le=4096.0, allow_inf_nan=False)
    num_gpus: float = Field(default=0.0, ge=0.0, le=4096.0, allow_inf_nan=False)

    @property
    def most(self) -> int:
        """The largest number of replicas."""
        return self.max_replicas or self.min_replicas

    @model_validator(mode="after")
    def _check_order(self) -> "ReplicaSettings":
        if self.most < self.min_replicas:
            raise ValueError(
                f"expected max_replicas of {self.min_replicas} or more, got {self.most}"
            )
        return self


class RaySettings(BaseModel):
    """The replicas that Ray Serve runs.

    Attributes:
        edge: replicas of the edge.
        model: replicas of each model that would otherwise run in the edge's process.
        max_queued: requests that an edge replica may have waiting for a model; more are refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    edge: ReplicaSettings = ReplicaSettings()
    model: ReplicaSettings = ReplicaSettings()
    max_queued: Count = 128


class ModelSettings(BaseModel):
    """One endpoint: a bundle with its name, policy, budget and engine.

    Budgets count images across all keys and versions. `share` is the fraction of keys routed to
    this version by default.

    Attributes:
        bundle: the folder of a bundle or an artefact.
        budget: images in all; None for no limit.
        budget_per_day: images in a day of UTC; None for no limit.
        budget_per_month: images in a month of UTC; None for no limit.
        engine: "embedded", or the kind of the upstream model server.
        url: the full address of the upstream's predictions.
        key_file: the file with TorchServe's key.
        tensors: the tensors of an OIP upstream.
        timeout_s: seconds after which a request to the upstream fails.
        passes: requests to the upstream at once. Further images wait and are sent as one batch.
        name: the name to serve it under; None for the bundle's own.
        policy: the policy to apply; None for the bundle's own.
        share: 0..1, of a version beside another; None for the rest of the keys.
        replicas: the replicas of this model on Ray; None for those of `ray.model`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: FilePath
    budget: Images | None = None
    budget_per_day: Images | None = None
    budget_per_month: Images | None = None
    engine: Literal["embedded", "torchserve", "oip"] = "embedded"
    url: str | None = Field(default=None, pattern=r"^https?://[^\s/@]+/[^\s?#]+$", max_length=4096)
    key_file: FilePath | None = None
    tensors: TensorSettings | None = None
    timeout_s: Seconds = 10.0
    passes: Count = 4
    name: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=128)
    policy: Text | None = None
    share: Share | None = None
    replicas: ReplicaSettings | None = None


class Tier(BaseModel):
    """The most that keys of a tier receive: fewer classes, a coarser grid, no scores.

    Attributes:
        classes: the most classes of an answer; None for the policy's number.
        decimals: the finest grid of the scores; None for the policy's grid.
        scores: "keep" them, replace them by their "rank", or send "none".
        mark: whether answers are marked, as after an alarm whose step is "mark".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: Count | None = None
    decimals: Annotated[int, Field(ge=0, le=6)] | None = None
    scores: Literal["keep", "rank", "none"] = "keep"
    mark: bool = False

    def fingerprint(self, policy: str) -> str:
        """Return the fingerprint of a policy under this tier.

        Marks are no part of it, so that a key cannot read whether its answers are marked.

        Args:
            policy: the fingerprint of the policy alone.
        """
        if self.model_copy(update={"mark": False}) == Tier():
            return policy
        named = f"{policy} {self.model_dump_json(exclude={'mark'})}"
        return hashlib.sha256(named.encode()).hexdigest()[:12]


Step = Literal["mark", "labels", "refuse"]
Ladder = Annotated[tuple[Step, ...], Field(max_length=16)]


class WatchSettings(BaseModel):
    """The alarm of the watch, and its effect on the answers of a key in alarm.

    Attributes:
        alarm: the score from which a key is in alarm, 0..1.
        then: the effect of an alarm. "nothing" records it in the ledger and the metrics. "mark"
            marks answers, so that a model trained from them is recognised. "labels" returns the
            top-1 alone, without scores. "refuse" rejects. A list escalates one step per alarm.
        images_per_s: images that are compared, in each process and for all keys together. The
            keys share them equally. The other images are only counted.
        max_unwatched: images of a key, in each process, that may be answered before the watch has
            looked at them; a request that would exceed it gets 429. None for no limit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    alarm: float = Field(default=0.9, gt=0.0, le=1.0, allow_inf_nan=False)
    then: Literal["nothing"] | Step | Ladder = "nothing"
    images_per_s: Count = 512
    max_unwatched: Count | None = None

    @property
    def ladder(self) -> tuple[str, ...]:
        """The steps of an alarm, in their order."""
        if isinstance(self.then, tuple):
            return self.then
        return () if self.then == "nothing" else (self.then,)


class MarkSettings(BaseModel):
    """The marks in the answers of keys in alarm, or of a tier with `mark`.

    Attributes:
        secret_file: the file with the secret of the marks, outside of the state folder.
        share: the share of a key's inputs that is marked. As many others are controls.
        runners_up: m, the number of classes after the best among which a mark is chosen.
        kept: marked inputs and controls that are kept as evidence, of all keys together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    secret_file: FilePath
    share: float = Field(default=0.005, gt=0.0, le=0.1, allow_inf_nan=False)
    runners_up: Annotated[int, Field(ge=1, le=100)] = 3
    kept: Count = 10_000


FULL_TIER = "full"

# Modules whose own functions every bundle may name to build its network.
OWN_FACTORIES = (
    "torchvision.models",
    "timm",
    "stingy_attacker_eval.students",
    "stingy_attacker_eval.zoo",
    "stingy_server.models.hugging_face",
)


class Settings(BaseSettings):
    """The settings of a server, as `create_app` takes them. They are frozen.

    Attributes:
        models: the endpoints. `name` and `policy` default to the bundle's own.
        tiers: the most that the keys of a tier receive. The tier "full" gets the policy's answer.
        state: the folder of keys, budgets and the pepper.
        store: a PostgreSQL for keys, budgets and ledger in place of `state`, for several hosts.
        grpc_port: the port of the Open Inference Protocol over gRPC on `host`, or None.
        tls_cert: the certificate chain of the server, in PEM; None for plain HTTP.
        tls_key: the key of the certificate, in PEM, without a passphrase.
        cors_origins: the origins whose pages may query the server from a browser.
        oidc: the tokens of an identity provider that are accepted beside keys; None for keys alone.
        allow_open: whether a policy that lets all logits out may be served.
        runtime: the runtime of the network. "auto" measures those of the CPU and takes the fastest.
            "cuda_graphs" is torch on CUDA, with one launch for each pass.
        strict: run every forward pass at one padded batch shape. The other images of a batch then
            cannot move an answer even by one step of the grid.
        batch_size: images in one forward pass.
        max_delay_ms: milliseconds that a forward pass may wait for more images.
        queue_images: images that may wait or run at once; more are refused with 503.
        queue_bytes: bytes of images that may wait or run at once; more are refused with 503.
        max_held_bytes: bytes of the bodies of all requests at once; more are refused with 503.
        max_concurrency: requests at once; more are refused with 503.
        share: what a key, or one of several models, may hold of places, body memory, decoders and
            queues, as a multiple of what is free. At 1.0 one key alone gets half.
        overload_status: the status of a refusal because there is no room, 503 or 429.
        request_rate: requests of a key in a period, unless the key has a rate of its own. Refused
            requests count.
        header_timeout_s: seconds allowed to receive a request's headers.
        body_timeout_s: seconds allowed to receive the body, and to read the response.
        deadline_s: seconds from a request's body to its answer.
        watch: the alarm for keys that look like they copy the model, and its effect.
        marks: the marks in answers; None if no answer is ever marked.
        workers: processes that serve. They share the state folder.
        rate_store: the store that counts rates: memory:// for one process, redis://... for several.
        log_format: text or json, one line a record.
        trace_endpoint: address of an OpenTelemetry collector that takes spans over HTTP, or None.
        trace_share: the fraction of the requests that have spans.
        metrics_port: the port of the metrics for Prometheus, apart from the public one, or None.
        webhook_url: the address that gets a POST when a budget is used to 80 or 95 %, or None.
        webhook_secret_file: the file with the secret that signs these POSTs.
        trusted_factories: modules whose functions a bundle may name to build its network. They are
            added to `OWN_FACTORIES`.
        first_key_budget: images in the budget of the key that the first start makes.
        ray: the replicas on Ray Serve, run by `stingy_server.ray_serve.app`.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    models: tuple[ModelSettings, ...] = ()
    tiers: dict[str, Tier] = {}
    state: FilePath = Path(".stingy")
    store: str | None = Field(
        default=None, pattern=r"^postgres(ql)?://", max_length=4096, repr=False
    )
    host: Host = "127.0.0.1"
    port: Port = 8080
    grpc_port: Port | None = None
    tls_cert: FilePath | None = None
    tls_key: FilePath | None = None
    cors_origins: Origins = ()
    oidc: OidcSettings | None = None
    allow_open: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    runtime: Literal["auto", "torch", "onnxruntime", "openvino", "cuda_graphs"] = "torch"
    strict: bool = False
    batch_size: Count = 64
    max_delay_ms: float = Field(default=0.0, ge=0.0, le=1000.0, allow_inf_nan=False)
    queue_images: Count = 2048
    queue_bytes: Bytes = 512 * 2**20
    max_request_images: Count = 256
    max_body_bytes: Bytes = 40 * 2**20
    max_held_bytes: Bytes = 2**30
    max_pixels: Annotated[int, Field(ge=1, le=2**32)] = 2**24
    max_concurrency: Count = 256
    share: float = Field(default=1.0, gt=0.0, le=1000.0, allow_inf_nan=False)
    overload_status: OverloadStatus = 503
    request_rate: Text = "1000/second"
    header_timeout_s: Seconds = 10.0
    body_timeout_s: Seconds = 30.0
    deadline_s: Seconds = 30.0
    drain_s: Seconds = 30.0
    first_key_budget: Images = 10_000
    watch: WatchSettings = WatchSettings()
    marks: MarkSettings | None = None
    workers: Annotated[int, Field(ge=1, le=1024)] = 1
    ray: RaySettings = RaySettings()
    rate_store: Text = "memory://"
    log_format: LogFormat = "text"
    trace_endpoint: str | None = Field(default=None, pattern=r"^https?://", max_length=4096)
    trace_share: Share = 0.01
    metrics_port: Port | None = None
    metrics_host: Host = "127.0.0.1"
    webhook_url: str | None = Field(
        default=None, pattern=r"^https?://[^\s]+$", max_length=4096, repr=False
    )
    webhook_secret_file: FilePath | None = None
    trusted_factories: tuple[str, ...] = OWN_FACTORIES

    @property
    def may_mark(self) -> bool:
        """True if an alarm or a tier marks answers."""
        return "mark" in self.watch.ladder or any(tier.mark for tier in self.tiers.values())

    @field_validator("tiers")
    @classmethod
    def _reserve_full(cls, tiers: dict[str, Tier]) -> dict[str, Tier]:
        if FULL_TIER in tiers:
            raise ValueError(
                f"expected tier names other than {FULL_TIER}, got {FULL_TIER}; "
                "its keys always get the policy's whole answer"
            )
        return tiers

    @field_validator("trusted_factories")
    @classmethod
    def _extend_factories(cls, modules: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*OWN_FACTORIES, *modules)))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # `load_settings` merges the sources, so that all their faults are reported at once.
        return (init_settings,)


def misplaced_settings(model: ModelSettings) -> Iterator[str]:
    """Yield a fault for each setting that a model's engine lacks or does not take."""
    if (model.url is None) != (model.engine == "embedded"):
        count = "none" if model.url is None else "one"
        expected = "no url" if model.engine == "embedded" else "a url"
        yield f"expected {expected} for the engine {model.engine}, got {count}"
    if model.key_file is not None and model.engine != "torchserve":
        yield f"expected no key_file for the engine {model.engine}, got one"
    if model.tensors is not None and model.engine != "oip":
        yield f"expected no tensors for the engine {model.engine}, got some"
