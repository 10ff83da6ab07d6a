"""The OpenAPI description: what the framework knows, and what holds for every route.

    >>> describe(app)
    >>> app.openapi()["paths"]["/api/v1/submissions"]["post"]["responses"]["409"]

Rules
-----
1. What every route shares (errors, the Idempotency-Key, conditional reads) is described here once,
   so that a new route can't forget it.
2. Every body and every answer has an example, every parameter a description.
"""

import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from registry.api.once import KEY_PATTERN
from registry.api.problems import MEDIA_TYPE, Problem

Json = dict[str, Any]
_METHODS = ("get", "post", "put", "patch", "delete")
ABOUT = """\
The proving ground between a cancer-imaging AI model and a patient.

- **Who you are**: `Authorization: Bearer tst_…`, a token that your facility gave you.
- **Errors** are `application/problem+json` (RFC 9457): match on `code`, show `detail`.
- **Writes** take an `Idempotency-Key`: asking twice with one key is asking once.
- **Lists** come in pages: follow `next`, or the Link header.
- **Polling**: send the ETag as `If-None-Match`; 304 means that nothing has changed.

Models and runs travel by the MLflow client, to this same address.
"""
_ERRORS = {
    "401": "No token, or one that is wrong, expired or revoked.",
    "403": "Well formed, and against the rules.",
    "404": "There is no such thing, or you may not know that there is.",
    "409": "It can't be done in the present state, or a digest or signature does not fit.",
    "413": "The body is too large.",
    "415": "The body is not declared as JSON.",
    "416": "The part lies behind the end of the file.",
    "422": "Not well formed; `detail` names the place.",
    "429": "Too many requests; `Retry-After` says how long to wait.",
    "503": "A part of the registry is away; trying again is safe.",
}
_FOR_WRITES = ("409", "413", "415", "422", "429", "503")
_FOR_READS = ("404", "409", "422", "429", "503")
_KEY_EXAMPLE = "6f2c0f5e-1f0a-4b8e-9d57-3f6f0a9a7c21"
_IDEMPOTENCY_KEY: Json = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": KEY_PATTERN},
    "description": (
        "A fresh value for each thing to be done, kept for 24 hours. The same key and request get "
        "the first answer again (`Idempotency-Replayed: true`); the same key and another request "
        "422; 409 while the first is under way."
    ),
    "example": _KEY_EXAMPLE,
}
_IF_NONE_MATCH: Json = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "The ETag of the answer that you have.",
    "example": '"5d41402abc4b2a76b9719d911017c592"',
}
_ETAG: Json = {"ETag": {"schema": {"type": "string"}, "description": "Tag of these bytes."}}
_LINK: Json = {"Link": {"schema": {"type": "string"}, "description": 'rel="next" (RFC 8288).'}}
_REPLAYED: Json = {
    "Idempotency-Replayed": {
        "schema": {"type": "string", "const": "true"},
        "description": "There when this is an answer that was given before.",
    }
}


_WORDS = {
    "submission": "The submission's id.",
    "organisation": "The organisation's short name.",
    "person": "The person's id.",
    "role": "A role of people.",
    "token": "The token's id.",
    "name": "Its name.",
    "limit": "How many at most.",
    "after": "Those behind this one.",
    "state": "As the identity provider gives it back.",
    "code": "As the identity provider gives it.",
    "iss": "Which identity provider answers.",
    "error": "Why the identity provider refused.",
    "touchstone-login": "Binds the browser that began a login to the one that ends it.",
}


def operation_name(route: APIRoute) -> str:
    """The operationId of a route that has none of its own."""
    words = [str(tag) for tag in route.tags[:1]] + [route.name]
    return re.sub(r"[^a-z0-9]+", "_", " ".join(words).lower())


def describe(app: FastAPI) -> None:
    """Complete the description that `app` gives of itself."""
    plain = app.openapi

    def complete() -> Json:
        if app.openapi_schema is None:
            schema = plain()
            components = schema.setdefault("components", {}).setdefault("schemas", {})
            components.pop("HTTPValidationError", None)
            components.pop("ValidationError", None)
            components["Problem"] = Problem.model_json_schema()
            for method, operation in _operations(schema):
                _complete(method, operation, components)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = complete  # type: ignore[method-assign]


