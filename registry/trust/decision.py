"""An assessor's decision, as the assessor signs it.

    >>> envelope = add_signature(unsigned(DECISION_TYPE, new_decision(decision)), ada)

Rules
-----
1. It names the digest of the report that the assessor read, so that another report voids it.
2. A decision for a certificate also names the statement, which the assessor signs beside it.
3. It is signed where the assessor is. The server checks and keeps it, and can't make one.
"""

import datetime as dt
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from registry.trust.canonical import canonical, parse_canonical
from registry.trust.certificate import Digest
from registry.trust.errors import Invalid

DECISION_TYPE = "application/vnd.touchstone.decision.v1+json"
DecisionOutcome = Literal["certify", "conditional", "reject"]


class Decision(BaseModel):
    """One person's act on one verdict."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    submission: str
    report: Digest
    statement: Digest | None
    outcome: DecisionOutcome
    reason: Annotated[str, Field(min_length=3, max_length=2000, pattern=r"^[^\x00-\x1f\x7f]+$")]
    person: str
    organisation: str
    decided_at: dt.datetime


def new_decision(decision: Decision) -> bytes:
    """The canonical bytes that are signed."""
    if (decision.outcome == "reject") != (decision.statement is None):
        raise Invalid("a decision for a certificate names its statement, a rejection names none")
    return canonical(decision.model_dump(mode="json"))


def parse_decision(payload: bytes) -> Decision:
    """The decision in a payload whose signature has been checked."""
    try:
        return Decision.model_validate(parse_canonical(payload))
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise Invalid(f"the decision is malformed at {place}") from error
