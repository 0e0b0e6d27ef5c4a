"""What an audit runs, read from TOML; a protocol that loads can be run to its end."""

import tomllib
from collections import Counter
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from stingy_attacker_eval.attacks import Attack, build_attacks
from stingy_attacker_eval.attacks.no_api import NoApi
from stingy_attacker_eval.data import load_dataset
from stingy_attacker_eval.errors import EvalError, ProtocolError
from stingy_attacker_eval.students import student_spec
from stingy_attacker_eval.train import TrainSettings

T = TypeVar("T")

NO_ENDPOINT = "none"
"""The endpoint's name in rows of the no-API baseline."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Endpoint(_Part):
    """One model on the server, and what stands in front of it in the report's words."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    model: Annotated[str, Field(min_length=1)]
    defence: Annotated[str, Field(min_length=1)]


class AttackEntry(_Part):
    """An attack by name, with settings where they are not the default."""

    model_config = ConfigDict(extra="allow")

    name: str

    def build(self) -> tuple[Attack, ...]:
        """Raises AttackError."""
        return build_attacks(self.name, self.__pydantic_extra__ or {})


def _entry(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


class Protocol(_Part):
    """An audit's settings. `budget` counts the images one endpoint may be asked."""

    title: Annotated[str, Field(min_length=1)]
    dataset: str
    budget: Annotated[int, Field(gt=0)]
    endpoints: Annotated[tuple[Endpoint, ...], Field(min_length=1)]
    attacks: Annotated[
        tuple[Annotated[AttackEntry, BeforeValidator(_entry)], ...], Field(min_length=1)
    ]
    students: Annotated[tuple[str, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    epochs: Annotated[int, Field(gt=0)]
    batch: Annotated[int, Field(gt=1)] = 64
    lr: Annotated[float, Field(gt=0)] = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    augment: Annotated[int, Field(ge=0)] = 0

    @property
    def training(self) -> TrainSettings:
        return TrainSettings(
            epochs=self.epochs,
            batch=self.batch,
            lr=self.lr,
            weight_decay=self.weight_decay,
            augment=self.augment,
        )

    @property
    def variants(self) -> tuple[Attack, ...]:
        """Every attack to run, grids expanded."""
        return tuple(attack for entry in self.attacks for attack in entry.build())

    @field_validator("dataset")
    @classmethod
    def _loads(cls, name: str) -> str:
        try:
            load_dataset(name)
        except EvalError as error:
            raise ValueError(str(error)) from None
        return name

    @field_validator("endpoints")
    @classmethod
    def _endpoints(cls, endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
        names = [endpoint.name for endpoint in endpoints]
        faults = _repeated("endpoint", names)
        if NO_ENDPOINT in names:
            faults.append(f'expected an endpoint name other than "{NO_ENDPOINT}", the baseline\'s')
        return _sound(endpoints, faults)

    @field_validator("attacks")
    @classmethod
    def _attacks(cls, entries: tuple[AttackEntry, ...]) -> tuple[AttackEntry, ...]:
        faults, labels = [], []
        for entry in entries:
            if entry.name == NoApi.name:
                faults.append(f"{NoApi.name} is the baseline of every audit, take it off the list")
                continue
            try:
                labels += [attack.label for attack in entry.build()]
            except EvalError as error:
                faults.append(str(error))
        return _sound(entries, faults + _repeated("attack", labels))

    @field_validator("students")
    @classmethod
    def _students(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        faults = _repeated("student", names)
        for name in names:
            try:
                student_spec(name)
            except EvalError as error:
                faults.append(str(error))
        return _sound(names, faults)

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        return _sound(seeds, _repeated("seed", seeds))

    @model_validator(mode="after")
    def _affordable(self) -> Self:
        data = load_dataset(self.dataset)
        wanted = len(data.train_x) + len(data.test_x)
        if self.budget < wanted:
            raise ValueError(
                f"expected a budget of at least {wanted} images ({len(data.train_x)} to learn "
                f"from, {len(data.test_x)} to compare), got {self.budget}"
            )
        return self


def parse_protocol(text: str) -> Protocol:
    """TOML to a protocol. Raises ProtocolError naming all faults; no query is spent."""
    try:
        return Protocol.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ProtocolError(f"expected TOML, got a file that is not: {error}") from None
    except ValidationError as error:
        raise ProtocolError(*(_fault(dict(item)) for item in error.errors())) from None


def load_protocol(name: str) -> Protocol:
    """A packaged protocol by name ("digits") or one from a path ending in .toml."""
    if name.endswith(".toml"):
        source = Path(name)
        if not source.is_file():
            raise ProtocolError(f"expected a protocol file, got none at {name}")
        return parse_protocol(source.read_text())
    folder = files("stingy_attacker_eval") / "protocols"
    packaged = {item.name.removesuffix(".toml"): item for item in folder.iterdir()}
    if name not in packaged:
        known = ", ".join(sorted(packaged))
        raise ProtocolError(f'expected a protocol out of {known} or a .toml path, got "{name}"')
    return parse_protocol(packaged[name].read_text())


def _fault(item: dict[str, Any]) -> str:
    place = ".".join(str(part) for part in item["loc"])
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def _repeated(kind: str, values: Iterable[object]) -> list[str]:
    return [
        f'expected the {kind} "{v}" once, got it {n} times'
        for v, n in Counter(values).items()
        if n > 1
    ]


def _sound(value: T, faults: list[str]) -> T:
    if faults:
        raise ValueError("; ".join(faults))
    return value
