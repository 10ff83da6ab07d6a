"""Cohorts: counts, names and states for everybody who may list them, their life for the facility.

>>> app.include_router(router(facility, caller_of))
"""

import datetime as dt
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from registry.api import paging
from registry.api.answers import acted_before
from registry.api.paging import Cursor, Limit, Page
from registry.facility import Facility
from registry.identity.caller import Caller
from registry.submissions import catalogue, cohort_life, lock
from registry.submissions.cohort_life import NewCohortAct, SignedLock
from registry.trust.errors import Conflict

_PATH = r"^cohorts/[a-z0-9][a-z0-9-]{0,63}/[0-9A-Za-z][0-9A-Za-z.-]{0,31}/manifest\.json$"
_NAME = r"^[a-z0-9][a-z0-9-]{0,63}$"
_VERSION = r"^[0-9A-Za-z][0-9A-Za-z.-]{0,31}$"
_SIGNED = {
    "a signature": {"value": {"envelope": {"payload": "…", "payloadType": "…", "signatures": []}}}
}
_ACT = {"retired": {"value": {"kind": "retire", "reason": "replaced by version 2"}}}
_EXAMPLE = {"a cohort": {"value": {"manifest_path": "cohorts/lidc-nodules/1/manifest.json"}}}


class SealedCohort(BaseModel):
    """Where the manifest of a sealed cohort lies in the store."""

    model_config = ConfigDict(extra="forbid", strict=True)
    manifest_path: Annotated[str, Field(pattern=_PATH, max_length=200)]
    until: Annotated[
        dt.date | None,
        Field(strict=False, description="Until when the store keeps it from everybody."),
    ] = None


_WITHHELD = Field(description="null where the catalogue withholds it.")


class Cohort(BaseModel):
    """A cohort version. From `root` on they are for the facility's own people."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "id": "lidc-nodules", "version": "1", "title": "Nodules of LIDC-IDRI, the locked half",
        "positives": 263, "negatives": 626, "patients": 372,
        "contract_digest": "sha256:" + "c" * 64, "locked_at": "2026-11-20T09:00:00Z",
        "state": "locked",
    }]})  # fmt: skip
    id: str
    version: str
    title: str
    positives: Annotated[int | None, _WITHHELD]
    negatives: Annotated[int | None, _WITHHELD]
    patients: Annotated[int | None, _WITHHELD]
    contract_digest: str
    locked_at: Annotated[dt.datetime, Field(description="When it was sealed.")]
    state: Annotated[str, Field(description="sealed, locked, retired or burned.")]
    root: Annotated[str, Field(description="Digest of all content.")] = ""
    manifest_path: str = ""
    manifest_digest: str = ""
    locked_by: Annotated[str, Field(description="Who sealed it.")] = ""
    locked_alone: Annotated[
        bool, Field(description="Locked by one steward in an earlier version; no run opens it yet.")
    ] = False
    until: dt.date | None = None
    warnings: Annotated[
        list[str], Field(description="To who sealed it: how near it is to another version.")
    ] = []


class CohortLife(BaseModel):
    """Where a cohort version stands, what is to be signed, and what was done to it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "id": "lidc-nodules", "version": "1", "state": "sealed", "sealed_by": "Sam",
        "locked_alone": False, "until": None, "envelope": None, "signed_by": [],
        "locked_at": None, "record": None, "acts": [], "warnings": [],
    }]})  # fmt: skip
    id: str
    version: str
    state: str
    sealed_by: str
    locked_alone: bool
    until: dt.date | None
    envelope: Annotated[
        dict[str, Any] | None, Field(description="The statement that was signed last (DSSE).")
    ]
    signed_by: list[str]
    locked_at: dt.datetime | None
    record: Annotated[str | None, Field(description="Digest of lock.json beside the manifest.")]
    acts: list[dict[str, Any]]
    warnings: Annotated[
        list[str], Field(description="To who signs it: how near it is to another version.")
    ]


