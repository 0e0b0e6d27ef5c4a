"""Settings from flags, environment and `stingy.toml`, in this order of precedence.

Nothing here changes after start-up. Every fault is collected, none is the only one reported.
"""

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
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


class ModelSettings(BaseModel):
    """One endpoint: a bundle, the name it is served under, and its policy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: Path
    name: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9._-]*$")
    policy: str | None = None


class Settings(BaseSettings):
    """Everything `create_app` needs to know; frozen.

    Attributes:
        models: the endpoints. `name` and `policy` default to the bundle's own.
        state: the folder of keys, budgets and the pepper.
        allow_open: whether a policy that lets all logits out may be served at all.
        strict: run every forward pass at one padded batch shape, so that no batch mate can
            move an answer even by one step of the grid.
        batch_size: images in one forward pass.
        max_delay_ms: how long a forward pass may wait for company.
        queue_images, queue_bytes: what may wait or run at once; more is refused with 503.
        deadline_s: seconds from reservation to answer.
        trusted_factories: modules a bundle may name as the home of its network.
        first_key_budget: images the key made at the first start may ask.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    models: tuple[ModelSettings, ...] = ()
    state: Path = Path(".stingy")
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    allow_open: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    strict: bool = False
    batch_size: Count = 64
    max_delay_ms: float = Field(default=0.0, ge=0.0, le=1000.0)
    queue_images: Count = 1024
    queue_bytes: Count = 256 * 2**20
    max_request_images: Count = 256
    max_body_bytes: Count = 40 * 2**20
    max_pixels: Count = 2**24
    deadline_s: float = Field(default=30.0, gt=0.0)
    drain_s: float = Field(default=30.0, gt=0.0)
    first_key_budget: Count = 10_000
    trusted_factories: tuple[str, ...] = (
        "torchvision.models",
        "timm",
        "stingy_attacker_eval.students",
    )

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


def load_settings(config: Path | None = None, **flags: Any) -> tuple[Settings, list[str]]:
    """The settings, with faulty ones left at their defaults, and the list of faults.

    Args:
        config: a TOML file; `stingy.toml` in the working directory is read if there is one.
        flags: what the command line gave; None means not given.
    """
    faults: list[str] = []
    given = _from_file(config, faults) | _from_environment(faults)
    given |= {name: value for name, value in flags.items() if value is not None}
    try:
        return Settings(**given), faults
    except ValidationError as error:
        faults += [_sentence(detail) for detail in error.errors(include_input=False)]
        faulty = {detail["loc"][0] for detail in error.errors()}
    sound = {name: value for name, value in given.items() if name not in faulty}
    return Settings(**sound), faults


def _from_file(config: Path | None, faults: list[str]) -> dict[str, Any]:
    path = config or DEFAULT_FILE
    if config is None and not path.exists():
        return {}
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        faults.append(f"{path}: expected a readable settings file")
        return {}
    except tomllib.TOMLDecodeError as error:
        faults.append(f"{path}: not valid TOML: {error}")
        return {}
    return _relative_to(path.parent, found)


def _relative_to(folder: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Paths in a settings file are relative to that file, wherever the server is started."""
    if isinstance(found.get("state"), str):
        found["state"] = folder / found["state"]
    models = found.get("models")
    for model in models if isinstance(models, list) else []:
        if isinstance(model, dict) and isinstance(model.get("bundle"), str):
            model["bundle"] = folder / model["bundle"]
    return found


def _from_environment(faults: list[str]) -> dict[str, Any]:
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields} | CLIENT_VARIABLES
    for name in sorted(os.environ):
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known:
            faults.append(f"{name}: unknown setting in the environment")
    try:
        return EnvSettingsSource(Settings)()
    except SettingsError as error:
        faults.append(f"environment: {error}")
        return {}


def _sentence(detail: Any) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{where}: unknown setting"
    return f"{where}: {detail['msg']}"
