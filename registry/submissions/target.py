"""Which cohort a submission runs on, and whether there is room for one more run on it.

    >>> target = target_of(facility, caller, rules, "lidc-open", development=True)
    >>> check_room(now, caller, rules, target, development=True)

Rules
-----
1. The submitter names the cohort and says whether it is for development. Both must be what the
   protocol says: no run is ever taken for one of the other kind.
2. Runs under way count as taken.
"""

from registry.database.record import Row, Transaction
from registry.facility import Facility
from registry.identity.caller import Caller
from registry.submissions.lock import check_contract, check_fit, check_manifest, cohort
from registry.submissions.states import family
from registry.trust.errors import Refused
from validators.protocol.schema import Protocol


def target_of(
    facility: Facility, caller: Caller, rules: Protocol, name: str, *, development: bool
) -> Row:
    """The cohort version to run on. Raises Refused unless it is the one that the protocol names."""
    target = cohort(facility, caller, name)
    named = rules.development_cohort if development else rules.cohort
    if named is None or named.id != name:
        raise Refused(_not_that_one(rules, name, development=development))
    if named.version is not None and named.version != target["version"]:
        target = cohort(facility, caller, name, named.version)
    if development:
        check_contract(rules, target)
    else:
        check_fit(rules, target)
    _check_attributes(facility, rules.for_development() if development else rules, target)
    return target


def _check_attributes(facility: Facility, rules: Protocol, target: Row) -> None:
    """Raise Refused where a later version of the cohort lacks what the protocol reads from it.

    What exactly it lacks is for the facility: submitters learn nothing of a locked cohort.
    """
    try:
        check_manifest(facility, rules, target)
    except Refused:
        raise Refused(
            f"the cohort {target['id']} {target['version']} can't answer all that the protocol "
            f"{rules.id} asks; tell the facility, which can lock another version of either",
            code="cohort_unfit",
        ) from None


def _not_that_one(rules: Protocol, name: str, *, development: bool) -> str:
    beside = rules.development_cohort
    if development and beside is None:
        return f"the protocol {rules.id} has no development cohort; ask the facility for one"
    if development and beside is not None:
        return f"the development cohort of the protocol {rules.id} is {beside.id}, not {name}"
    written = rules.cohort.id if rules.cohort else "of a table"
    said = f"the protocol {rules.id} was written for the cohort {written}, not for {name}"
    if beside is not None and beside.id == name:
        said += "; that is its development cohort: submit with --development"
    return said


def check_room(
    now: Transaction, caller: Caller, rules: Protocol, target: Row, *, development: bool
) -> None:
    """Raise Refused where the family has passed, or all its attempts (in development: trials) are
    spent or under way. Holds the family until the transaction ends."""
    if rules.development_cohort is not None and development:
        _check_trials(now, caller, rules, target, rules.development_cohort.trials)
        return
    kin = {"protocol": rules.id, "cohort_id": target["id"], "cohort_version": target["version"]}
    now.one("families_hold", **kin)
    standing = now.one("family_standing", organisation=caller.organisation, **kin)
    if standing["passed"]:
        raise Refused(
            f"a model of this family has passed on the cohort {target['id']} "
            f"{target['version']}, so no other attempt on it is taken: let that model "
            "stand, or wait for a new version of the cohort",
            code="family_passed",
        )
    if standing["taken"] >= rules.attempts:
        raise Refused(
            f"all {rules.attempts} attempts of {caller.organisation}'s models, and of others "
            f"with almost the same weights, on the cohort {target['id']} {target['version']} "
            "are spent or under way",
            code="attempts_spent",
        )


def _check_trials(
    now: Transaction, caller: Caller, rules: Protocol, target: Row, most: int
) -> None:
    kin = family(caller.organisation, rules.id)
    now.one("family_lock", family=kin)
    taken = now.one(
        "trials_taken", family=kin, cohort_id=target["id"], cohort_version=target["version"]
    )["taken"]
    if taken >= most:
        raise Refused(
            f"all {most} trials of {caller.organisation} on the cohort {target['id']} "
            f"{target['version']} are spent or under way",
            code="trials_spent",
        )