def router(facility: Facility, caller_of: Any) -> APIRouter:
    """`/cohorts`."""
    routes = APIRouter(prefix="/api/v1", tags=["cohorts"])
    Who = Annotated[Caller, Depends(caller_of)]  # noqa: N806

    @routes.post(
        "/cohorts", status_code=201, summary="Propose a sealed cohort", response_model=Cohort,
        response_model_exclude_unset=True, operation_id="propose_cohort",
    )  # fmt: skip
    def propose_cohort(
        caller: Who, sealed: Annotated[SealedCohort, Body(openapi_examples=_EXAMPLE)]
    ) -> dict[str, Any]:
        """For stewards. The server reads every object from its own store. Two stewards lock it."""
        try:
            return lock.propose_cohort(facility, caller, sealed.manifest_path, sealed.until)
        except Conflict:
            if not acted_before():
                raise
            _, name, version, _ = sealed.manifest_path.split("/")
            return lock.cohort(facility, caller, name, version)

    @routes.get(
        "/cohorts", summary="List cohorts", response_model=Page[Cohort],
        response_model_exclude_unset=True, operation_id="list_cohorts",
    )  # fmt: skip
    def cohorts(
        caller: Who,
        request: Request,
        response: Response,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        """By name, then by age. Roots, paths and exact counts for the facility; for all others null
        in place of a count that the catalogue withholds."""
        rows, following = paging.read(
            request, response, caller, limit, cursor,
            lambda after, number: lock.cohorts(facility, caller, after, number), lock.place,
        )  # fmt: skip
        shown = catalogue.with_shown_totals(facility, caller, rows)
        return {"items": [_public(row, caller) for row in shown], "next": following}

    Name = Annotated[str, Path(pattern=_NAME, description="The cohort's name.")]  # noqa: N806
    Version = Annotated[str, Path(pattern=_VERSION, description="Its version.")]  # noqa: N806

    @routes.get(
        "/cohorts/{name}/versions/{version}", summary="The life of a cohort version",
        response_model=CohortLife, operation_id="read_cohort_life",
    )  # fmt: skip
    def read_cohort_life(caller: Who, name: Name, version: Version) -> dict[str, Any]:
        """For the facility: its state, the statement that stewards sign, and what was done."""
        return cohort_life.life(facility, caller, name, version)

    @routes.post(
        "/cohorts/{name}/versions/{version}/signatures", status_code=201,
        summary="Sign a cohort's lock",
        response_model=CohortLife, operation_id="sign_cohort",
    )  # fmt: skip
    def sign_cohort(
        caller: Who, name: Name, version: Version,
        signed: Annotated[SignedLock, Body(openapi_examples=_SIGNED)],
    ) -> dict[str, Any]:  # fmt: skip
        """For stewards, each with their own key. The second signature locks the cohort."""
        return cohort_life.sign(facility, caller, name, version, signed)

    @routes.post(
        "/cohorts/{name}/versions/{version}/acts", status_code=201,
        summary="Retire or burn a cohort",
        response_model=CohortLife, operation_id="act_on_cohort",
    )  # fmt: skip
    def act_on_cohort(
        caller: Who, name: Name, version: Version,
        new: Annotated[NewCohortAct, Body(openapi_examples=_ACT)],
    ) -> dict[str, Any]:  # fmt: skip
        """For stewards; an assessor may burn. `keep` lengthens the store's lock to a day."""
        return cohort_life.act(facility, caller, name, version, new)

    return routes


def _public(row: dict[str, Any], caller: Caller) -> dict[str, Any]:
    """Counts and names; the root and the paths are the facility's own."""
    hidden = set() if caller.kind == "facility" else {"root", "manifest_path", "manifest_digest",
                                                      "locked_by", "locked_alone",
                                                      "until"}  # fmt: skip
    return {key: value for key, value in row.items() if key not in hidden}
