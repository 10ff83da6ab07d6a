"""The base of every document that is locked: frozen, and strict about what it takes.

A locked document's identity is the digest of its canonical JSON. A field that was added later is
left out of it while it holds its default, so that what was locked before keeps its identity.
"""

from functools import cached_property
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class Strict(BaseModel):
    """A frozen model that refuses unknown fields, NaN and infinity."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, ignored_types=(cached_property,)
    )


class Grown(Strict):
    """A model with fields that were `added_later`."""

    added_later: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _as_locked(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        value: dict[str, Any] = handler(self)
        for name in self.added_later:
            if getattr(self, name) == type(self).model_fields[name].default:
                value.pop(name, None)
        return value
