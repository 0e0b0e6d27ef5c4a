"""The template of a suspect behind plain HTTP: how an image is sent and where the label is."""

import base64
import json
import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stingy_attacker_eval.errors import SuspectError

IMAGE = "$IMAGE"
KEY = "$KEY"
_PATH = re.compile(r"(?:^|\.)([^.\[\]]+)|\[(\d+)\]")


class Template(BaseModel):
    """A TOML file that describes the requests to a suspect and its replies.

    Attributes:
        send: "raw" sends the PNG file as the body, "form" as a field of a form, and "json" as
            base64 in a JSON text.
        body: with "json", the text, with $IMAGE in the place of the base64.
        field: with "form", the name of the field.
        headers: more headers. $KEY in a value stands for the key of the command line.
        label: the path to the class in the reply, such as `predictions[0].label`. It leads to a
            class's name or index, to a list of scores by class, or to class names, best first.
        classes: the exhibit's class for each name of the suspect that differs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    send: Literal["raw", "form", "json"] = "raw"
    body: str = '{"image": "$IMAGE"}'
    field: Annotated[str, Field(min_length=1)] = "image"
    headers: dict[str, str] = {}
    label: Annotated[str, Field(min_length=1)]
    classes: dict[str, str] = {}

    @model_validator(mode="after")
    def _consistent(self) -> "Template":
        if "".join(match[0] for match in _PATH.finditer(self.label)) != self.label:
            raise ValueError("expected a label like predictions[0].label, got another")
        if self.send == "json":
            if IMAGE not in self.body:
                raise ValueError(f"expected {IMAGE} in body, got none")
            try:
                json.loads(self.body.replace(IMAGE, ""))
            except ValueError:
                raise ValueError("expected body to be a JSON text, got another") from None
        return self

    def find_label(self, reply: object) -> object:
        """Return the value at the path `label` of a JSON reply.

        Raises SuspectError if the reply has no such place.
        """
        value = reply
        for match in _PATH.finditer(self.label):
            key, index = match.groups()
            if key is not None and isinstance(value, dict) and key in value:
                value = value[key]
            elif index is not None and isinstance(value, list) and int(index) < len(value):
                value = value[int(index)]
            else:
                raise SuspectError(f"expected {self.label} in the suspect's reply, got none there")
        return value

    def fill_headers(self, key: str | None) -> dict[str, str]:
        """Return the headers with the key in its place.

        Raises SuspectError if a header needs a key and there is none.
        """
        if key is None and any(KEY in value for value in self.headers.values()):
            raise SuspectError(f"expected a key for {KEY} in the template, got none: --key")
        return {name: value.replace(KEY, key or "") for name, value in self.headers.items()}

    def fill_body(self, png: bytes) -> bytes:
        """Return the JSON text with the image in its place."""
        return self.body.replace(IMAGE, base64.b64encode(png).decode()).encode()


def read_template(path: Path) -> Template:
    """Read a template. Raises SuspectError, with each fault, if it is none."""
    try:
        return Template.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        faults = (
            f"{path}: {'.'.join(map(str, fault['loc'])) or 'template'}: {fault['msg']}"
            for fault in error.errors(include_url=False, include_input=False)
        )
        raise SuspectError(*faults) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SuspectError(
            f"expected a TOML template, got another file at {path}: {error}"
        ) from None
