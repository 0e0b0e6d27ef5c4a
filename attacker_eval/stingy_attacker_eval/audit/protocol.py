"""The protocol of an audit; `protocol_file` reads it and finds its faults."""

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from stingy_attacker_eval.attacks import Attack, build_attacks
from stingy_attacker_eval.audit.attackers import BASELINES
from stingy_attacker_eval.datasets.datasets import Dataset, load_dataset
from stingy_attacker_eval.errors import EvalError, ProtocolError
from stingy_attacker_eval.report_schema import Attacker, Document, Name, Schedule, TeacherEntry
from stingy_attacker_eval.students import student_spec


class AttackEntry(Document):
    """An attack by name, with the settings that differ from the default."""

    model_config = ConfigDict(extra="allow")

    name: str

    def build(self) -> tuple[Attack, ...]:
        """Build the attack, or one attack for each point of its grid.

        Raises AttackError if the name or a setting is not known.
        """
        return build_attacks(self.name, self.__pydantic_extra__ or {})

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.name in BASELINES:
            raise ValueError(f"{self.name} is the baseline of an audit: take it off the list")
        try:
            self.build()
        except EvalError as error:
            raise ValueError(str(error)) from None
        return self


def _as_table(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


def _check_network(name: str) -> str:
    try:
        student_spec(name)
    except EvalError as error:
        raise ValueError(str(error)) from None
    return name


_Attacks = tuple[Annotated[AttackEntry, BeforeValidator(_as_table)], ...]
_Network = Annotated[str, AfterValidator(_check_network)]
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
    students: tuple[_Network, ...] = ()
    attacks: _Attacks = ()
    bundle: Name | None = None
    policy: Annotated[str, Field(min_length=1)] | None = None

    @property
    def variants(self) -> tuple[Attack, ...]:
        """Its own attacks, grids expanded."""
        return tuple(attack for entry in self.attacks for attack in entry.build())


class _KnownTeacher(TeacherEntry):
    """A teacher whose network exists."""

    network: _Network


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
    endpoints: tuple[EndpointEntry, ...]
    attacks: _Attacks
    students: tuple[_Network, ...]
    seeds: tuple[_Seed, ...]
    selection_seeds: tuple[_Seed, ...] = ()
    margin: Annotated[float, Field(gt=0, le=100)] = 1.0
    transfer_images: Annotated[int, Field(ge=0, le=2**20)] = 0
    attackers: tuple[Attacker, ...] = (Attacker(),)
    teachers: tuple[_KnownTeacher, ...] = ()
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
        return self.arrange(self.load_whole())

    def load_whole(self) -> Dataset:
        """Load the data set with all its images, reduced to `pixels`.

        Raises DatasetError if the data set cannot be loaded.
        """
        return load_dataset(self.dataset).reduce(self.pixels)

    def arrange(self, data: Dataset) -> Dataset:
        """Return the part of the whole data set that the attackers own, as `load` does."""
        is_partial = bool(self.budgets) or any(
            attacker.images is not None or 0 < attacker.labelled < 1 for attacker in self.attackers
        )
        return data.subset(len(data.train_x) if is_partial and not self.images else self.images)
