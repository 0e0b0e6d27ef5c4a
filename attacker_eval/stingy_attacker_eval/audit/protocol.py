"""What an audit runs, read from TOML; a protocol that loads can be run to its end."""

import tomllib
from collections import Counter
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, cast

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from stingy_attacker_eval.attacks import Attack, build_attacks
from stingy_attacker_eval.attacks.no_api import NoApi
from stingy_attacker_eval.datasets.datasets import Dataset, load_dataset
from stingy_attacker_eval.datasets.query_pools import is_pool_of, load_pool
from stingy_attacker_eval.errors import EvalError, ProtocolError
from stingy_attacker_eval.report_schema import Document, Name, Schedule, TeacherEntry
from stingy_attacker_eval.results import NO_ENDPOINT
from stingy_attacker_eval.students import student_spec

T = TypeVar("T")


class AttackEntry(Document):
    """An attack by name, with settings where they are not the default."""

    model_config = ConfigDict(extra="allow")

    name: str

    def build(self) -> tuple[Attack, ...]:
        """Raises AttackError."""
        return build_attacks(self.name, self.__pydantic_extra__ or {})


def _entry(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


_Attacks = tuple[Annotated[AttackEntry, BeforeValidator(_entry)], ...]


class EndpointEntry(Document):
    """One model on the server, and what stands in front of it in the report's words.

    students, attacks: those of this endpoint alone, beside the protocol's. bundle and policy: how
    a lab of its own makes this endpoint; a deployed one is what it is.
    """

    name: Name
    model: Annotated[str, Field(min_length=1)]
    defence: Annotated[str, Field(min_length=1)]
    students: tuple[str, ...] = ()
    attacks: _Attacks = ()
    bundle: Name | None = None
    policy: Annotated[str, Field(min_length=1)] | None = None

    @property
    def variants(self) -> tuple[Attack, ...]:
        """Its own attacks, grids expanded."""
        return tuple(attack for entry in self.attacks for attack in entry.build())


class Protocol(Schedule):
    """An audit's settings. `budget` counts the images one endpoint may be asked.

    images, epochs and so on are the attacker's; teachers have their own. budgets: fewer images to
    try as well, for attacks on answers bought once and for the baseline; nothing more is asked.
    """

    title: Annotated[str, Field(min_length=1)]
    dataset: str
    budget: Annotated[int, Field(gt=0)]
    endpoints: Annotated[tuple[EndpointEntry, ...], Field(min_length=1)]
    attacks: Annotated[_Attacks, Field(min_length=1)]
    students: Annotated[tuple[str, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    teachers: tuple[TeacherEntry, ...] = ()
    budgets: tuple[Annotated[int, Field(gt=0)], ...] = ()

    @property
    def variants(self) -> tuple[Attack, ...]:
        """The attacks on every endpoint, grids expanded."""
        return tuple(attack for entry in self.attacks for attack in entry.build())

    def variants_of(self, endpoint: EndpointEntry) -> tuple[Attack, ...]:
        """Every attack on this endpoint."""
        return self.variants + endpoint.variants

    def students_of(self, endpoint: EndpointEntry | None) -> tuple[str, ...]:
        """Who learns from this endpoint; None stands for the baseline, which everyone needs."""
        endpoints = self.endpoints if endpoint is None else (endpoint,)
        own = (name for item in endpoints for name in item.students)
        return tuple(dict.fromkeys((*self.students, *own)))

    def load(self) -> Dataset:
        """The data set as the attacker has it. Raises DatasetError.

        With budgets its classes take turns, so that the first images are of each class alike.
        """
        data = load_dataset(self.dataset)
        return data.subset(len(data.train_x) if self.budgets and not self.images else self.images)

    @field_validator("dataset")
    @classmethod
    def _loads(cls, name: str, info: ValidationInfo) -> str:
        try:
            _context(info)["data"] = load_dataset(name)
        except EvalError as error:
            raise ValueError(str(error)) from None
        return name

    @field_validator("endpoints")
    @classmethod
    def _endpoints(cls, endpoints: tuple[EndpointEntry, ...]) -> tuple[EndpointEntry, ...]:
        names = [endpoint.name for endpoint in endpoints]
        faults = _repeated("endpoint", names)
        if NO_ENDPOINT in names:
            faults.append(f'expected an endpoint name other than "{NO_ENDPOINT}", the baseline\'s')
        faults += _unknown(name for endpoint in endpoints for name in endpoint.students)
        for endpoint in endpoints:
            faults += [f"{endpoint.name}: {fault}" for fault in _attack_faults(endpoint.attacks)]
        return _sound(endpoints, faults)

    @field_validator("attacks")
    @classmethod
    def _attacks(cls, entries: tuple[AttackEntry, ...]) -> tuple[AttackEntry, ...]:
        return _sound(entries, _attack_faults(entries))

    @field_validator("students")
    @classmethod
    def _students(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return _sound(names, [*_repeated("student", names), *_unknown(names)])

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        return _sound(seeds, _repeated("seed", seeds))

    @field_validator("budgets")
    @classmethod
    def _budgets(cls, budgets: tuple[int, ...]) -> tuple[int, ...]:
        return _sound(budgets, _repeated("budget", budgets))

    @field_validator("teachers")
    @classmethod
    def _teachers(cls, teachers: tuple[TeacherEntry, ...]) -> tuple[TeacherEntry, ...]:
        faults = _repeated("teacher", [teacher.name for teacher in teachers])
        return _sound(teachers, [*faults, *_unknown(teacher.network for teacher in teachers)])

    @model_validator(mode="after")
    def _fits(self, info: ValidationInfo) -> Self:
        """What can be said only of all fields together: images, networks, bundles, the budget."""
        data = _context(info)["data"]
        sizes = [self.images, *(teacher.images for teacher in self.teachers)]
        faults = [
            f"expected at most {len(data.train_x)} images, as {self.dataset} has, got {size}"
            for size in sizes
            if size is not None and size > len(data.train_x)
        ]
        networks = (*self.students_of(None), *(teacher.network for teacher in self.teachers))
        for name in dict.fromkeys(networks):
            try:
                student_spec(name).check(data.num_classes, data.image_size)
            except EvalError as error:
                faults.append(str(error))
        known = {f"{t.name}-{kind}" for t in self.teachers for kind in ("normal", "nasty")}
        known -= {f"{teacher.name}-nasty" for teacher in self.teachers if not teacher.nasty}
        faults += [
            f"expected a bundle of the teachers for {endpoint.name}, got {endpoint.bundle}"
            for endpoint in self.endpoints
            if endpoint.bundle is not None and endpoint.bundle not in known
        ]
        common = {attack.label for attack in self.variants}
        faults += [
            f'expected the attack "{attack.label}" once for {endpoint.name}, got it twice'
            for endpoint in self.endpoints
            for attack in endpoint.variants
            if attack.label in common
        ]
        attacks = [*self.variants, *(own for each in self.endpoints for own in each.variants)]
        faults += _unmet(attacks, [endpoint.name for endpoint in self.endpoints], data)
        owned = self.images or len(data.train_x)
        faults += [
            f"expected budgets below the {owned} images there are to learn from, got {budget}"
            for budget in self.budgets
            if budget >= owned
        ]
        wanted = owned + len(data.test_x)
        if self.budget < wanted:
            faults.append(
                f"expected a budget of at least {wanted} images ({owned} to learn "
                f"from, {len(data.test_x)} to compare), got {self.budget}"
            )
        return _sound(self, faults)


def parse_protocol(text: str) -> Protocol:
    """TOML to a protocol. Raises ProtocolError naming all faults; no query is spent."""
    try:
        return Protocol.model_validate(tomllib.loads(text), context={})
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
        try:
            return parse_protocol(source.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            raise ProtocolError(f"expected TOML in UTF-8, got another file at {name}") from None
    folder = files("stingy_attacker_eval") / "protocols"
    packaged = {item.name.removesuffix(".toml"): item for item in folder.iterdir()}
    if name not in packaged:
        known = ", ".join(sorted(packaged))
        raise ProtocolError(f'expected a protocol out of {known} or a .toml path, got "{name}"')
    return parse_protocol(packaged[name].read_text())


def _context(info: ValidationInfo) -> dict[str, Dataset]:
    """Where the data set is between two checks of one protocol: it is read once."""
    return cast("dict[str, Dataset]", info.context)


def _fault(item: dict[str, Any]) -> str:
    place = ".".join(str(part) for part in item["loc"])
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def _attack_faults(entries: Iterable[AttackEntry]) -> list[str]:
    faults, labels = [], []
    for entry in entries:
        if entry.name == NoApi.name:
            faults.append(f"{NoApi.name} is the baseline of every audit, take it off the list")
            continue
        try:
            labels += [attack.label for attack in entry.build()]
        except EvalError as error:
            faults.append(str(error))
    return faults + _repeated("attack", labels)


def _unmet(attacks: Iterable[Attack], names: list[str], data: Dataset) -> list[str]:
    """What attacks name and the audit does not have: another endpoint, or a pool of images."""
    faults = []
    for attack in attacks:
        partner, pool = attack.partner_name(), attack.pool_name()
        if partner is not None and partner not in names:
            faults.append(
                f'expected a partner out of {", ".join(names)} for {attack.name}, got "{partner}"'
            )
        try:
            if pool is not None:
                load_pool(pool, count=1, size=data.image_size)
                if is_pool_of(pool, data):
                    faults.append(
                        f"{attack.label}: expected a pool of other images than the audit's, got "
                        f"its own {data.name}"
                    )
        except EvalError as error:
            faults.append(f"{attack.label}: {error}")
    return faults


def _repeated(kind: str, values: Iterable[object]) -> list[str]:
    return [
        f'expected the {kind} "{v}" once, got it {n} times'
        for v, n in Counter(values).items()
        if n > 1
    ]


def _unknown(networks: Iterable[str]) -> list[str]:
    faults = []
    for name in dict.fromkeys(networks):
        try:
            student_spec(name)
        except EvalError as error:
            faults.append(str(error))
    return faults


def _sound(value: T, faults: list[str]) -> T:
    if faults:
        raise ValueError("; ".join(faults))
    return value
