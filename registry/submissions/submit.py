"""Submit a registered model version, and see how far it has come.

    >>> id = submit(facility, caller, model="nodule-net", version=3, protocol="lidc", cohort="lidc")
    >>> view(facility, caller, id)["state"]

Rules
-----
1. A submission binds one model version, one protocol (by digest) and one cohort version.
2. Attempts under way count as taken, so that ten submissions at once are not ten attempts. Those
   of joined families count together, and a family stops at its first pass (0012_families.sql).
3. What the protocol asks its maker to declare comes with the submission (`validators.declaration`).
4. A run on the development cohort is asked for by name and by `development`; what it may cost and
   tell is in `submissions.target` and `pipeline.trial`.
5. A submitter sees pass or not pass, and nothing else about the locked cohort, until certified or
   out of attempts.
"""

import datetime as dt
import re
import uuid
from typing import Any

from registry.database.record import Row
from registry.facility import Facility
from registry.identity.accounts import note
from registry.identity.caller import Caller
from registry.identity.policy import reach, require
from registry.submissions.declarations import keep
from registry.submissions.lock import protocol_row
from registry.submissions.states import (
    ASSESSED,
    CERTIFIED,
    deadline,
    meaning,
    outcome,
    overdue,
)
from registry.submissions.target import check_room, target_of
from registry.trust.errors import Invalid, NotFound
from validators.declaration import check_declared, parse_declaration
from validators.protocol.read import parse_protocol
from validators.protocol.schema import Protocol

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")


def submit(
    facility: Facility,
    caller: Caller,
    *,
    model: str,
    version: int,
    protocol: str,
    cohort_name: str,
    identity: uuid.UUID | None = None,
    development: bool = False,
    declaration: Any = None,
) -> str:
    """Bind model, protocol and cohort; returns the submission's id. The pipeline takes it on.

    `identity` is the id to give it, for a request that may come twice. `development`: on the
    protocol's development cohort, which decides nothing. `declaration`: what the maker declares,
    as JSON or YAML holds it.
    """
    require(caller, "submission.add")
    if not MODEL_NAME.match(model):
        raise Invalid(f"{model[:80]!r} can't be a model's name: letters, digits, '.', '_' and '-'")
    chosen = protocol_row(facility, caller, protocol)
    rules = protocol_of(chosen)
    target = target_of(facility, caller, rules, cohort_name, development=development)
    declared = None if declaration is None else parse_declaration(declaration)
    check_declared(rules, declared)
    submission = str(identity or uuid.uuid4())
    with facility.record.transaction(caller) as now:
        if now.maybe("registered_version", organisation=caller.organisation, model_name=model,
                     version=version) is None:  # fmt: skip
            raise NotFound(
                f"{caller.organisation} has no registered model {model!r} version {version}; "
                "register it with the MLflow client first"
            )
        check_room(now, caller, rules, target, development=development)
        kept = keep(facility, declared)
        now.do(
            "submission_add",
            id=submission,
            organisation=caller.organisation,
            model_name=model,
            model_version=version,
            protocol_digest=chosen["digest"],
            cohort_id=target["id"],
            cohort_version=target["version"],
            submitted_by=caller.person,
            deadline=deadline("registered", dt.datetime.now(dt.UTC)),
            development=development,
            declaration_digest=kept,
        )
        if kept is not None:
            note(now, caller, "declaration-given", submission, {"digest": kept})
    return submission


def protocol_of(row: Row) -> Protocol:
    """The protocol in a row that carries `body` or `protocol_body`."""
    import json

    return parse_protocol(json.loads(row.get("body") or row["protocol_body"]))


def load(facility: Facility, caller: Caller, submission: str) -> Row:
    """A submission's row, if the caller may see it. What may not be seen is not found."""
    require(caller, "submission.read")
    missing = NotFound(f"there is no submission {submission[:40]!r} that you may see")
    try:
        uuid.UUID(submission)
    except ValueError:
        raise missing from None
    with facility.record.transaction(caller) as now:
        row = now.maybe("submission_by_id", id=submission)
    if row is None or (
        reach(caller, "submission.read") == "own" and row["organisation"] != caller.organisation
    ):
        raise missing
    return row


def view(facility: Facility, caller: Caller, submission: str) -> dict[str, Any]:
    """What the caller may know of a submission, ready for JSON."""
    return describe(load(facility, caller, submission), caller)


def page(
    facility: Facility, caller: Caller, after: tuple[str, ...] | None = None, limit: int = 1000
) -> list[Row]:
    """Rows that the caller may see, the latest first, those behind the place `after`."""
    require(caller, "submission.read")
    own = caller.organisation if reach(caller, "submission.read") == "own" else None
    created_at, last = after or (None, None)
    with facility.record.transaction(caller) as now:
        return now.all("submission_page", organisation=own, after_created_at=created_at,
                       after_id=last, limit=limit)  # fmt: skip


def place(row: Row) -> tuple[str, ...]:
    """Where a submission stands in the list."""
    return (row["created_at"].isoformat(), str(row["id"]))


def describe(row: Row, caller: Caller) -> dict[str, Any]:
    """The view of one row: complete for the facility, pass or not pass for the submitter."""
    shown: dict[str, Any] = {
        "id": str(row["id"]),
        "organisation": row["organisation"],
        "model": {
            "name": row["model_name"],
            "version": row["model_version"],
            "digest": row["model_digest"],
        },
        "protocol": {
            "id": row["protocol_id"],
            "version": row["protocol_version"],
            "digest": row["protocol_digest"],
        },
        "cohort": {"id": row["cohort_id"], "version": row["cohort_version"]},
        "declaration": row["declaration_digest"],
        "state": row["state"],
        "meaning": meaning(row["state"], development=row["development"]),
        "development": row["development"],
        "deadline": row["deadline"].isoformat() if row["deadline"] else None,
        "overdue": overdue(row["deadline"], dt.datetime.now(dt.UTC)),
        "outcome": outcome(row["state"], row["verdict"]),
        "failure": (
            {
                "code": row["failure_code"],
                "message": row["failure_message"],
                "fault": row["fault"],
            }
            if row["failure_code"]
            else None
        ),
        "attempts": {
            "allowed": 0 if row["development"] else row["attempts"],
            "spent": row["attempts_spent"],
        },
        "trials": _trials(row),
        "created_at": row["created_at"].isoformat(),
        "changed_at": row["changed_at"].isoformat(),
    }
    if reach(caller, "submission.read") == "all":
        shown |= {
            "verdict": row["verdict"],
            "report_digest": row["report_digest"],
            "statement_digest": row["statement_digest"],
            "cohort_root": row["cohort_root"],
            "cohort_state": row["cohort_state"],
            "certifiable": row["certifiable"],
            "decisions": row["decisions"],
            "void_decisions": row["void_decisions"],
            "alike": row["alike"] or [],
            "held_for_review": row["held_for_review"],
            "compute": row["compute"] or [],
        }
    return shown


def _trials(row: Row) -> dict[str, int] | None:
    """Of a run on the development cohort: how many the family may do, and has done."""
    named = protocol_of(row).development_cohort if row["development"] else None
    return None if named is None else {"allowed": named.trials, "spent": row["trials_spent"]}


def may_see_numbers(row: Row) -> bool:
    """Whether the submitter's attempts are closed, or the model certified."""
    return row["state"] in CERTIFIED or (
        row["state"] in ASSESSED and row["attempts_spent"] >= row["attempts"]
    )
