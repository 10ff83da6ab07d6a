"""The first fault of a document, in one line: place, what is wrong, what was meant.

A misspelt field comes before whatever is missing because of it.
"""

import difflib
from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

_KINDS = {
    "string_type": "must be text; put quotes around it",
    "float_type": "must be a number, without quotes and with a point (0.01, not 1e-2)",
    "int_type": "must be a whole number, without quotes",
    "int_from_float": "must be a whole number",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list",
    "model_type": "must hold named fields",
    "model_attributes_type": "must hold named fields",
    "dict_type": "must hold named fields",
}
_LIMITS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}
_LONGEST = 60


def fault(field: str, message: str) -> PydanticCustomError:
    """What a model's own check raises: `message` without braces, at `field` of that model."""
    return PydanticCustomError("fault", "{text}", {"text": message, "field": field})


def sentence(model: type[BaseModel], error: ValidationError) -> str:
    """The first fault in words."""
    faults = sorted(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    found = faults[0]
    context = found.get("ctx", {})
    location: tuple[str | int, ...] = found["loc"]
    if found["type"] == "fault":
        location = (*location, context["field"])
    place = place_of(location)
    if found["type"] == "extra_forbidden":
        return _unknown_field(model, location, place)
    if found["type"] == "missing":
        return f"the field {place} is missing"
    if found["type"] == "literal_error":
        return _unknown_word(found, place, model)
    said = _said(found, context)
    return f"{place} {said}" if found["type"] in (*_KINDS, *_LIMITS) else _joined(place, said)


def place_of(location: Sequence[int | str]) -> str:
    """endpoints[1].goal"""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    return text


def _joined(place: str, said: str) -> str:
    return f"{place}: {said}" if place else said


def _said(found: ErrorDetails, context: dict[str, Any]) -> str:
    given = _shown(found.get("input"))
    if found["type"] == "fault":
        return str(context["text"])
    if found["type"] in _KINDS:
        return f"{_KINDS[found['type']]}{given}"
    if found["type"] in _LIMITS:
        name, words = _LIMITS[found["type"]]
        return f"must be {words} {context[name]:g}{given}"
    if found["type"] == "string_pattern_mismatch":
        return f"must match {context['pattern']}{given}"
    return found["msg"].removeprefix("Value error, ") + given


def _shown(given: Any) -> str:
    if not isinstance(given, str | int | float):
        return ""
    text = repr(given)
    return f", not {text if len(text) <= _LONGEST else text[:_LONGEST] + '…'}"


def _unknown_field(model: type[BaseModel], location: tuple[str | int, ...], place: str) -> str:
    known = list(_model_at(model, location[:-1]).model_fields)
    return f"there is no field {place}; {_nearest(str(location[-1]), known)}"


def _unknown_word(found: ErrorDetails, place: str, model: type[BaseModel]) -> str:
    parent = _model_at(model, found["loc"][:-1])
    name = str(found["loc"][-1])
    known = _words(parent.model_fields[name].annotation) if name in parent.model_fields else []
    given = found.get("input")
    return f"{place} can't be {given!r}; {_nearest(str(given), known)}"


def _nearest(given: str, known: list[str]) -> str:
    near = difflib.get_close_matches(given.lower(), known, 1, 0.5)
    listed = f"known are: {', '.join(known)}"
    return f"did you mean {near[0]!r}? ({listed})" if near else listed


def _model_at(model: type[BaseModel], location: Sequence[str | int]) -> type[BaseModel]:
    here = model
    for part in location:
        if isinstance(part, str) and part in here.model_fields:
            here = _model_in(here.model_fields[part].annotation) or here
    return here


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model inside Optional, tuple and Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(inner) for inner in get_args(annotation))
    return next((model for model in found if model is not None), None)


def _words(annotation: Any) -> list[str]:
    """The words of a Literal inside Optional and Annotated."""
    if get_origin(annotation) in (Union, UnionType, Annotated, tuple):
        return [word for inner in get_args(annotation) for word in _words(inner)]
    return [word for word in get_args(annotation) if isinstance(word, str)]
