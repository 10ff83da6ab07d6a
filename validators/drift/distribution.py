"""What a model's makers say of the patients they worked with: counts, and nothing of a patient.

    >>> declared = DevelopmentDistribution.model_validate(yaml.safe_load(path.read_text()))
    >>> declared.digest
    'sha256:…'

    $ python -m validators.drift.distribution        # writes development.schema.json beside this

Rules
-----
1. The unit is the patient, one count each. Whoever was in training, tuning or selection counts.
2. An attribute is a list of categories, or a histogram with its mean and standard deviation.
   Categories that are too few to be published go together under one name of the maker's choice.
3. `missing` are the patients of whom the attribute is not known.
"""

import json
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from registry.trust.canonical import digest_of
from validators.contract.faults import fault
from validators.contract.schema import Identifier, Name, Strict, Version

SCHEMA_FILE = Path(__file__).parent / "development.schema.json"
SCHEMA_ID = "urn:touchstone:development-distribution:v1"
Count = Annotated[int, Field(ge=0, le=10**9)]
NOT_DECLARED, NOT_RECORDED, POOLED = "not declared", "not recorded", "pooled"
Label = Annotated[str, Field(min_length=1, max_length=64)]


class Categories(Strict):
    """Patients by category."""

    kind: Literal["categories"] = "categories"
    attribute: Name
    counts: Annotated[dict[Label, Count], Field(min_length=2, max_length=100)]
    missing: Count = 0

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        taken = self.counts.keys() & {NOT_DECLARED, NOT_RECORDED, POOLED}
        if taken:
            raise fault("counts", f"{min(taken)!r} is what the evidence calls a group of its own")
        return self


class Histogram(Strict):
    """Patients by value: `counts[i]` of them lie in [edges[i], edges[i + 1]), the last included."""

    kind: Literal["histogram"] = "histogram"
    attribute: Name
    unit: str = ""
    edges: Annotated[tuple[float, ...], Field(min_length=3, max_length=101)]
    counts: Annotated[tuple[Count, ...], Field(min_length=2, max_length=100)]
    mean: float
    standard_deviation: Annotated[float, Field(gt=0)]
    missing: Count = 0

    @model_validator(mode="after")
    def _bins_fit(self) -> Self:
        if any(left >= right for left, right in pairwise(self.edges)):
            raise fault("edges", "they must ascend, each once")
        if len(self.counts) != len(self.edges) - 1:
            raise fault(
                "counts", f"{len(self.edges)} edges make {len(self.edges) - 1} bins, one count each"
            )
        return self


class DevelopmentDistribution(Strict):
    """The declared distribution of a model's development data. Its identity is its digest."""

    id: Identifier
    version: Version
    description: Annotated[str, Field(max_length=1000)] = ""
    attributes: Annotated[
        tuple[Annotated[Categories | Histogram, Field(discriminator="kind")], ...],
        Field(min_length=1, max_length=100),
    ]

    @model_validator(mode="after")
    def _differ_and_count(self) -> Self:
        names = [attribute.attribute for attribute in self.attributes]
        if len(set(names)) != len(names):
            raise fault("attributes", "two of them have the same name")
        for of in self.attributes:
            if not sum(of.counts.values() if isinstance(of, Categories) else of.counts):
                raise fault("attributes", f"{of.attribute} counts no patient")
        return self

    @cached_property
    def digest(self) -> str:
        """The digest of its canonical JSON."""
        return digest_of(self.model_dump(mode="json"))


def distribution_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of such a document."""
    made = DevelopmentDistribution.model_json_schema(mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID, **made}


def schema_text() -> str:
    """What the published file must hold."""
    return json.dumps(distribution_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
