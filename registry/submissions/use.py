"""Who may use a cohort: what is declared of it, and the agreements that were negotiated.

    >>> declare(facility, steward, "lidc-nodules", Statement(codes=["DUO:0000004"]))
    >>> agreement = ask(facility, steward, "breast", NewAgreement(protocol="triage", …))
    >>> move(facility, steward, agreement["id"], "approved")

Rules
-----
1. A cohort without a statement can't be used. "No restriction" is a statement, and needs no
   agreement: it counts (`settled`) once another steward has said the same, by the database's rule.
   Cohorts that were locked before there were statements are marked `grandfathered`.
2. Under any other conditions an agreement of the facility for that cohort version and protocol must
   be in force: in the state `resource_made_available`, between its days, under the conditions that
   are declared now. A new statement ends what was agreed under the old one.
3. The database asks this whenever a protocol is locked, and a submission comes, begins or opens the
   first shard (0016_use.sql). Here are only words.
4. Stewards alone declare, ask and move; each act is in the log.
"""

import datetime as dt
import uuid
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from registry.database.record import Row
from registry.facility import Facility
from registry.identity.caller import Caller
from registry.identity.policy import require
from registry.submissions.lock import cohort
from registry.trust.errors import Invalid, NotFound, Refused
from validators.cohort.data_use import TERMS, check_conditions
from validators.contract.schema import Identifier, Version

Line = Annotated[str, Field(max_length=2000, pattern=r"^[^\x00-\x1f\x7f]*$")]
State = Literal[
    "under_review",
    "approved",
    "declined",
    "returned_for_resubmission",
    "representative_contacted",
    "representative_unreachable",
    "checking_availability",
    "resource_available",
    "resource_unavailable",
    "access_conditions_indicated",
    "access_conditions_met",
    "resource_not_made_available",
    "resource_made_available",
    "paused",
    "concluded",
    "abandoned",
]
"""As the BBMRI-ERIC Negotiator has them: `NegotiationState` (SUBMITTED is shown there as "Under
review") and, from `representative_contacted` on, `NegotiationResourceState`."""
IN_FORCE: State = "resource_made_available"


class Statement(BaseModel):
    """Data use conditions: DUO codes, words, and the last day."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [
        {"codes": ["DUO:0000007", "DUO:0000046"], "words": "breast cancer (MONDO:0007254)",
         "until": "2030-12-31"}
    ]})  # fmt: skip
    codes: Annotated[list[str], Field(min_length=1, max_length=23)]
    words: Line = ""
    until: dt.date | None = None


class NewAgreement(BaseModel):
    """What is asked for: one protocol on one cohort version, for some time."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [
        {"protocol": "breast-triage", "purpose": "validation of triage models",
         "valid_from": "2026-12-01", "valid_until": "2028-11-30", "reference": "negotiation-4711"}
    ]})  # fmt: skip
    protocol: Identifier
    purpose: Annotated[Line, Field(min_length=3)]
    valid_from: dt.date
    valid_until: dt.date
    version: Version | None = None
    reference: Annotated[Line, Field(description="What the Negotiator calls it.")] = ""


def declare(
    facility: Facility, caller: Caller, name: str, said: Statement, version: str | None = None
) -> dict[str, Any]:
    """Declare the conditions of a cohort version, or confirm them by saying the same.

    Raises Invalid for a wrong statement.
    """
    require(caller, "conditions.declare")
    codes = check_conditions(said.codes, said.words, said.until)
    row = cohort(facility, caller, name, version)
    with facility.record.transaction(caller) as now:
        now.do(
            "condition_add",
            cohort_id=row["id"],
            cohort_version=row["version"],
            codes=list(codes),
            words=said.words,
            until=said.until,
            organisation=caller.organisation,
            declared_by=caller.person,
        )
    return conditions(facility, caller, name, row["version"])


