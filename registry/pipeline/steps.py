"""The steps that carry a submission from intake to review. Each may be run again at any time.

Rules
-----
1. A step reads things named by digest and writes one new one; what it wrote stays, so that a
   second run finds it and gives the same bytes.
2. The run step is given the input key, the assess step the reference standard's, each by a release
   in the record; the latter is used in a process of its own (`release`, `scoring`).
3. The attempt is spent in the moment before the first locked shard is decrypted.
4. Before the first locked shard a canary runs: on a host that can't run our own model nothing
   is spent. Whose fault a failure was is decided in `submissions.fault`.
5. Only what a hospital may see goes into the bundle.
6. On the development cohort a trial is spent in place of an attempt, and nothing is prepared for
   review (`trial`).
"""

import datetime as dt
import time
from collections.abc import Callable

from registry.audit.drafted import certified_log
from registry.mlflow_gate.versions import model_directory
from registry.pipeline.answering import again
from registry.pipeline.assessment import assess
from registry.pipeline.before import open_inputs
from registry.pipeline.certificate_draft import bundle_and_statement
from registry.pipeline.certified_run import run_certified
from registry.pipeline.comparators import check_comparators
from registry.pipeline.killed import unless_killed
from registry.pipeline.parts import lead
from registry.pipeline.perturbed_runs import run_perturbed
from registry.pipeline.pool import pool
from registry.pipeline.run import Run
from registry.pipeline.trial import conclude, spend_trial
from registry.pipeline.where import way_of
from registry.pipeline.work import Work
from registry.submissions import places
from registry.submissions.cohort_life import check_lock
from registry.submissions.declarations import declaration_of
from registry.submissions.families import note_weights
from registry.submissions.states import deadline, family
from registry.trust.canonical import sha256_bytes
from registry.trust.certificate import CertifiedLog
from registry.trust.errors import Refused, Tampered, Unavailable
from registry.trust.model_files import model_digest
from validators.evidence import Environment
from validators.intake import decide, files_from_directory


def begin(work: Work) -> None:
    """registered → intake."""
    _move(work, "intake")


def intake(work: Work) -> None:
    """intake → queued: may this file be run at all? Keeps the files by their digest."""
    started = time.monotonic()
    with model_directory(
        work.facility.artifacts,
        work.facility.databases.mlflow,
        work.row["organisation"],
        work.row["model_name"],
        work.row["model_version"],
    ) as directory:
        files = files_from_directory(directory)
    with work.start_inspection() as sandbox:
        work.trace.model_had_a_hand = True
        description = unless_killed(sandbox, lambda: sandbox.inspect(files))
    decide(description, work.contract)
    if description.weights is None:
        raise Refused("the inspection did not tell of the weights", code="model_invalid")
    digest = model_digest(files)
    for name, data in files.items():
        work.facility.store.put(places.model(digest) + name, data)
    with work.facility.record.transaction() as now:
        note_weights(now, work.row, description.weights)
        if work.row["model_digest"] is None:
            now.do("submission_model", id=work.id, model_digest=digest)
        now.do(
            "step_done",
            submission=work.id,
            name="intake",
            output={"model": digest, "files": {n: sha256_bytes(d) for n, d in files.items()}},
            seconds=time.monotonic() - started,
        )
        now.do("submission_move", id=work.id, state="queued", deadline=_due("queued"))


def begin_run(work: Work) -> None:
    """queued → running, unless the family has no attempt for it (the record says why)."""
    check_lock(work.facility, work.row)
    with work.facility.record.transaction() as now:
        now.one("family_check", submission=work.id)
        now.do("submission_move", id=work.id, state="running", deadline=_due("running"))


