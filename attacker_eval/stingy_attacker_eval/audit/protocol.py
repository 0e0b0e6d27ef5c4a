"""The protocol of an audit, read from TOML; a protocol that loads can be run to its end."""

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
MAX_FILE_BYTES = 2**20


class AttackEntry(Document):
    """An attack by name, with the settings that differ from the default."""

    model_config = ConfigDict(extra="allow")

    name: str

    def build(self) -> tuple[Attack, ...]:
        """Build the attack, or one attack for each point of its grid.

        Raises AttackError if the name or a setting is not known.
        """
        return build_attacks(self.name, self.__pydantic_extra__ or {})


def _as_table(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


_Attacks = tuple[Annotated[AttackEntry, BeforeValidator(_as_table)], ...]


class EndpointEntry(Document):
    """One model on the server, with the report's name for its defence.

    students, attacks: those of this endpoint only, beside the protocol's.
    bundle, policy: the parts from which a lab of its own builds this endpoint. A deployed endpoint
        is audited as it is.
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
    """An audit's settings.

    images, epochs, ...: those of the attacker; teachers have their own.
    budget: the most images that one endpoint may be sent.
    budgets: smaller numbers of images to try as well, for attacks on answers bought once and for
        the baseline. They cost no further queries.
    """

    title: Annotated[str, Field(min_length=1)]
    dataset: str
    budget: Annotated[int, Field(gt=0, le=2**62)]
    endpoints: Annotated[tuple[EndpointEntry, ...], Field(min_length=1)]
    attacks: Annotated[_Attacks, Field(min_length=1)]
    students: Annotated[tuple[str, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(min_length=1)]
    teachers: tuple[TeacherEntry, ...] = ()
    budgets: tuple[Annotated[int, Field(gt=0, le=2**62)], ...] = ()

    @property
    def variants(self) -> tuple[Attack, ...]:
        """The attacks on every endpoint, grids expanded."""
        return tuple(attack for entry in self.attacks for attack in entry.build())

    def variants_of(self, endpoint: EndpointEntry) -> tuple[Attack, ...]:
        """Return every attack on this endpoint."""
        return self.variants + endpoint.variants

    def students_of(self, endpoint: EndpointEntry | None) -> tuple[str, ...]:
        """Return the students of this endpoint; None is the baseline, which every student needs."""
        endpoints = self.endpoints if endpoint is None else (endpoint,)
        own = (name for item in endpoints for name in item.students)
        return tuple(dict.fromkeys((*self.students, *own)))

    def load(self) -> Dataset:
        """Load the data set as the attacker has it.

        If the protocol has budgets, the classes take turns. The first images are then spread
        evenly over the classes.

        Raises DatasetError if the data set cannot be loaded.
        """
        data = load_dataset(self.dataset)
        return data.subset(len(data.train_x) if self.budgets and not self.images else self.images)

    @field_validator("dataset")
    @classmethod
    def _check_dataset(cls, name: str, info: ValidationInfo) -> str:
        try:
            _shared_data(info)["data"] = load_dataset(name)
        except EvalError as error:
            raise ValueError(str(error)) from None
        return name

    @field_validator("endpoints")
    @classmethod
    def _check_endpoints(cls, endpoints: tuple[EndpointEntry, ...]) -> tuple[EndpointEntry, ...]:
        names = [endpoint.name for endpoint in endpoints]
        faults = _repetition_faults("endpoint", names)
        if NO_ENDPOINT in names:
            faults.append(f'expected an endpoint name other than "{NO_ENDPOINT}", the baseline\'s')
        faults += _network_faults(name for endpoint in endpoints for name in endpoint.students)
        for endpoint in endpoints:
            faults += [f"{endpoint.name}: {fault}" for fault in _attack_faults(endpoint.attacks)]
        return _require_no_faults(endpoints, faults)

    @field_validator("attacks")
    @classmethod
    def _check_attacks(cls, entries: tuple[AttackEntry, ...]) -> tuple[AttackEntry, ...]:
        return _require_no_faults(entries, _attack_faults(entries))

    @field_validator("students")
    @classmethod
    def _check_students(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return _require_no_faults(
            names, [*_repetition_faults("student", names), *_network_faults(names)]
        )

    @field_validator("seeds")
    @classmethod
    def _check_seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        return _require_no_faults(seeds, _repetition_faults("seed", seeds))

    @field_validator("budgets")
    @classmethod
    def _check_budgets(cls, budgets: tuple[int, ...]) -> tuple[int, ...]:
        return _require_no_faults(budgets, _repetition_faults("budget", budgets))

    @field_validator("teachers")
    @classmethod
    def _check_teachers(cls, teachers: tuple[TeacherEntry, ...]) -> tuple[TeacherEntry, ...]:
        faults = _repetition_faults("teacher", [teacher.name for teacher in teachers])
        return _require_no_faults(
            teachers, [*faults, *_network_faults(teacher.network for teacher in teachers)]
        )

    @model_validator(mode="after")
    def _check_combination(self, info: ValidationInfo) -> Self:
        """Check fields against each other: images, networks, bundles, attacks and the budget."""
        data = _shared_data(info)["data"]
        sizes = [self.images, *(teacher.images for teacher in self.teachers)]
        faults = [
            f"expected at most {len(data.train_x)} images, as {self.dataset} has, got {size}"
            for size in sizes
            if size is not None and size > len(data.train_x)
        ]
        networks: list[tuple[str, int | None]] = [(name, None) for name in self.students_of(None)]
        networks += [(teacher.network, teacher.width) for teacher in self.teachers]
        for name, width in dict.fromkeys(networks):
            try:
                spec = student_spec(name).with_width(width)
                spec.check(data.num_classes, data.image_size)
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
        faults += _unmet_needs(attacks, [endpoint.name for endpoint in self.endpoints], data)
        owned = self.images or len(data.train_x)
        faults += [
            f"expected budgets below the {owned} images that students train on, got {budget}"
            for budget in self.budgets
            if budget >= owned
        ]
        needed = owned + len(data.test_x)
        if self.budget < needed:
            faults.append(
                f"expected a budget of at least {needed} images ({owned} to train on, "
                f"{len(data.test_x)} to compare), got {self.budget}"
            )
        return _require_no_faults(self, faults)


def parse_protocol(text: str) -> Protocol:
    """Parse a protocol from TOML, without a query.

    Raises ProtocolError, which names all faults, if it cannot be run.
    """
    try:
        return Protocol.model_validate(tomllib.loads(text), context={})
    except tomllib.TOMLDecodeError as error:
        raise ProtocolError(f"expected TOML, got a file that is not: {error}") from None
    except RecursionError:
        raise ProtocolError("expected TOML of shallow lists, got very deep ones") from None
    except ValidationError as error:
        raise ProtocolError(*(_fault_text(dict(item)) for item in error.errors())) from None
    except ValueError:  # a number of thousands of digits
        raise ProtocolError("expected TOML of short numbers, got a very long one") from None


def load_protocol(name: str) -> Protocol:
    """Load a packaged protocol by name ("digits"), or one from a path that ends in .toml.

    Raises ProtocolError if there is none, or if it cannot be run.
    """
    if name.endswith(".toml"):
        source = Path(name)
        if not source.is_file() or source.stat().st_size > MAX_FILE_BYTES:
            raise ProtocolError(
                f"expected a protocol file of at most {MAX_FILE_BYTES} bytes, got none at {name}"
            )
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


def _shared_data(info: ValidationInfo) -> dict[str, Dataset]:
    """Return the checks' shared data: the data set of one protocol, so that it is read once."""
    return cast("dict[str, Dataset]", info.context)


def _fault_text(item: dict[str, Any]) -> str:
    place = ".".join(str(part) for part in item["loc"])
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def _attack_faults(entries: Iterable[AttackEntry]) -> list[str]:
    faults, labels = [], []
    for entry in entries:
        if entry.name == NoApi.name:
            faults.append(f"{NoApi.name} is the baseline of every audit: take it off the list")
            continue
        try:
            labels += [attack.label for attack in entry.build()]
        except EvalError as error:
            faults.append(str(error))
    return faults + _repetition_faults("attack", labels)


def _unmet_needs(attacks: Iterable[Attack], names: list[str], data: Dataset) -> list[str]:
    """List what attacks name and the audit lacks: another endpoint, or a pool of images."""
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


def _repetition_faults(kind: str, values: Iterable[object]) -> list[str]:
    return [
        f'expected the {kind} "{v}" once, got it {n} times'
        for v, n in Counter(values).items()
        if n > 1
    ]


def _network_faults(networks: Iterable[str]) -> list[str]:
    faults = []
    for name in dict.fromkeys(networks):
        try:
            student_spec(name)
        except EvalError as error:
            faults.append(str(error))
    return faults


def _require_no_faults(value: T, faults: list[str]) -> T:
    if faults:
        raise ValueError("; ".join(faults))
    return value
