"""The end of a run on the development cohort: what its submitter is told, by the Ladder.

    >>> conclude(work)                  # assessed → tried

Rules
-----
1. A run spends a trial in the moment before the first shard is decrypted. A trial does not come
   back, whoever's fault a failure was.
2. One ladder a family, protocol and cohort version. Two runs that end at once come one after the
   other, under one lock: each is told what follows from what was told before it.
3. What was told before, and what is told now, are the output of the step `ladder`, written in the
   transaction that ends the run. So it is computed once, and the same again from its own output.
"""

import json
import time

from registry.pipeline.work import Work
from registry.submissions.lock import other_versions
from registry.submissions.review import full_report
from registry.submissions.states import family
from validators.evidence import Report
from validators.report.disclosure import release
from validators.report.ladder import Ladder, told


def spend_trial(work: Work) -> None:
    """Spend the trial of this run, once. Raises Refused (trials_spent) where none is left."""
    with work.facility.record.transaction() as now:
        now.do("trial_spend", submission=work.id)


def conclude(work: Work) -> None:
    """Climb the ladder and end the run."""
    started = time.monotonic()
    row, protocol = work.row, work.protocol
    report = Report.model_validate(json.loads(full_report(work.facility, row)))
    others = other_versions(work.facility, None, row, until=row["changed_at"])
    which = {name: row[name] for name in
             ("organisation", "protocol_digest", "cohort_id", "cohort_version")}  # fmt: skip
    with work.facility.record.transaction() as now:
        kin = family(row["organisation"], row["protocol_id"])
        now.one("family_lock", family=f"{kin}/{row['cohort_id']}/{row['cohort_version']}")
        last = now.maybe("ladder_before", **which)
        before = {} if last is None else told(last["output"]["released"])
        ladder = Ladder(protocol.measures, before)
        released = release(report, "development", protocol.disclosure, others, ladder)
        now.do(
            "step_done",
            submission=work.id,
            name="ladder",
            output={
                "turn": 1 if last is None else last["output"]["turn"] + 1,
                "before": [[*key, value] for key, value in before.items()],
                "released": released,
            },
            seconds=time.monotonic() - started,
        )
        now.do("submission_move", id=work.id, state="tried", deadline=None)
