"""Read a protocol or contract from a file, and say in one line what is wrong with it.

    >>> protocol = read_protocol(Path("protocol.yaml"))

A wrong field is named with its place and the nearest one that is known.
"""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from registry.trust.errors import Invalid, Refused
from validators.contract.schema import Contract
from validators.protocol.schema import Protocol

Model = TypeVar("Model", bound=BaseModel)
_LARGEST = 1 << 20


def read_protocol(path: Path) -> Protocol:
    """The protocol in a YAML or JSON file."""
    return _parse(Protocol, _read(path), f"the protocol {path}")


def read_contract(path: Path) -> Contract:
    """The contract in a YAML or JSON file."""
    return _parse(Contract, _read(path), f"the contract {path}")


def parse_protocol(value: Any) -> Protocol:
    """The protocol in a value that came as JSON."""
    return _parse(Protocol, value, "the protocol")


def check_counts(protocol: Protocol, positives: int, negatives: int) -> None:
    """Raise Refused unless a cohort has the cases that the protocol needs."""
    if protocol.cohort is None:
        return
    for name, found, needed in (
        ("positive", positives, protocol.cohort.positives),
        ("negative", negatives, protocol.cohort.negatives),
    ):
        if found < needed:
            raise Refused(
                f"the protocol {protocol.id} needs {needed} {name} cases, the cohort has {found}",
                code="too_few_cases",
            )


def _read(path: Path) -> Any:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Invalid(f"{path} can't be read: {error.strerror}") from error
    if len(data) > _LARGEST:
        raise Invalid(f"{path} is larger than 1 MiB; that is no protocol")
    try:
        text = data.decode()
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise Invalid(f"{path} is not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise Invalid(f"{path} is not JSON: line {error.lineno}, {error.msg}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}" if mark else "somewhere"
        raise Invalid(f"{path} is not YAML: {place}, {getattr(error, 'problem', '')}") from error


def _parse(model: type[Model], value: Any, what: str) -> Model:
    if not isinstance(value, Mapping):
        raise Invalid(f"{what} must hold named fields, such as `id:`")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise Invalid(f"{what}: {_sentence(model, error)}") from error


def _sentence(model: type[BaseModel], error: ValidationError) -> str:
    """The first fault: a misspelt field before what is missing because of it."""
    faults = sorted(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
    fault = faults[0]
    place = _place(fault["loc"])
    if fault["type"] == "extra_forbidden":
        name = str(fault["loc"][-1])
        known = _fields_at(model, fault["loc"][:-1])
        near = difflib.get_close_matches(name, known, 1, 0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(sorted(known))}"
        return f"there is no field {place}; {hint}"
    if fault["type"] == "missing":
        return f"the field {place} is missing"
    message = fault["msg"].removeprefix("Value error, ")
    given = fault.get("input")
    shown = f", not {given!r}" if isinstance(given, str | int | float) else ""
    return f"{place}: {message}{shown}" if place else message


def _place(location: tuple[int | str, ...]) -> str:
    """endpoints[1].goal"""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    return text


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The fields that are known at a place."""
    here: Any = model
    for part in location:
        if isinstance(part, str) and part in here.model_fields:
            here = _model_in(here.model_fields[part].annotation)
    return list(here.model_fields)


def _model_in(annotation: Any) -> Any:
    """The model inside Optional, tuple and Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (tuple, Union, UnionType) or get_args(annotation):
        for inner in get_args(annotation):
            found = _model_in(inner)
            if found is not None:
                return found
    return None