def conditions(
    facility: Facility, caller: Caller, name: str, version: str | None = None
) -> dict[str, Any]:
    """What is declared of a cohort version: codes with their labels, words, last day."""
    row = cohort(facility, caller, name, version)
    with facility.record.transaction(caller) as now:
        found = now.maybe("condition_latest", cohort_id=row["id"], cohort_version=row["version"])
    return {
        "cohort": row["id"],
        "version": row["version"],
        "declared": found is not None,
        "grandfathered": bool(found and found["grandfathered"]),
        "settled": bool(found and found["settled"]),
        "codes": [{"code": code, "label": TERMS.get(code, "")}
                  for code in (found["codes"] if found else ())],
        "words": found["words"] if found else "",
        "until": found["until"] if found else None,
        "declared_by": found["declared_by"] if found else "",
        "declared_at": found["declared_at"] if found else None,
    }  # fmt: skip


def ask(facility: Facility, caller: Caller, name: str, new: NewAgreement,
        identity: uuid.UUID | None = None) -> dict[str, Any]:  # fmt: skip
    """Ask for the use of a cohort; the agreement begins under review."""
    require(caller, "agreement.move")
    if new.valid_until < new.valid_from:
        raise Invalid("valid_until lies before valid_from")
    row = cohort(facility, caller, name, new.version)
    which = {"cohort_id": row["id"], "cohort_version": row["version"]}
    number = str(identity or uuid.uuid4())
    with facility.record.transaction(caller) as now:
        said = now.maybe("condition_latest", **which)
        if said is None or said["grandfathered"]:
            raise Refused(
                f"declare first what the cohort {row['id']} {row['version']} may be used for "
                "(touchstone cohort conditions); an agreement is under those conditions"
            )
        now.do(
            "agreement_add", id=number, organisation=caller.organisation, protocol_id=new.protocol,
            purpose=new.purpose, conditions=said["number"], reference=new.reference,
            valid_from=new.valid_from, valid_until=new.valid_until, asked_by=caller.person, **which,
        )  # fmt: skip
    return agreement(facility, caller, number)


def move(facility: Facility, caller: Caller, number: str, state: State) -> dict[str, Any]:
    """Move an agreement along one arrow of the Negotiator's.

    Raises Refused for any other, and (four_eyes) where who asked would make the cohort available.
    """
    require(caller, "agreement.move")
    before = agreement(facility, caller, number)
    if state not in before["next"]:
        able = ", ".join(before["next"]) or "nothing: it is at its end"
        raise Refused(f"the agreement is {before['state']}; what can follow is {able}")
    if state == IN_FORCE and caller.person == before["asked_by"]:
        raise Refused(
            f"{caller.person} asked for this agreement: another steward makes the cohort available",
            code="four_eyes",
        )
    with facility.record.transaction(caller) as now:
        now.do("agreement_move", id=number, state=state)
    return agreement(facility, caller, number)


def agreement(facility: Facility, caller: Caller, number: str) -> dict[str, Any]:
    """One agreement, and what can follow."""
    require(caller, "agreement.read")
    missing = NotFound(f"there is no agreement {number[:40]!r} that you may see")
    try:
        uuid.UUID(number)
    except ValueError:
        raise missing from None
    with facility.record.transaction(caller) as now:
        row = now.maybe("agreement_by_id", id=number)
        following = now.all("agreement_targets", source=row["state"]) if row else []
    if row is None:
        raise missing
    return shown(row) | {"next": [one["target"] for one in following]}


def agreements(
    facility: Facility, caller: Caller, name: str, version: str | None = None,
    after: tuple[str, ...] | None = None, limit: int = 1000,
) -> list[Row]:  # fmt: skip
    """The agreements on a cohort, the oldest first, those behind the place `after`."""
    require(caller, "agreement.read")
    created_at, last = after or (None, None)
    with facility.record.transaction(caller) as now:
        return now.all("agreements", cohort_id=name, cohort_version=version,
                       after_created_at=created_at, after_id=last, limit=limit)  # fmt: skip


def place(row: Row) -> tuple[str, ...]:
    """Where an agreement stands in the list."""
    return (row["created_at"].isoformat(), str(row["id"]))


def shown(row: Row) -> dict[str, Any]:
    """An agreement, ready for JSON; `usable`: whether its protocol may use the cohort today."""
    names = ("organisation", "cohort_id", "cohort_version", "protocol_id", "purpose", "reference",
             "valid_from", "valid_until", "state", "asked_by", "created_at", "changed_at",
             "usable")  # fmt: skip
    return {"id": str(row["id"])} | {name: row[name] for name in names}
