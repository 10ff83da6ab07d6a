"""What a model's maker declares with a submission: development data, and what a pilot needs.

    >>> declaration = read_declaration(Path("declaration.yaml"))
    >>> check_declared(protocol, declaration)       # Refused, in one line, naming what is missing
    >>> declaration.digest
    'sha256:…'

    development:                      # validators.drift.distribution
      id: our-training-data
      version: "1"
      attributes:
        - {kind: categories, attribute: sex, counts: {female: 512, male: 498}}
    regulatory_references:
      approval by an ethics committee: EC 2026/114, 3 March 2026

Rules
-----
1. It holds counts and references, and nothing of a patient. Unknown fields, NaN and infinity are
   refused, and each text is one line.
2. What the protocol asks for must be there; more is kept with it.
3. It is the maker's word. It is held against the cohort and decides nothing.
"""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from registry.trust.canonical import digest_of
from registry.trust.errors import Refused
from validators.contract.read import parse_document, read_document
from validators.contract.schema import Strict
from validators.drift.distribution import DevelopmentDistribution

if TYPE_CHECKING:  # a protocol needs numpy, whoever sends a declaration does not
    from validators.protocol.schema import Protocol

_ONE_LINE = r"^[^\x00-\x1f\x7f]*[^\x00-\x20\x7f][^\x00-\x1f\x7f]*$"
Line = Annotated[str, Field(max_length=500, pattern=_ONE_LINE)]
HOW = "in a file named with --declaration (over HTTP: `declaration`)"


class Declaration(Strict):
    """A maker's declaration. Its identity is its digest."""

    development: DevelopmentDistribution | None = None
    regulatory_references: Annotated[dict[Line, Line], Field(max_length=50)] = {}
    """Name, as the protocol has it, to what it is or where it is found."""

    @cached_property
    def digest(self) -> str:
        """The digest of its canonical JSON."""
        return digest_of(self.model_dump(mode="json"))


def read_declaration(path: Path) -> Declaration:
    """The declaration in a YAML or JSON file. Raises Invalid, in one line."""
    return parse_document(Declaration, read_document(path), f"the declaration {path}")


def parse_declaration(value: Any) -> Declaration:
    """The declaration in a value that came as JSON or YAML. Raises Invalid, in one line."""
    return parse_document(Declaration, value, "the declaration")


def check_declared(protocol: "Protocol", declaration: Declaration | None) -> None:
    """Raise Refused where something is missing that the protocol asks the maker for."""
    given = declaration or Declaration()
    if protocol.drift is not None and given.development is None:
        raise Refused(
            f"the protocol {protocol.id} asks how the development data were distributed: give "
            f"`development` {HOW}",
            code="declaration_missing",
        )
    for name in protocol.regulatory_references:
        if name not in given.regulatory_references:
            raise Refused(
                f"the protocol {protocol.id} asks for a reference to {name!r}: give it under "
                f"`regulatory_references` {HOW}",
                code="declaration_missing",
            )
