"""What is left to an innovator, and how far a cohort has been used.

>>> app.include_router(router(facility, caller_of))
"""

import datetime as dt
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from registry.api.protocols import LockedProtocol, Name
from registry.facility import Facility
from registry.identity.caller import Caller
from registry.submissions import exposure

CohortName = Annotated[
    str,
    Path(pattern=r"^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$", description="Name of a locked cohort.",
         examples=["lidc-nodules"]),
]  # fmt: skip
CohortVersion = Annotated[
    str | None,
    Query(pattern=r"^[0-9A-Za-z][0-9A-Za-z.-]{0,31}$",
          description="Its version; the latest if left out.", examples=["1"]),
]  # fmt: skip


class CohortVersionName(BaseModel):
    """One version of a cohort."""

    id: str
    version: str


class AttemptsLeft(BaseModel):
    """Attempts on the cohort that gates, joined families' among them."""

    allowed: int
    spent: int
    under_way: Annotated[int, Field(description="Submitted, and not yet at the first locked case.")]
    left: int


class TrialsLeft(BaseModel):
    """Trials on the development cohort."""

    cohort: str
    version: str
    allowed: int
    left: int


class Standing(BaseModel):
    """What your organisation has left under a protocol."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "protocol": {"id": "nodule-malignancy", "version": "1", "digest": "sha256:" + "b" * 64},
        "cohort": {"id": "lidc-nodules", "version": "1"},
        "attempts": {"allowed": 3, "spent": 1, "under_way": 0, "left": 2},
        "passed": False, "each_alpha": 0.025, "development": None,
        "advice": "Try the file at home before you spend one (`touchstone try`).",
    }]})  # fmt: skip
    protocol: LockedProtocol
    cohort: CohortVersionName
    attempts: AttemptsLeft
    passed: Annotated[bool, Field(description="A model of the family passed: no more are taken.")]
    each_alpha: Annotated[float, Field(description="The one-sided error of each attempt.")]
    development: TrialsLeft | None
    advice: str


class FamilyUse(BaseModel):
    """What one family did under one text of a protocol."""

    family: str
    organisation: str
    attempts: int
    returned: int
    passes: int
    last_at: dt.datetime


class CohortExposure(BaseModel):
    """How far a cohort version has been used, and what follows."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "cohort": "lidc-nodules", "version": "1", "families": 2, "organisations": 2, "attempts": 4,
        "returned": 0, "passes": 1, "trials": 0, "first_at": "2026-11-20T09:00:00Z",
        "last_at": "2026-11-24T09:00:00Z", "expected_false_passes": 0.1, "bits": 2.3,
        "cases_factor": 1.4, "level": "fresh", "advice": "No action is needed.",
        "by_family": [{"family": "sme-a/nodule-malignancy", "organisation": "sme-a", "attempts": 3,
                       "returned": 0, "passes": 1, "last_at": "2026-11-24T09:00:00Z"}],
    }]})  # fmt: skip
    cohort: str
    version: str
    families: Annotated[int, Field(description="Those with almost the same weights are one.")]
    organisations: int
    attempts: int
    returned: Annotated[int, Field(description="Given back for a fault of the facility's.")]
    passes: int
    trials: Annotated[int, Field(description="Runs as a development cohort.")]
    first_at: dt.datetime | None
    last_at: dt.datetime | None
    expected_false_passes: Annotated[
        float, Field(description="At most; the sum of each attempt's error.")
    ]
    bits: Annotated[float, Field(description="What the answers told, if everybody shared them.")]
    cases_factor: Annotated[float, Field(description="How many times the cases that is worth.")]
    level: Literal["fresh", "watch", "rotate"]
    advice: str
    by_family: list[FamilyUse]


def router(facility: Facility, caller_of: Any) -> APIRouter:
    """`/protocols/{name}/attempts` and `/cohorts/{cohort}/exposure`."""
    routes = APIRouter(prefix="/api/v1")
    Who = Annotated[Caller, Depends(caller_of)]  # noqa: N806

    @routes.get(
        "/protocols/{name}/attempts", summary="See what attempts are left", tags=["protocols"],
        response_model=Standing, operation_id="read_attempts",
    )  # fmt: skip
    def attempts(caller: Who, name: Name) -> dict[str, Any]:
        """For innovators: attempts and trials that your models have left, before you submit."""
        return exposure.left(facility, caller, name)

    @routes.get(
        "/cohorts/{cohort}/exposure", summary="See how far a cohort is used", tags=["cohorts"],
        response_model=CohortExposure, operation_id="read_exposure",
    )  # fmt: skip
    def exposed(caller: Who, cohort: CohortName, version: CohortVersion = None) -> dict[str, Any]:
        """For stewards, assessors and auditors: who asked it how often, and when to rotate it."""
        return exposure.exposed(facility, caller, cohort, version)

    return routes
