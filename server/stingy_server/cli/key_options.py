"""The options that `stingy keys create` and `set` share, and the changes that they make."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stingy_server.cli.command import MAX_COUNT, end

if TYPE_CHECKING:
    from stingy_server.settings import Settings
    from stingy_server.store.database import Database
    from stingy_server.store.key import KeySettings, Limits

NONE = "none"  # the text that removes a limit
MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
LIMITS = {"budget": "total", "per-day": "per_day", "per-month": "per_month"}
PROPERTIES = {"tier": "tier", "rate": "rate", "request rate": "request_rate"}


@dataclass(frozen=True, kw_only=True)
class KeyOptions:
    """The options that say what a key may do; None for each that is not given."""

    budget: Annotated[
        str | None, typer.Option(metavar="N|none", help="Images in all; none: no limit.")
    ] = None
    per_day: Annotated[
        str | None, typer.Option(metavar="N|none", help="Images in a day of UTC; none: no limit.")
    ] = None
    per_month: Annotated[
        str | None, typer.Option(metavar="N|none", help="Images in a month of UTC; none: no limit.")
    ] = None
    model_budget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL=N|none", help="Images in all for one model; repeat for others."
        ),
    ] = None
    model_per_day: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL=N|none", help="Images in a day of UTC for one model."),
    ] = None
    model_per_month: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL=N|none", help="Images in a month of UTC for one model."),
    ] = None
    models: Annotated[
        str | None,
        typer.Option(metavar="MODEL,MODEL", help="The only models that it may query."),
    ] = None
    tier: Annotated[str | None, typer.Option(help="Tier of the key; the settings name them.")] = (
        None
    )
    rate: Annotated[
        str | None,
        typer.Option(metavar="RATE|none", help="Images in a period, such as 600/minute."),
    ] = None
    request_rate: Annotated[
        str | None,
        typer.Option(
            metavar="RATE|none",
            help="Requests in a period, such as 100/second; none: the server's own.",
        ),
    ] = None
    days: Annotated[
        str | None,
        typer.Option(metavar="N|none", help="Days from now until it expires; none: it never does."),
    ] = None


@dataclass(frozen=True)
class KeyChange:
    """The changes of a key that options name.

    Attributes:
        properties: the new values, by the field of `Key`.
        limits: the new limits, by model ("" is for all) and by the field of `Limits`.
    """

    properties: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, Mapping[str, int | None]] = field(default_factory=dict)

    @property
    def named_models(self) -> set[str]:
        """The models that the changes permit or limit."""
        limited = {model for model, own in self.limits.items() if model and any(own.values())}
        return limited | (self.properties.get("models") or set())

    def apply(self, before: "KeySettings") -> "KeySettings":
        """Return the settings after the changes. A model without any limit has no budget."""
        from stingy_server.store.key import KeySettings, Limits

        limits = dict(before.limits)
        for model, changed in self.limits.items():
            limits[model] = replace(limits.get(model, Limits()), **changed)
        kept = {model: own for model, own in limits.items() if not model or own != Limits()}
        return KeySettings(replace(before.key, **self.properties), kept)


def read_change(settings: "Settings", options: KeyOptions, *, all_models: bool) -> KeyChange:
    """Read the options of a command. A fault ends the command."""
    from stingy_server.settings import FULL_TIER
    from stingy_server.times import stamp

    faults: list[str] = []
    limits: dict[str, dict[str, int | None]] = {}
    for option, whole, single in (
        ("budget", options.budget, options.model_budget),
        ("per-day", options.per_day, options.model_per_day),
        ("per-month", options.per_month, options.model_per_month),
    ):
        if whole is not None:
            limits.setdefault("", {})[LIMITS[option]] = _number(f"--{option}", whole, faults)
        for text in single or ():
            model, equals, number = text.partition("=")
            if not (equals and MODEL_NAME.fullmatch(model)):
                faults.append(f"--model-{option}: expected MODEL=N, got {text}")
                continue
            found = _number(f"--model-{option} of {model}", number, faults)
            limits.setdefault(model, {})[LIMITS[option]] = found
    properties: dict[str, Any] = {}
    known = [FULL_TIER, *settings.tiers]
    if (tier := options.tier) is not None:
        properties["tier"] = tier
        if tier not in known:
            faults.append(f"expected one of the tiers {', '.join(known)}, got {tier}")
    for name, value in (("rate", options.rate), ("request_rate", options.request_rate)):
        if value is not None:
            properties[name] = None if value == NONE else value
            faults += [] if value == NONE else _rate_faults(f"--{name.replace('_', '-')}", value)
    if options.days is not None:
        lasting = _number("--days", options.days, faults, most=36_500)
        properties["expires"] = (
            None if lasting is None else stamp(datetime.now(UTC) + timedelta(days=lasting))
        )
    if options.models is not None:
        names = options.models.split(",")
        if all_models:
            faults.append("expected --models or --all-models, got both")
        if not all(map(MODEL_NAME.fullmatch, names)):
            faults.append(f"--models: expected names with commas between, got {options.models}")
        properties["models"] = frozenset(names)
    elif all_models:
        properties["models"] = None
    if faults:
        end(faults)
    return KeyChange(properties, limits)


def differences(before: "KeySettings", after: "KeySettings") -> list[tuple[str, str, str]]:
    """List what differs: a name, and the texts before and after."""
    pairs = [
        (name, getattr(before.key, attribute), getattr(after.key, attribute))
        for name, attribute in PROPERTIES.items()
    ]
    found = [(name, _text(old), _text(new)) for name, old, new in pairs if old != new]
    if before.key.expires != after.key.expires:
        found.append(("expires", _day(before.key.expires), _day(after.key.expires)))
    if before.key.models != after.key.models:
        found.append(("models", model_names(before.key.models), model_names(after.key.models)))
    for model in sorted({*before.limits, *after.limits}):
        old, new = _limits(before, model), _limits(after, model)
        for option, attribute in LIMITS.items():
            values = getattr(old, attribute), getattr(new, attribute)
            if values[0] != values[1]:
                name = option.replace("-", " ")
                found.append((f"{model} {name}".strip(), _text(values[0]), _text(values[1])))
    return found


def unserved_models(database: "Database", names: set[str]) -> list[str]:
    """Return those of some models that no running server serves; none if no server runs."""
    from stingy_server.store.deployments import Deployments

    served = {report.name for report in Deployments(database).reports()}
    return sorted(names - served) if served else []


def model_names(models: frozenset[str] | None) -> str:
    """Return the text for the models that a key may query."""
    return "all" if models is None else ", ".join(sorted(models))


def _limits(settings: "KeySettings", model: str) -> "Limits":
    from stingy_server.store.key import Limits

    return settings.limits.get(model, Limits())


def _rate_faults(option: str, text: str) -> list[str]:
    from stingy_server.rates.rate import parse_rate

    try:
        parse_rate(text)
    except ValueError as error:
        return [f"{option}: {error}"]
    return []


def _number(option: str, value: str, faults: list[str], *, most: int = MAX_COUNT) -> int | None:
    """Return the number of an option; None if it is "none" or a fault."""
    if value == NONE:
        return None
    if value.isascii() and value.isdigit() and len(value) < 25 and 1 <= int(value) <= most:
        return int(value)
    faults.append(f"{option}: expected a number from 1 to {most} or {NONE}, got {value}")
    return None


def _text(value: object) -> str:
    return "none" if value is None else str(value)


def _day(expires: str | None) -> str:
    return "never" if expires is None else expires[:16].replace("T", " ")
