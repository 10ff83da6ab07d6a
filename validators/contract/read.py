"""Read a contract (or a protocol) from a file, and say in one line what is wrong with it.

    >>> contract = read_contract(Path("contract.yaml"))

Rules
-----
1. YAML or JSON, UTF-8, at most 1 MiB. A field given twice is refused: one of the two would be
   silently lost. Anchors and aliases are refused: they hide what is fixed, and can grow a page
   into gigabytes.
2. Values are taken as written: the text "0.5" or `yes` is no number.
3. A fault names its place (`endpoints[1].goal`), and a misspelt name its nearest known one.
"""

import json
import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from registry.trust.errors import Invalid
from validators.contract.faults import place_of, sentence
from validators.contract.schema import Contract

Model = TypeVar("Model", bound=BaseModel)
LARGEST = 1 << 20
DEEPEST = 32


def read_contract(path: Path) -> Contract:
    """The contract in a YAML or JSON file. Raises Invalid, in one line."""
    return parse_document(Contract, read_document(path), f"the contract {path}")


def parse_contract(value: Any) -> Contract:
    """The contract in a value that came as JSON or YAML. Raises Invalid, in one line."""
    return parse_document(Contract, value, "the contract")


def read_document(path: Path) -> Any:
    """The value in a YAML or JSON file; raises Invalid where it is neither."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise Invalid(f"{path} can't be read: {error.strerror}") from error
    if len(data) > LARGEST:
        raise Invalid(f"{path} is larger than 1 MiB; no document of this kind is")
    if not data.strip():
        raise Invalid(f"{path} is empty")
    try:
        text = data.decode("utf-8-sig")
        if path.suffix.lower() == ".json":
            return json.loads(text, object_pairs_hook=_once)
        return yaml.load(text, Loader=_Plain)  # noqa: S506 — a SafeLoader
    except UnicodeDecodeError as error:
        raise Invalid(f"{path} is not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise Invalid(f"{path} is not JSON: line {error.lineno}, {error.msg}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, " if mark else ""
        raise Invalid(f"{path} can't be read: {place}{_problem(error)}") from error
    except RecursionError as error:
        raise Invalid(f"{path} is nested too deeply") from error
    except ValueError as error:
        raise Invalid(f"{path} can't be read: {error}") from error


def parse_document(model: type[Model], value: Any, what: str) -> Model:
    """`value` as `model`; `what` begins the message of the Invalid that is raised otherwise."""
    if not isinstance(value, Mapping):
        raise Invalid(f"{what} must hold named fields, such as `id:`")
    try:
        text = json.dumps(_plain(value, ()))
        return model.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise Invalid(f"{what}: {sentence(model, error)}") from error
    except ValueError as error:
        raise Invalid(f"{what}: {error}") from error


def _plain(value: Any, place: tuple[str | int, ...]) -> Any:
    """`value` if it is what JSON can hold, or ValueError with the place."""
    if len(place) > DEEPEST:
        raise ValueError(f"{place_of(place[:4])}… is nested too deeply")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                where = place_of(place) or "the top"
                raise ValueError(f"{where} has the field name {key!r}; put quotes around it")
        return {key: _plain(item, (*place, key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, (*place, i)) for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{place_of(place)} must be a finite number, not {value}")
    if value is None or isinstance(value, str | int | float):
        return value
    kind = type(value).__name__
    raise ValueError(f"{place_of(place)} was read as a {kind}; put quotes around it")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise ValueError(f"the field {key!r} is given twice; keep one")
        seen[key] = value
    return seen


def _problem(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or "it is not YAML")


class _Plain(yaml.SafeLoader):
    """YAML without aliases and without a key given twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(
                problem="anchors and aliases (&, *) are not allowed here; write the value out",
                problem_mark=event.start_mark,
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            problem = ""
            if not isinstance(key, yaml.ScalarNode):
                problem = "the name of a field must be text"
            elif key.value in seen:
                problem = f"the field {key.value!r} is given twice; keep one"
            if problem:
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)
