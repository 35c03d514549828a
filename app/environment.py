"""Typed settings from environment variables, with one clear line for each mistake."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin

import msgspec

__all__ = ["Mistake", "Variable", "Variables", "as_text", "complaint", "parse", "read", "unknown", "variables"]


class Variables(msgspec.Struct, frozen=True, kw_only=True):
    """Base of settings: each field is the environment variable ``WARREN_<FIELD>`` unless it names another."""

    @classmethod
    def complete(cls, values: dict[str, Any], environment: Mapping[str, str], origin: Mapping[str, str]) -> list[str]:
        """Makes of the ``values`` that were read what their fields take; a line for each mistake."""
        return []


T = TypeVar("T", bound=Variables)


class Mistake(Exception):
    """One or more settings are wrong. ``lines`` has one sentence for each."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class Variable(msgspec.Struct, frozen=True):
    """What is known of one environment variable: its field, default and, in words, what it takes."""

    name: str
    field: str
    type: Any
    default: Any
    expected: str
    description: str
    examples: tuple[str, ...] = ()

    @property
    def example(self) -> str:
        """A right value, to be shown where a wrong one was given."""
        return as_text(self.default) or next(iter(self.examples), "")


def as_text(value: Any) -> str:
    """``value`` as it is written in an environment variable."""
    if isinstance(value, tuple):
        # Things that are written by their names.
        return ",".join(str(getattr(one, "name", one)) for one in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def meta(of: Any) -> msgspec.Meta:
    if get_origin(of) is Annotated:
        for extra in get_args(of)[1:]:
            if isinstance(extra, msgspec.Meta):
                return extra
    return msgspec.Meta()


def variables(of: type[Variables]) -> dict[str, Variable]:
    """The environment variables that ``of`` is read from, by name."""
    found = {}
    for field in msgspec.structs.fields(of):
        about = meta(field.type)
        name = field.encode_name if field.encode_name != field.name else f"WARREN_{field.name.upper()}"
        found[name] = Variable(
            name=name,
            field=field.name,
            # What is made of others is written as another type.
            type=(about.extra or {}).get("written", field.type),
            default=field.default,
            expected=about.title or "",
            description=about.description or "",
            examples=tuple(about.examples or ()),
        )
    return found


def parse(variable: Variable, text: str) -> Any:
    value: Any = text.strip()
    if meta(variable.type).extra == {"list": True}:
        value = tuple(part.strip() for part in value.split(",") if part.strip())
    return msgspec.convert(value, variable.type, strict=False)


def read(of: type[T], environment: Mapping[str, str], origin: Mapping[str, str] | None = None) -> T:
    """Settings of type ``of``; an empty value means the default, as in Compose files.

    ``origin`` says for a variable where it was written (".env"), for the error.

    Raises:
        Mistake: with a line for every variable whose value is not what it takes.
    """
    values: dict[str, Any] = {}
    lines: list[str] = []
    for variable in variables(of).values():
        text = environment.get(variable.name, "")
        if not text.strip():
            continue
        try:
            values[variable.field] = parse(variable, text)
        except msgspec.ValidationError:
            lines.append(complaint(variable, text, origin))
    lines += of.complete(values, environment, origin or {})
    if lines:
        raise Mistake(lines)
    return of(**values)


def complaint(variable: Variable, text: str, origin: Mapping[str, str] | None = None) -> str:
    """The line for a variable whose value is none that it takes. Of an address it shows no password: logs are read by many."""
    where = (origin or {}).get(variable.name, "the environment")
    shown = re.sub("//.*@", "//***@", text, flags=re.DOTALL)
    return (
        f"{variable.name}={shown} (in {where}) is not {variable.expected}; "
        f"write for example {variable.name}={variable.example}"
    )


def unknown(names: Iterable[str], known: Iterable[str], origin: str) -> list[str]:
    """A line for each of ``names`` that is not one of ``known``, with the nearest that is."""
    known = list(known)
    lines = []
    for name in sorted(set(names) - set(known)):
        ours = f"WARREN_{name}"
        near = [ours] if ours in known else difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}?" if near else "the settings are listed in .env.example"
        lines.append(f"{name} (in {origin}) is no setting of Warren; {hint}")
    return lines
