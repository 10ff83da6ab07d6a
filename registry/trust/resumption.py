"""An assessor's word that a suspended certificate may come back, as the assessor signs it.

    >>> envelope = add_signature(unsigned(RESUMPTION_TYPE, new_resumption(resumption)), ada)

Rules
-----
1. It names the suspension that it answers by its moment: it is worth nothing for a later one.
2. It is signed where the assessor is, like a decision: a server, or an administrator with two
   people's tokens, can stop a model and can't bring one back.
"""

import datetime as dt
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from registry.trust.canonical import canonical, parse_canonical
from registry.trust.errors import Invalid

RESUMPTION_TYPE = "application/vnd.touchstone.resumption.v1+json"


class Resumption(BaseModel):
    """One assessor's word on one suspension."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    submission: str
    suspended_at: dt.datetime
    reason: Annotated[str, Field(min_length=3, max_length=2000, pattern=r"^[^\x00-\x1f\x7f]+$")]
    person: str
    organisation: str
    signed_at: dt.datetime


def new_resumption(resumption: Resumption) -> bytes:
    """The canonical bytes that are signed."""
    return canonical(resumption.model_dump(mode="json"))


def parse_resumption(payload: bytes) -> Resumption:
    """The resumption in a payload whose signature has been checked."""
    try:
        return Resumption.model_validate(parse_canonical(payload))
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise Invalid(f"the resumption is malformed at {place}") from error
