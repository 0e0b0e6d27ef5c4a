"""The protocol of an audit, read from TOML; a protocol that loads can be run to its end."""

import tomllib
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Self, cast

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
from stingy_attacker_eval.audit.attackers import BASELINES
from stingy_attacker_eval.audit.protocol_faults import (
    attacker_faults,
    idle_faults,
    network_faults,
    repetition_faults,
    require_no_faults,
    unmet_needs,
)
from stingy_attacker_eval.datasets.datasets import Dataset, load_dataset
from stingy_attacker_eval.errors import EvalError, ProtocolError
from stingy_attacker_eval.report_schema import Attacker, Document, Name, Schedule, TeacherEntry
from stingy_attacker_eval.results import NO_ENDPOINT
from stingy_attacker_eval.students import student_spec

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
_Seed = Annotated[int, Field(ge=0, lt=2**32)]


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
    pixels: side length to which the images of attackers and teachers are reduced; None for their
        own. A pixel is then the mean of a block.
    budget: the most images that one endpoint may be sent.
    budgets: smaller numbers of images that the first attacker tries as well, for attacks on answers
        bought once and for the baseline. They cost no further queries.
    seeds: the seeds that are reported.
    selection_seeds: other seeds, which choose the best attack. Without them the reported seeds
        choose, which leans upwards.
    margin: points below which a list counts as teaching no more than labels.
    transfer_images: test images on which adversarial examples are made and sent to the endpoint,
        for each student; 0 for none.
    attackers: by default one, who owns the true labels of all images.
    """

    title: Annotated[str, Field(min_length=1)]
    dataset: str
    pixels: Annotated[int, Field(gt=0, le=2**16)] | None = None
    budget: Annotated[int, Field(gt=0, le=2**62)]
    endpoints: Annotated[tuple[EndpointEntry, ...], Field(min_length=1)]
    attacks: Annotated[_Attacks, Field(min_length=1)]
    students: Annotated[tuple[str, ...], Field(min_length=1)]
    seeds: Annotated[tuple[_Seed, ...], Field(min_length=1)]
    selection_seeds: tuple[_Seed, ...] = ()
    margin: Annotated[float, Field(gt=0, le=100)] = 1.0
    transfer_images: Annotated[int, Field(ge=0, le=2**20)] = 0
    attackers: Annotated[tuple[Attacker, ...], Field(min_length=1)] = (Attacker(),)
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

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds that choose and those that are reported."""
        return self.selection_seeds + self.seeds

    def group_of(self, seed: int) -> tuple[int, ...]:
        """Return the seeds that choose or those that are reported: the group of this seed."""
        return self.selection_seeds if seed in self.selection_seeds else self.seeds

    def with_seeds(self, chosen: Sequence[int]) -> Self:
        """Return the protocol with these of its seeds; with all if none is chosen.

        If all of them are of those that choose the best attack, they are reported.

        Raises ProtocolError if a seed is not of the protocol.
        """
        if not chosen:
            return self
        unknown = [str(seed) for seed in chosen if seed not in self.all_seeds]
        if unknown:
            known = ", ".join(map(str, self.all_seeds))
            raise ProtocolError(f"expected seeds out of {known}, got {', '.join(unknown)}")
        choosing = tuple(seed for seed in self.selection_seeds if seed in chosen)
        reported = tuple(seed for seed in self.seeds if seed in chosen)
        if not reported:
            choosing, reported = (), choosing
        return self.model_copy(update={"seeds": reported, "selection_seeds": choosing})

    def budgets_of(self, attacker: Attacker) -> tuple[int, ...]:
        """Return the smaller numbers of images that this attacker tries as well."""
        return self.budgets if attacker == self.attackers[0] else ()

    def load(self) -> Dataset:
        """Load the data set as the attacker has it.

        If the protocol takes a part of the images or labels anywhere, the classes take turns. The
        first images are then spread evenly over the classes.

        Raises DatasetError if the data set cannot be loaded.
        """
        return self._arrange(self.load_whole())

    def load_whole(self) -> Dataset:
        """Load the data set with all its images, reduced to `pixels`.

        Raises DatasetError if the data set cannot be loaded.
        """
        return load_dataset(self.dataset).reduce(self.pixels)

    def _arrange(self, data: Dataset) -> Dataset:
        is_partial = bool(self.budgets) or any(
            attacker.images is not None or 0 < attacker.labelled < 1 for attacker in self.attackers
        )
        return data.subset(len(data.train_x) if is_partial and not self.images else self.images)

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
        faults = repetition_faults("endpoint", names)
        if NO_ENDPOINT in names:
            faults.append(f'expected an endpoint name other than "{NO_ENDPOINT}", the baseline\'s')
        faults += network_faults(name for endpoint in endpoints for name in endpoint.students)
        for endpoint in endpoints:
            faults += [f"{endpoint.name}: {fault}" for fault in _attack_faults(endpoint.attacks)]
        return require_no_faults(endpoints, faults)

    @field_validator("attacks")
    @classmethod
    def _check_attacks(cls, entries: tuple[AttackEntry, ...]) -> tuple[AttackEntry, ...]:
        return require_no_faults(entries, _attack_faults(entries))

    @field_validator("students")
    @classmethod
    def _check_students(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return require_no_faults(
            names, [*repetition_faults("student", names), *network_faults(names)]
        )

    @field_validator("seeds", "selection_seeds")
    @classmethod
    def _check_seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        return require_no_faults(seeds, repetition_faults("seed", seeds))

    @field_validator("budgets")
    @classmethod
    def _check_budgets(cls, budgets: tuple[int, ...]) -> tuple[int, ...]:
        return require_no_faults(budgets, repetition_faults("budget", budgets))

    @field_validator("attackers")
    @classmethod
    def _check_attackers(cls, attackers: tuple[Attacker, ...]) -> tuple[Attacker, ...]:
        names = [attacker.name for attacker in attackers]
        return require_no_faults(attackers, repetition_faults("attacker", names))

    @field_validator("teachers")
    @classmethod
    def _check_teachers(cls, teachers: tuple[TeacherEntry, ...]) -> tuple[TeacherEntry, ...]:
        faults = repetition_faults("teacher", [teacher.name for teacher in teachers])
        return require_no_faults(
            teachers, [*faults, *network_faults(teacher.network for teacher in teachers)]
        )

    @model_validator(mode="after")
    def _check_combination(self, info: ValidationInfo) -> Self:
        """Check fields against each other: images, networks, bundles, attacks and the budget."""
        loaded = _shared_data(info)["data"]
        try:
            data = loaded.reduce(self.pixels)
        except EvalError as error:
            raise ValueError(str(error)) from None
        sizes = [self.images, *(t.skip + (t.images or 1) for t in self.teachers)]
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
        names = [endpoint.name for endpoint in self.endpoints]
        faults += unmet_needs(attacks, names, data, loaded)
        owned = self.images or len(data.train_x)
        base = self.attackers[0].owned(owned)
        faults += [
            f"expected budgets below the {base} images that students train on, got {budget}"
            for budget in self.budgets
            if budget >= base
        ]
        needed = owned + len(data.test_x)
        if self.budget < needed:
            faults.append(
                f"expected a budget of at least {needed} images ({owned} to train on, "
                f"{len(data.test_x)} to compare), got {self.budget}"
            )
        faults += [
            f"expected seeds that do not choose, got {seed} among both"
            for seed in self.seeds
            if seed in self.selection_seeds
        ]
        if self.transfer_images > len(data.test_x):
            faults.append(
                f"expected at most {len(data.test_x)} transfer_images, as {self.dataset} has, got "
                f"{self.transfer_images}"
            )
        if owned <= len(data.train_x):
            arranged = self._arrange(data)
            for attacker in self.attackers:
                smaller = self.budgets_of(attacker)
                faults += attacker_faults(
                    attacker, arranged, loaded, self.budget, smaller, load_dataset
                )
            faults += idle_faults(self.attackers, attacks, owned)
        return require_no_faults(self, faults)


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
        if entry.name in BASELINES:
            faults.append(f"{entry.name} is the baseline of an audit: take it off the list")
            continue
        try:
            labels += [attack.label for attack in entry.build()]
        except EvalError as error:
            faults.append(str(error))
    return faults + repetition_faults("attack", labels)
