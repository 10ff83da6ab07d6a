"""End a submission as a technical failure: whose fault it was, and whether the attempt comes back.

    >>> fail(facility, row, code="model_timeout", message="…", model_had_a_hand=True, start=start)

Rules
-----
1. The finding, the end and the return of the attempt are one transaction.
2. The canary is asked only where its answer could change the finding.
3. A submission that moved on meanwhile is left alone.
"""

import dataclasses
import logging
from collections.abc import Callable

from registry.database.record import Row
from registry.facility import Facility
from registry.pipeline import canary
from registry.submissions.fault import Failure, Finding, whose
from serving.calls import Model

log = logging.getLogger("touchstone.pipeline")


def fail(
    facility: Facility,
    row: Row,
    *,
    code: str,
    message: str,
    model_had_a_hand: bool,
    start: Callable[[], Model],
    blamed: bool = False,
    kept_waiting: bool = False,
) -> Finding | None:
    """End the submission of `row`; None where it was no longer in the state of `row`."""
    failure = Failure(code, model_had_a_hand, blamed=blamed, kept_waiting=kept_waiting)
    finding = whose(failure)
    if not finding.ours:
        failure = dataclasses.replace(failure, canary_after=canary.sound(start))
        finding = whose(failure)
    submission = str(row["id"])
    with facility.record.transaction() as now:
        ended = now.do(
            "submission_failed", id=submission, state=row["state"], code=code, message=message
        )
        if not ended:
            return None
        now.do(
            "finding_add",
            submission=submission,
            code=code,
            party=finding.party,
            reason=finding.reason,
            evidence=dataclasses.asdict(failure),
        )
        if finding.ours:
            now.do("attempt_return", submission=submission, reason=f"{code}: {finding.reason}")
    log.warning("submission %s: %s (%s): %s", submission, code, finding.party, message)
    return finding
