"""Options that are made of the fields of pydantic models."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

M = TypeVar("M", bound=BaseModel)

_MOST = 1 << 31  # larger bounds are left to the model: their digits would fill the help


@dataclass(frozen=True)
class Spelling:
    """How a field is given on the command line, where it is not by an option of its name and type.

    Attributes:
        name: Parameter of the command.
        annotation: Its type with the option.
        default: Its value when it is not given.
        value: What the field gets for it.
    """

    name: str
    annotation: Any
    default: Any
    value: Callable[[Any], Any] = lambda given: given


def field_option(name: str, field: FieldInfo) -> Any:
    """Return the typer option of a field: its description for a help text, and its bounds.

    Args:
        name: The field's; a switch has the option `--name` alone.
        field: A number or a switch.
    """
    text = field.description or ""
    switch = [f"--{name.replace('_', '-')}"] if field.annotation is bool else []
    least, most = _bounds(field)
    return typer.Option(*switch, min=least, max=most, help=f"{text[:1].upper()}{text[1:]}.")


def takes_model(
    parameter: str,
    model: type[M],
    *,
    fields: Sequence[str],
    spellings: Mapping[str, Spelling] = MappingProxyType({}),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option for each field of a model, and the command the model.

    Args:
        parameter: The command's parameter of the model's type, in whose place the options stand.
        model: The source of defaults, bounds and meanings.
        fields: Which of its fields are options, in the order of the help.
        spellings: Fields that are given in another way.

    Returns:
        A decorator. Values that the model refuses are wrong usage: an error with the name of the option.
    """
    given = {name: spellings.get(name) or _spelling(name, model.model_fields[name]) for name in fields}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**values: Any) -> None:
            chosen = {name: how.value(values.pop(how.name)) for name, how in given.items()}
            values[parameter] = _build(model, chosen)
            command(**values)

        parameters: list[inspect.Parameter] = []
        for own in inspect.signature(command).parameters.values():
            options = [(own.name, own.annotation, own.default)]
            if own.name == parameter:
                options = [(how.name, how.annotation, how.default) for how in given.values()]
            parameters += [
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)
                for name, kind, default in options
            ]
        run.__annotations__ = {entry.name: entry.annotation for entry in parameters} | {"return": None}
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return run

    return decorate


def _spelling(name: str, field: FieldInfo) -> Spelling:
    return Spelling(name, Annotated[field.annotation, field_option(name, field)], field.default)


def _bounds(field: FieldInfo) -> tuple[int | float | None, int | float | None]:
    """Smallest and largest allowed value of a field, None where there is no such bound."""
    least = most = None
    for bound in field.metadata:
        least = getattr(bound, "ge", least)
        most = getattr(bound, "le", most)
    return least, most if most is None or most < _MOST else None


def _build(model: type[M], values: dict[str, Any]) -> M:
    try:
        return model(**values)
    except ValidationError as error:
        lines = []
        for entry in error.errors():
            message = entry["msg"].removeprefix("Value error, ")
            if entry["loc"]:
                message = f"--{str(entry['loc'][0]).replace('_', '-')} {entry['input']}: {message}"
            lines.append(message)
        raise typer.BadParameter("\n".join(lines)) from None