def run(work: Work) -> None:
    """Stream the locked cohort through the sandboxed model; keep raw predictions."""
    if work.output_of("run") is not None:
        return
    started = time.monotonic()
    manifest, input_key = open_inputs(work)
    check_comparators(work)
    declaration_of(work.facility, work.row)  # whole, before an attempt is spent
    files, protocol = work.model_files(), work.protocol
    total = manifest.counts.cases * (1 + len(protocol.perturbations))
    of = Run(work, manifest, input_key)
    with pool(work, files, manifest) as sandboxes:
        data = lead(
            work,
            of,
            sandboxes,
            before_first=lambda: _spend(work),
            on_progress=lambda done: work.progress(done, total),
        )
        first = sandboxes[0]
        level, versions, way = dict(first.level), dict(first.versions), way_of(first)
        execution = dict(first.execution)
        repeated = again(of, first, data)  # in a fresh process, which it starts
    if not repeated.agrees:
        raise Refused(
            f"the model is not repeatable: {repeated.decisions_changed} of {repeated.compared} "
            "decisions changed when the same cases came one by one in another order",
            code="not_repeatable",
        )
    work.facility.store.put(places.predictions(work.id), data)
    environment = Environment(
        versions=versions,
        providers=(str(execution["provider"]),),
        execution=execution,
        sandbox=level,
        repeatability={
            "compared": repeated.compared,
            "largest_difference": repeated.largest_difference,
            "decisions_changed": repeated.decisions_changed,
        },
    )
    with work.facility.record.transaction() as now:
        now.do(
            "step_done",
            submission=work.id,
            name="run",
            output={
                "predictions": sha256_bytes(data),
                "environment": environment.model_dump(mode="json"),
                "way": way,
            },
            seconds=time.monotonic() - started,
        )
        if not level.get("seccomp"):
            now.do("submission_uncertifiable", id=work.id)


def run_and_assess(work: Work) -> None:
    """running → assessed, in steps that can each be resumed."""
    run(work)
    run_perturbed(work)
    run_certified(work)
    assess(work)


def prepare(work: Work) -> None:
    """assessed → in_review: the bundle and the statement that assessors are asked to sign.

    On the development cohort: assessed → tried.
    """
    if work.row["development"]:
        conclude(work)
        return
    started = time.monotonic()
    digest = None
    if work.row["verdict"] in ("pass", "conditional") and work.row["certifiable"]:
        log = log_of(work)
        work.trace.model_had_a_hand = True
        files, statement = bundle_and_statement(work, log)
        for name, data in files.items():
            work.facility.store.put(places.bundle(work.id) + name, data)
        work.facility.store.put(places.statement(work.id), statement)
        digest = sha256_bytes(statement)
    with work.facility.record.transaction() as now:
        now.do(
            "step_done",
            submission=work.id,
            name="prepare",
            output={"statement": digest},
            seconds=time.monotonic() - started,
        )
        now.do(
            "submission_in_review",
            id=work.id,
            statement_digest=digest,
            deadline=_due("in_review"),
        )


def log_of(work: Work) -> CertifiedLog:
    """The log over what led to the verdict; the same when the step is run again."""
    if work.output_of("log") is None:
        started = time.monotonic()
        try:
            log = certified_log(work.facility, _last_event(work))
        except Tampered as error:  # no fault of the model's: it waits until the log is explained
            raise Unavailable(error.message) from error
        with work.facility.record.transaction() as now:
            now.do(
                "step_done",
                submission=work.id,
                name="log",
                output=log.model_dump(mode="json"),
                seconds=time.monotonic() - started,
            )
    return CertifiedLog.model_validate(work.output_of("log"))


def _last_event(work: Work) -> int:
    """The number of the last event of this submission, which the state of the log must cover."""
    with work.facility.record.transaction() as now:
        rows = now.all("log_events_about", seq=None, subject=work.id, organisation=None)
    return int(rows[-1]["seq"])


def _spend(work: Work) -> None:
    if work.row["development"]:
        spend_trial(work)
        return
    with work.facility.record.transaction() as now:
        now.do(
            "attempt_spend",
            submission=work.id,
            family=family(work.row["organisation"], work.row["protocol_id"]),
            cohort_id=work.row["cohort_id"],
            cohort_version=work.row["cohort_version"],
        )


def _move(work: Work, state: str) -> None:
    with work.facility.record.transaction() as now:
        now.do("submission_move", id=work.id, state=state, deadline=_due(state))


def _due(state: str) -> dt.datetime | None:
    return deadline(state, dt.datetime.now(dt.UTC))


STEPS: dict[str, Callable[[Work], None]] = {
    "registered": begin,
    "intake": intake,
    "queued": begin_run,
    "running": run_and_assess,
    "assessed": prepare,
}
