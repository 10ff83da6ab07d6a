"""What an organisation may store, have waiting, and compute; and what it uses of it.

    >>> shown(facility, eva, "sme-a")["waiting"]
    {'allowed': 20, 'used': 3}

Rules
-----
1. The standard is in the database (0008_life.sql); an administrator changes it for one
   organisation. Waiting and computing are refused at `submit`, by the database, so that ten at
   once are not ten times the quota; what was taken in is carried to its end.
2. Storage is taken before a body is stored and given back when nothing came of it. Files are
   written once and stay, so that use only grows.
3. Compute is the time of workers' turns in the last 30 days, successful or not.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from registry.database.record import Record
from registry.facility import Facility
from registry.identity.accounts import note
from registry.identity.caller import Caller
from registry.identity.policy import require
from registry.trust.errors import Invalid, NotFound


class NewQuota(BaseModel):
    """What `org quota` changes; what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")
    storage_bytes: Annotated[int, Field(ge=0, le=1 << 50)] | None = None
    waiting: Annotated[int, Field(ge=0, le=100_000)] | None = None
    compute_seconds: Annotated[int, Field(ge=0, le=10**9)] | None = None


def shown(facility: Facility, caller: Caller, organisation: str) -> dict[str, Any]:
    """Allowed and used, of one's own organisation, or of any for the facility."""
    require(caller, "quota.read", owner=organisation)
    with facility.record.transaction(caller) as now:
        row = now.maybe("quota_shown", organisation=organisation)
    if row is None:
        raise NotFound(f"there is no organisation {organisation[:64]!r} that you may see")
    return {
        "organisation": organisation,
        "storage_bytes": {"allowed": row["storage_allowed"], "used": row["storage_used"]},
        "waiting": {"allowed": row["waiting_allowed"], "used": row["waiting_used"]},
        "compute_seconds": {"allowed": row["compute_allowed"],
                            "used": round(row["compute_used"], 1)},
    }  # fmt: skip


def change(facility: Facility, caller: Caller, organisation: str, new: NewQuota) -> dict[str, Any]:
    """Set an organisation's own quota (administrators)."""
    require(caller, "quota.set")
    given = new.model_dump(exclude_none=True)
    if not given:
        raise Invalid("say what to change: storage, waiting or compute")
    with facility.record.transaction(caller) as now:
        if now.maybe("organisation_by_id", id=organisation) is None:
            raise NotFound(f"there is no organisation {organisation[:64]!r}")
        now.do("quota_set", organisation=organisation, set_by=caller.person, **new.model_dump())
        note(now, caller, "quota-set", organisation, given)
    return shown(facility, caller, organisation)


def take_storage(record: Record, caller: Caller, size: int) -> None:
    """Take room for `size` bytes of the caller's organisation; a negative size gives it back.

    Raises Refused (quota_storage) where it would be more than the organisation may store.
    """
    with record.transaction(caller) as now:
        now.one("storage_take", bytes=size)
