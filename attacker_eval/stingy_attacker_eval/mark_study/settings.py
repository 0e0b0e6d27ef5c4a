"""The settings of a study, from TOML."""

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from stingy_attacker_eval.errors import StudyError
from stingy_attacker_eval.report_schema import Document, Schedule

_Share = Annotated[float, Field(gt=0, le=0.5)]
_Count = Annotated[int, Field(ge=1)]


class TeacherSettings(Schedule):
    """The network and the training of the protected model."""

    network: str


class Study(Document):
    """A study of marks.

    The training images are cut into four parts without overlap: the teacher's, the thief's, as
    many for innocents, and `clean` images that a thief labels himself.

    Attributes:
        side: height and width of the images, which are averaged down to it.
        policy: the policy of the endpoint, as in a bundle.
        teacher: the protected model, with the number of its images.
        student: the network of thieves and innocents.
        training: their training; `images` is what a thief owns and queries.
        clean: images with true labels, for fine-pruning.
        seeds: each has a teacher, a secret and students of its own.
        shares: shares of inputs that are marked, for thieves on labels.
        share: the share for all other thieves.
        runners_up: m, the runners-up among which a mark is chosen.
        thieves: names of `thieves.THIEVES`.
        independents: students trained on true labels, all under the first seed; half of them on
            the thief's images, half on others.
        honest: students trained on the answers of an honest key, under the first seed.
        order_thieves: thieves on lists whose runners-up have a secret order in place of marks.
        secrets: other secrets that each innocent is tried against.
    """

    title: str
    dataset: str
    side: _Count
    policy: str
    teacher: TeacherSettings
    student: str
    training: Schedule
    clean: _Count
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    shares: Annotated[tuple[_Share, ...], Field(min_length=1)]
    share: _Share
    runners_up: Annotated[int, Field(ge=2)]
    thieves: tuple[str, ...]
    independents: Annotated[int, Field(ge=0)]
    honest: Annotated[int, Field(ge=0)]
    order_thieves: tuple[str, ...] = ()
    secrets: Annotated[int, Field(ge=1)]

    @property
    def innocents(self) -> tuple[str, ...]:
        """The data of each innocent: "owned", "other" or "honest"."""
        independents = ("owned", "other") * self.independents
        return (*independents[: self.independents], *("honest",) * self.honest)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        from stingy_attacker_eval.mark_study.thieves import THIEVES

        unknown = [name for name in (*self.thieves, *self.order_thieves) if name not in THIEVES]
        if unknown:
            raise ValueError(f"expected thieves out of {', '.join(THIEVES)}, got {unknown}")
        if self.teacher.images is None or self.training.images is None:
            raise ValueError("expected a number of images for the teacher and for training")
        return self


def load_study(name: str) -> Study:
    """Load a packaged study by name, or one from a path that ends in .toml.

    Raises StudyError if there is none, or if it cannot be run.
    """
    packaged = {
        item.name.removesuffix(".toml"): item
        for item in (files("stingy_attacker_eval.mark_study") / "studies").iterdir()
    }
    if not name.endswith(".toml") and name not in packaged:
        known = ", ".join(sorted(packaged))
        raise StudyError(f'expected a study out of {known} or a .toml path, got "{name}"')
    try:
        source = Path(name) if name.endswith(".toml") else packaged[name]
        return Study.model_validate(tomllib.loads(source.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise StudyError(f"expected a study, got no file at {name}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StudyError(f"expected TOML in {name}, got a file that is not: {error}") from None
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, fault["loc"]))
        raise StudyError(f"{name}: {place}: {fault['msg']}".replace(": : ", ": ")) from None
