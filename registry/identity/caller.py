"""Who is asking: the holder of a token, as every room sees them."""

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["sme", "facility", "hospital"]
Role = Literal["innovator", "steward", "assessor", "clinician", "auditor", "admin"]


@dataclass(frozen=True)
class Caller:
    """A person of an organisation in one role, known by one token.

    `proof` is what the database asks for in each transaction: the SHA-256 of the token's secret.
    """

    organisation: str
    kind: Kind
    role: Role
    person: str
    token_id: str
    proof: bytes | None = field(default=None, repr=False)


current_caller: ContextVar[Caller | None] = ContextVar("current_caller", default=None)
