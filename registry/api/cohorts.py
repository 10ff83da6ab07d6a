"""Locked cohorts: counts and names for everybody who may list them.

>>> app.include_router(router(facility, caller_of))
"""

import datetime as dt
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from registry.api import paging
from registry.api.answers import acted_before
from registry.api.paging import Cursor, Limit, Page
from registry.facility import Facility
from registry.identity.caller import Caller
from registry.submissions import lock
from registry.trust.errors import Conflict

_PATH = r"^cohorts/[a-z0-9][a-z0-9-]{0,63}/[0-9A-Za-z][0-9A-Za-z.-]{0,31}/manifest\.json$"
_EXAMPLE = {"a cohort": {"value": {"manifest_path": "cohorts/lidc-nodules/1/manifest.json"}}}


class SealedCohort(BaseModel):
    """Where the manifest of a sealed cohort lies in the store."""

    model_config = ConfigDict(extra="forbid", strict=True)
    manifest_path: Annotated[str, Field(pattern=_PATH, max_length=200)]


class Cohort(BaseModel):
    """A locked cohort. The last four fields are for the facility's own people."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "id": "lidc-nodules", "version": "1", "title": "Nodules of LIDC-IDRI, the locked half",
        "positives": 263, "negatives": 626, "patients": 372,
        "contract_digest": "sha256:" + "c" * 64, "locked_at": "2026-11-20T09:00:00Z",
    }]})  # fmt: skip
    id: str
    version: str
    title: str
    positives: int
    negatives: int
    patients: int
    contract_digest: str
    locked_at: dt.datetime
    root: Annotated[str, Field(description="Digest of all content.")] = ""
    manifest_path: str = ""
    manifest_digest: str = ""
    locked_by: str = ""


def router(facility: Facility, caller_of: Any) -> APIRouter:
    """`/cohorts`."""
    routes = APIRouter(prefix="/api/v1", tags=["cohorts"])
    Who = Annotated[Caller, Depends(caller_of)]  # noqa: N806

    @routes.post(
        "/cohorts", status_code=201, summary="Lock a sealed cohort", response_model=Cohort,
        response_model_exclude_unset=True, operation_id="lock_cohort",
    )  # fmt: skip
    def lock_cohort(
        caller: Who, sealed: Annotated[SealedCohort, Body(openapi_examples=_EXAMPLE)]
    ) -> dict[str, Any]:
        """For stewards. The server reads every object from its own store before it locks."""
        try:
            return lock.lock_cohort(facility, caller, sealed.manifest_path)
        except Conflict:
            if not acted_before():
                raise
            _, name, version, _ = sealed.manifest_path.split("/")
            return lock.cohort(facility, caller, name, version)

    @routes.get(
        "/cohorts", summary="List locked cohorts", response_model=Page[Cohort],
        response_model_exclude_unset=True, operation_id="list_cohorts",
    )  # fmt: skip
    def cohorts(
        caller: Who,
        request: Request,
        response: Response,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        """By name, then by age. Counts for everybody; roots and paths for the facility."""
        rows, following = paging.read(
            request, response, caller, limit, cursor,
            lambda after, number: lock.cohorts(facility, caller, after, number), lock.place,
        )  # fmt: skip
        return {"items": [_public(row, caller) for row in rows], "next": following}

    return routes


def _public(row: dict[str, Any], caller: Caller) -> dict[str, Any]:
    """Counts and names; the root and the paths are the facility's own."""
    hidden = set() if caller.kind == "facility" else {"root", "manifest_path", "manifest_digest",
                                                      "locked_by"}  # fmt: skip
    return {key: value for key, value in row.items() if key not in hidden}
