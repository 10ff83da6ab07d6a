"""How often a cohort was asked: for an innovator before submitting, and for stewards as a whole.

    >>> left(facility, caller, "nodule-malignancy")["attempts"]["left"]
    2
    >>> exposed(facility, caller, "lidc-nodules")["level"]
    'fresh'

Rules
-----
1. An innovator sees their own family's numbers, as `submit` would count them, and nothing else.
2. What a cohort's use amounts to is a pure rule (`validators.cohort.exposure`); families that were
   joined for having almost the same weights count as one.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from registry.database.record import Row
from registry.facility import Facility
from registry.identity.caller import Caller
from registry.identity.policy import require
from registry.submissions.lock import cohort, protocol_row
from registry.submissions.states import family
from registry.submissions.submit import protocol_of
from registry.trust.errors import Refused
from validators.cohort.exposure import Use, exposure


def left(facility: Facility, caller: Caller, name: str) -> dict[str, Any]:
    """What the caller's organisation has left under a locked protocol: attempts and trials."""
    require(caller, "submission.add")
    row = protocol_row(facility, caller, name)
    rules = protocol_of(row)
    if rules.cohort is None:
        raise Refused(f"the protocol {rules.id} names no cohort")
    target = cohort(facility, caller, rules.cohort.id, rules.cohort.version)
    beside = rules.development_cohort
    trial = None if beside is None else cohort(facility, caller, beside.id, beside.version)
    with facility.record.transaction(caller) as now:
        standing = now.one(
            "own_standing", organisation=caller.organisation, protocol=rules.id,
            cohort_id=target["id"], cohort_version=target["version"],
        )  # fmt: skip
        taken = 0
        if trial is not None:
            taken = now.one(
                "trials_taken", family=family(caller.organisation, rules.id),
                cohort_id=trial["id"], cohort_version=trial["version"],
            )["taken"]  # fmt: skip
    spent, passed = int(standing["spent"]), bool(standing["passed"])
    rest = 0 if passed else max(0, rules.attempts - int(standing["taken"]))
    return {
        "protocol": {"id": rules.id, "version": rules.version, "digest": row["digest"]},
        "cohort": {"id": target["id"], "version": target["version"]},
        "attempts": {
            "allowed": rules.attempts,
            "spent": spent,
            "under_way": int(standing["taken"]) - spent,
            "left": rest,
        },
        "passed": passed,
        "each_alpha": rules.each_alpha,
        "development": None if trial is None or beside is None else {
            "cohort": trial["id"],
            "version": trial["version"],
            "allowed": beside.trials,
            "left": max(0, beside.trials - int(taken)),
        },
        "advice": _advice(rest, passed=passed),
    }  # fmt: skip


def _advice(rest: int, *, passed: bool) -> str:
    if passed:
        return (
            "A model of this family has passed: let it stand, or wait for a new version of the "
            "cohort."
        )
    if rest == 0:
        return "No attempt is left on this version of the cohort."
    if rest == 1:
        return "This is the last attempt: try the file at home first (`touchstone try`)."
    return "Try the file at home before you spend one (`touchstone try`)."


def exposed(
    facility: Facility, caller: Caller, name: str, version: str | None = None
) -> dict[str, Any]:
    """How far a cohort version has been used, with a level and what to do. For the facility."""
    require(caller, "exposure.read")
    row = cohort(facility, caller, name, version)
    which = {"cohort_id": row["id"], "cohort_version": row["version"]}
    with facility.record.transaction(caller) as now:
        rows = now.all("exposure_uses", **which)
        trials = now.one("exposure_trials", **which)
        joined = now.all("exposure_joined", **which)
    found = exposure([_use(one) for one in rows])
    times = [one[at] for one in rows for at in ("first_at", "last_at")]
    return {
        "cohort": row["id"],
        "version": row["version"],
        "families": _number_of_families({one["family"] for one in rows}, joined),
        "organisations": len({one["organisation"] for one in rows}),
        "attempts": sum(one["attempts"] for one in rows),
        "returned": sum(one["returned"] for one in rows),
        "passes": sum(one["passes"] for one in rows),
        "trials": trials["trials"],
        "first_at": min(times, default=None),
        "last_at": max(times, default=None),
        "expected_false_passes": found.expected_false_passes,
        "bits": found.bits,
        "cases_factor": found.cases_factor,
        "level": found.level,
        "advice": found.advice,
        "by_family": [
            {name: one[name] for name in ("family", "organisation", "attempts", "returned",
                                          "passes", "last_at")}
            for one in rows
        ],
    }  # fmt: skip


def _use(row: Row) -> Use:
    rules = protocol_of(row)
    return Use(row["family"], row["attempts"], row["passes"], rules.each_alpha)


def _number_of_families(names: set[str], joined: Iterable[Mapping[str, Any]]) -> int:
    """How many are left when joined ones are one."""
    leader = {name: name for name in names}

    def first(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    for pair in joined:
        one, other = pair["one"], pair["other"]
        if one in leader and other in leader:
            leader[first(one)] = first(other)
    return len({first(name) for name in names})
