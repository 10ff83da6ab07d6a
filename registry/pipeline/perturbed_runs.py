"""The runs under perturbation that a protocol asks for, after the run itself.

    >>> run_perturbed(work)             # a row `run/noise_3_image` and a file for each

Rules
-----
1. Each is a run of its own: a fresh process at the same level of sandbox, the same cases in the
   same order and batches; only the inputs differ. Its file and its row are written once, so that
   whoever takes over makes those that are missing and no other.
2. The attempt was spent by the run itself. The log notes each reading of the cohort.
3. A model that keeps crashing under a perturbation has answered no case of that run: a collapse is
   what the question asks about, and no technical failure. So that nobody's fault is taken for the
   model's, our own model must still run here, and nobody may have stopped the process.
"""

import time

from registry.pipeline import canary
from registry.pipeline.before import open_inputs
from registry.pipeline.parts import lead
from registry.pipeline.pool import pool
from registry.pipeline.predictions import cases_of, predictions_file, stored_predictions
from registry.pipeline.run import Run, step_of
from registry.pipeline.work import Work
from registry.submissions import places
from registry.trust.canonical import sha256_bytes
from registry.trust.errors import Refused, Unavailable
from serving.sandbox.failures import ModelFailure
from validators.cohort.keys import InputKey
from validators.cohort.manifest import Manifest
from validators.robustness.severity import Perturbation


def run_perturbed(work: Work) -> None:
    """Make each perturbed run that has not been made; nothing where the protocol asks for none."""
    missing = [of for of in work.protocol.perturbations if work.output_of(step_of(of)) is None]
    if not missing:
        return
    manifest, key = open_inputs(work)
    files, asked = work.model_files(), len(work.protocol.perturbations)
    for place, perturbation in enumerate(missing, 1 + asked - len(missing)):
        _run(work, files, manifest, key, perturbation, place * manifest.counts.cases)


def _run(
    work: Work,
    files: dict[str, bytes],
    manifest: Manifest,
    key: InputKey,
    perturbation: Perturbation,
    done_before: int,
) -> None:
    started = time.monotonic()
    run = Run(work, manifest, key, perturbation)
    total = manifest.counts.cases * (1 + len(work.protocol.perturbations))
    with pool(work, files, manifest) as sandboxes:
        level, collapsed = dict(sandboxes[0].level), None
        try:
            data = lead(
                work,
                run,
                sandboxes,
                on_progress=lambda done: work.progress(done_before + done, total),
            )
        except ModelFailure as failure:
            collapsed = failure.code
            data = _nothing_answered(work, failure)
    digest = sha256_bytes(data)
    work.facility.store.put(places.perturbed_predictions(work.id, perturbation.name, digest), data)
    with work.facility.record.transaction() as now:
        now.do(
            "step_done",
            submission=work.id,
            name=step_of(perturbation),
            output={"predictions": digest, "sandbox": level, "collapsed": collapsed},
            seconds=time.monotonic() - started,
        )
        if not level.get("seccomp"):
            now.do("submission_uncertifiable", id=work.id)


def _nothing_answered(work: Work, failure: ModelFailure) -> bytes:
    """A file in which every case failed with this code, if it was the model that failed."""
    if work.watch.stopped:
        raise failure  # by us: `carry` sees why
    if not canary.sound(work.start_own_sandbox):
        raise Unavailable(
            "this host no longer runs the facility's own model; another makes this run again",
            code="host_unsound",
        )
    ran = work.output_of("run")
    if ran is None:
        raise Refused("there is no run to compare with")
    cases = cases_of(stored_predictions(work.facility, work.id, ran["predictions"]))
    return predictions_file(cases, [float("nan")] * len(cases), [failure.code] * len(cases))