class Addresses:
    """What can be asked where, as the description of `app` has it."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    @cached_property
    def _methods(self) -> list[tuple[re.Pattern[str], list[str]]]:
        return [
            (
                re.compile(re.sub(r"\\{[^}]*\\}", "[^/]+", re.escape(template))),
                [method.upper() for method in _METHODS if method in item],
            )
            for template, item in self._app.openapi()["paths"].items()
        ]

    def methods(self, path: str) -> list[str]:
        """The methods that an address takes; GET where there is none."""
        return next((found for known, found in self._methods if known.fullmatch(path)), ["GET"])

    def is_write(self, method: str, path: str) -> bool:
        """Whether this is asked of an address that takes it, and may change something."""
        return method != "GET" and method in self.methods(path)


def _operations(schema: Json) -> Iterator[tuple[str, Json]]:
    for path in schema["paths"].values():
        for method in _METHODS:
            if method in path:
                yield method, path[method]


def _complete(method: str, operation: Json, components: Json) -> None:
    secured = bool(operation.get("security"))
    operation.setdefault("description", f"{operation['summary']}.")
    parameters = operation.setdefault("parameters", [])
    for parameter in parameters:
        parameter.setdefault("description", _WORDS.get(parameter["name"], ""))
    responses = operation["responses"]
    done = [status for status in responses if status.startswith("2")]
    if method == "get":
        parameters.append(_IF_NONE_MATCH)
        responses["304"] = {"description": "Nothing has changed.", "headers": _ETAG}
        for status in done:
            headers = responses[status].setdefault("headers", {})
            headers |= _ETAG if status != "204" else {}
            if any(parameter["name"] == "cursor" for parameter in parameters):
                headers |= _LINK
    elif secured:
        parameters.append(_IDEMPOTENCY_KEY)
        for status in done:
            responses[status].setdefault("headers", {}).update(_REPLAYED)
    errors = {*(_FOR_READS if method == "get" else _FOR_WRITES)}
    if "health" not in operation.get("tags", []):
        errors |= {"401", "403", "404"}
    if any(parameter["name"] == "Range" for parameter in parameters):
        errors.add("416")
    responses.pop("422", None)
    for status in sorted(errors):
        responses.setdefault(status, _error(status))
    bodies = [operation.get("requestBody", {}), *(responses[status] for status in done)]
    for body in bodies:
        for media in body.get("content", {}).values():
            if not set(media.get("schema", {})) - {"title"}:
                media["schema"] = {"type": "object"}
            if "example" not in media and "examples" not in media:
                media["example"] = example_of(media.get("schema", {}), components)


def _error(status: str) -> Json:
    described: Json = {
        "description": _ERRORS[status],
        "content": {
            MEDIA_TYPE: {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "example": {
                    "type": "urn:touchstone:problem:example",
                    "title": "example",
                    "status": int(status),
                    "detail": _ERRORS[status],
                    "code": "example",
                },
            }
        },
    }
    if status in ("409", "429"):
        described["headers"] = {
            "Retry-After": {"schema": {"type": "string"}, "description": "Seconds to wait."}
        }
    return described


def example_of(schema: Json, components: Json) -> Any:
    """An example for a schema: its own, or one made of the examples of its parts."""
    if "$ref" in schema:
        return example_of(components[schema["$ref"].rpartition("/")[2]], components)
    for key in ("examples", "enum"):
        if schema.get(key):
            return schema[key][0]
    for key in ("example", "const", "default"):
        if key in schema:
            return schema[key]
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return example_of(schema[key][0], components)
    kind = schema.get("type")
    if kind == "object":
        fields = schema.get("properties", {})
        return {name: example_of(field, components) for name, field in fields.items()}
    if kind == "array":
        return [example_of(schema.get("items", {}), components)]
    return {"integer": 1, "number": 0.5, "boolean": True, "null": None}.get(str(kind), "…")
