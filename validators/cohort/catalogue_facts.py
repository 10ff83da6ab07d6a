"""What a facility says of itself and of its cohorts for the catalogue, in one YAML file.

    >>> facts = read_facts(Path("catalogue.yaml"))
    >>> check_complete(facts, "lidc-nodules")

Rules
-----
1. Counts come from the manifest; here is what no manifest knows: who publishes, whom to ask, the
   Health Data Access Body, and terms of EUCAIM's ontology, each with a label for people.
2. A placeholder is refused: EUCAIM DCAT-AP v2.0 forbids one for the Health Data Access Body, and
   nobody can be reached at another.
3. The file may be incomplete; the RDF is refused until it is complete, with the first field that is
   missing. The page and the JSON need none of it.
"""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from registry.trust.errors import Refused
from validators.contract.faults import fault
from validators.contract.read import parse_document, read_document
from validators.contract.schema import Identifier, Strict

EHDS = "http://data.europa.eu/eli/reg/2025/327/oj"
_PLACEHOLDER = re.compile(
    r"example\.(org|com|net|eu)|\b(tbd|todo|xxx+|fixme|placeholder|dummy|lorem|unknown|n/?a|none)\b"
    r"|to be (determined|defined|announced)|\.(invalid|test)(/|$)|localhost|^[-?. ]*$",
    re.IGNORECASE,
)


def _real(text: str) -> str:
    if _PLACEHOLDER.search(text):
        raise ValueError(
            f"{text[:60]!r} is a placeholder; give the real one or leave the field out"
        )
    return text


Text = Annotated[str, Field(min_length=2, max_length=2000), AfterValidator(_real)]
Iri = Annotated[
    str,
    Field(pattern=r"^https?://[^\s<>\"{}|\\^`]+$", max_length=500),
    AfterValidator(_real),
]
Email = Annotated[str, Field(pattern=r"^[^\s@<>]+@[^\s@<>]+\.[a-zA-Z]{2,}$"), AfterValidator(_real)]


class Contact(Strict):
    """How to reach somebody: by e-mail, by a page, or both."""

    email: Email | None = None
    page: Iri | None = None

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.email is None and self.page is None:
            raise fault("email", "a contact has an e-mail address or a page")
        return self


class Agent(Strict):
    """An organisation by its official name."""

    name: Text
    contact: Contact
    description: Text | None = None


class Concept(Strict):
    """A term of an ontology: its IRI, and what people call it."""

    iri: Iri
    label: Text


Concepts = Annotated[tuple[Concept, ...], Field(min_length=1)]


class CohortFacts(Strict):
    """Of one cohort. Names are those of EUCAIM DCAT-AP v2.0's Dataset."""

    description: Text
    interoperability_level: Concept
    type: Concepts
    birth_sex: Concepts
    condition: Concept
    collection_method: Concepts
    modality: Concepts
    manufacturer: Concepts
    body_part: Concepts
    health_category: Concepts
    imaging_studies: Annotated[int, Field(ge=10)]
    """How many imaging studies (DICOM studies); approximate where an exact one says too much."""
    keywords: Annotated[tuple[Text, ...], Field(min_length=1)]
    provenance: Text
    access_rights: Literal["PUBLIC", "RESTRICTED", "NON_PUBLIC"] = "NON_PUBLIC"
    legislation: Annotated[tuple[Iri, ...], Field(min_length=1)] = (EHDS,)
    health_theme: tuple[Concept, ...] = ()


class FacilityFacts(Strict):
    """The whole file."""

    base: Iri | None = None
    """What the IRI of each cohort begins with; cohort and version are added."""
    publisher: Agent | None = None
    contact: Contact | None = None
    """Whom to ask about the cohorts."""
    hdab: Agent | None = None
    """The Health Data Access Body. To be left out until it is designated."""
    access_page: Iri | None = None
    """Where access is asked for: the Negotiator."""
    minimum_group: Annotated[int, Field(ge=10)] = 10
    cohorts: dict[Identifier, CohortFacts] = {}


def read_facts(path: Path) -> FacilityFacts:
    """The facts in a YAML or JSON file. Raises Invalid, in one line."""
    return parse_document(FacilityFacts, read_document(path), f"the catalogue's facts {path}")


def check_complete(facts: FacilityFacts | None, cohort: str) -> CohortFacts:
    """The facts of a cohort. Raises Refused where something is missing that the RDF must have."""
    why = "set TOUCHSTONE_CATALOGUE to a file that names it (docs/facility.md)"
    if facts is None:
        raise Refused(f"the catalogue as RDF needs publisher, contact, hdab and more; {why}",
                      code="catalogue_incomplete")  # fmt: skip
    for name in ("publisher", "contact", "hdab", "base", "access_page"):
        if getattr(facts, name) is None:
            raise Refused(
                f"the catalogue as RDF needs {name}, which the facility's facts do not name; "
                "placeholders are forbidden",
                code="catalogue_incomplete",
            )
    if cohort not in facts.cohorts:
        raise Refused(f"the facility's facts say nothing of the cohort {cohort}",
                      code="catalogue_incomplete")  # fmt: skip
    return facts.cohorts[cohort]
