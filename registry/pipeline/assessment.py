"""running → assessed: evidence, verdict and report from predictions and reference standard.

Rules
-----
1. Scoring is a process of its own, which alone holds the reference key (`pipeline.scoring`).
2. Every file of predictions is checked against the digest that its run wrote down: the run's own,
   those under perturbation, those of other models that the protocol compares with, and those of
   the certified version of the same model (`pipeline.predecessor`).
3. The same files give the same report, so that a step that is run again writes the same bytes.
4. Evidently's page shows single patients and holds fresh identifiers: it has a place of its own
   that only the facility reads, is written once, and nothing depends on it.
"""

import datetime as dt
import time
from collections.abc import Mapping

from registry.audit.reads import note_read
from registry.pipeline.comparators import comparator_files
from registry.pipeline.predecessor import (
    fix_predecessor,
    note_comparison,
    predecessor_of,
    scored_with,
)
from registry.pipeline.release import released
from registry.pipeline.run import step_of
from registry.pipeline.scoring import File, Task, score_apart
from registry.pipeline.work import Work
from registry.submissions import places
from registry.submissions.states import deadline
from registry.trust.canonical import sha256_bytes
from registry.trust.errors import Refused


def assess(work: Work) -> None:
    """Have evidence and verdict computed, and keep the report."""
    started = time.monotonic()
    ran = work.output_of("run")
    if ran is None:
        raise Refused("there are no predictions to assess")
    work.trace.model_had_a_hand = True  # what it answered is about to be read
    store = work.facility.store
    note_read(work.facility, work.row, "predictions-read", digest=ran["predictions"])
    note_read(work.facility, work.row, "reference-read", part="reference standard")
    perturbed, others = _perturbed(work), comparator_files(work)
    fix_predecessor(work)
    note_comparison(work, predecessor_of(work))
    until = released(work.facility, work.row, "reference")
    work.watch.until(until)
    drift_page = not store.exists(places.drift_page(work.id))
    task = task_of(work, perturbed, others, until)
    scored = score_apart(work.facility.settings, task.model_copy(update={"drift_page": drift_page}))
    report_digest = sha256_bytes(scored.report)
    store.put(places.report(work.id), scored.report)
    store.put(places.report_page(work.id), scored.page)
    if scored.drift_page:
        store.put(places.drift_page(work.id), scored.drift_page)
    with work.facility.record.transaction() as now:
        now.do(
            "step_done",
            submission=work.id,
            name="assess",
            output={
                "report": report_digest,
                "verdict": scored.verdict,
                "perturbed": perturbed,
                "comparators": others,
                "declaration": work.row["declaration_digest"],
            },
            seconds=time.monotonic() - started,
        )
        now.do(
            "submission_assessed",
            id=work.id,
            verdict=scored.verdict,
            report_digest=report_digest,
            held_for_review="; ".join(scored.held)[:2000] or None,
            deadline=deadline("assessed", dt.datetime.now(dt.UTC)),
        )


def task_of(
    work: Work,
    perturbed: Mapping[str, str],
    others: Mapping[str, Mapping[str, str]],
    until: dt.datetime,
) -> Task:
    """What is scored, by digest, of what the submission's steps wrote down.

    perturbed: digests by the perturbation's name. others: comparators' runs by name; both as the
    assess step keeps them. So the report can be computed again later, from the record alone.
    """
    ran = work.output_of("run")
    if ran is None:
        raise Refused("there are no predictions to assess")
    further = {
        name: File(places.perturbed_predictions(work.id, name, digest), digest)
        for name, digest in perturbed.items()
    } | {
        name: File(places.predictions(run["submission"]), run["predictions"])
        for name, run in others.items()
    }
    return Task(
        submission=work.id,
        manifest_path=work.row["manifest_path"],
        manifest_digest=work.row["manifest_digest"],
        predictions=File(places.predictions(work.id), ran["predictions"]),
        further=further,
        certified=scored_with(work, predecessor_of(work)),
        declaration=work.row["declaration_digest"],
        protocol=work.row["protocol_body"],
        protocol_digest=work.protocol.digest,
        development=work.row["development"],
        model_digest=work.row["model_digest"],
        environment=ran["environment"],
        until=until,
    )


def _perturbed(work: Work) -> dict[str, str]:
    """The digests of the perturbed runs' files, by the perturbation's name."""
    digests = {}
    for perturbation in work.protocol.perturbations:
        made = work.output_of(step_of(perturbation))
        if made is None:
            raise Refused(f"the run under {perturbation.name} was not made")
        name, digest = perturbation.name, made["predictions"]
        note_read(work.facility, work.row, "predictions-read", digest=digest, under=name)
        digests[name] = digest
    return digests
