"""Locked cohorts: counts and names for everybody who may list them.

>>> app.include_router(router(facility, caller_of))
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from registry.facility import Facility
from registry.identity.caller import Caller
from registry.submissions import lock


class SealedCohort(BaseModel):
    """Where the manifest of a sealed cohort lies in the store."""

    model_config = ConfigDict(extra="forbid")
    manifest_path: Annotated[str, Field(pattern=r"^cohorts/[a-z0-9./-]+/manifest\.json$")]


def router(facility: Facility, caller_of: Any) -> APIRouter:
    """`/cohorts`."""
    routes = APIRouter(prefix="/api/v1", tags=["cohorts"])
    Who = Annotated[Caller, Depends(caller_of)]  # noqa: N806

    @routes.post("/cohorts", status_code=201)
    def lock_cohort(caller: Who, sealed: SealedCohort) -> dict[str, Any]:
        return lock.lock_cohort(facility, caller, sealed.manifest_path)

    @routes.get("/cohorts")
    def cohorts(caller: Who) -> list[dict[str, Any]]:
        return [_public(row, caller) for row in lock.cohorts(facility, caller)]

    return routes


def _public(row: dict[str, Any], caller: Caller) -> dict[str, Any]:
    """Counts and names; the root and the paths are the facility's own."""
    hidden = set() if caller.kind == "facility" else {"root", "manifest_path", "manifest_digest",
                                                      "locked_by"}  # fmt: skip
    return {key: value for key, value in row.items() if key not in hidden}
