"""The certified version's run over the cohort that a new version of it was run on.

    >>> run_certified(work)             # a row `predecessor/run`, and a file where it answered

Rules
-----
1. Only where `predecessor` says so: the certified version was run on another cohort version, and
   what it takes in is what this cohort holds. It comes after the new version's own runs, under a
   release of the inputs, before the reference standard's.
2. Its files are those of the digest in the certificate; contract and rules are those that it was
   certified with. They pass intake again, and a subset is answered again, as for every run.
3. It never harms the new version. Whatever it does ends in one sentence, written down once. What
   ends the turn (a host that is away) lets it begin once more, and after `STARTS` there is a
   sentence. It does not begin where a worker died on this submission or met what nobody foresaw:
   three of these would end the new version for what may be the old one's doing.
4. It ends `MARGIN` before the submission's deadline, so that scoring has the time that it may take.
5. One worker runs it, the one whose turn it is; nobody helps. Who comes second with the row changes
   nothing.
"""

import datetime as dt
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from registry.audit.reads import note_read
from registry.pipeline import canary
from registry.pipeline.answering import again, file_of, joined
from registry.pipeline.before import open_inputs
from registry.pipeline.killed import unless_killed
from registry.pipeline.pool import pool
from registry.pipeline.predecessor import RUN, Predecessor, fix_predecessor, predecessor_of
from registry.pipeline.predictions import answers_in
from registry.pipeline.release import LASTS
from registry.pipeline.run import Run
from registry.pipeline.work import Trace, Work
from registry.submissions import places
from registry.trust.canonical import sha256_bytes
from registry.trust.errors import Conflict, Tampered, TouchstoneError, Unavailable
from serving.client import Restarts, answered
from serving.sandbox.failures import ModelFailure
from validators.cohort.keys import InputKey
from validators.cohort.manifest import Manifest
from validators.intake import decide

MARGIN: Final = LASTS["reference"]
STARTS: Final = 2
RESTARTS: Final = 2
"""Fresh processes that it is given: what hangs does not use up the new version's time."""
NO_TIME: Final = "there was no time left to run the certified version"
NOT_ENDED: Final = "the certified version's run was begun twice and did not end"
LOST: Final = "the certified version was not run: work on this submission broke off before"
NO_ANSWER: Final = "the certified version answered no case of this cohort version"
NOT_REPEATABLE: Final = "the certified version did not give the same answers again"


class _CanNotBeCompared(Exception):
    """The sentence that says why."""


def run_certified(work: Work) -> None:
    """Find the certified version, and run it where that is due and was not done."""
    fix_predecessor(work)
    found = predecessor_of(work)
    if found is None or not found.run_here or work.output_of(RUN) is not None:
        return
    started, digest, why = time.monotonic(), None, ""
    try:
        digest = _ran(work, found)
    except _CanNotBeCompared as reason:
        why = str(reason)
    with work.facility.record.transaction() as now:
        now.do(
            "step_done",
            submission=work.id,
            name=RUN,
            output={"predictions": digest, "not_compared": why},
            seconds=time.monotonic() - started,
        )


def _ran(work: Work, found: Predecessor) -> str:
    """The digest of the stored predictions. Raises _CanNotBeCompared."""
    _in_time(work)
    _begin(work)
    with work.facility.record.transaction() as now:
        body = now.one("protocol_by_digest", digest=found.protocol)["body"]
    changed = {"model_digest": found.model, "protocol_body": body}
    old = replace(work, row=work.row | changed, trace=Trace(), progress=lambda done, total: None)
    try:
        files = old.model_files()
    except TouchstoneError:
        raise _CanNotBeCompared(
            "the facility no longer holds the certified version's files"
        ) from None
    manifest, key = open_inputs(work)
    note_read(work.facility, work.row, "cohort-read", part="inputs", certified=found.certificate)
    try:
        data = _answers(old, files, manifest, key)
    except (Unavailable, Conflict, Tampered):
        raise  # the host or the cohort, and not the model
    except TouchstoneError as error:
        _unless_ours(work, error)
        raise _CanNotBeCompared(
            f"the certified version could not be run on this cohort version: {error.message}"
        ) from None
    digest = sha256_bytes(data)
    work.facility.store.put(places.certified_predictions(work.id, digest), data)
    return digest


def _answers(old: Work, files: dict[str, bytes], manifest: Manifest, key: InputKey) -> bytes:
    with old.start_inspection() as inspection:
        decide(unless_killed(inspection, lambda: inspection.inspect(files)), old.contract)
    run = Run(old, manifest, key)

    def in_time() -> Iterator[int]:
        for shard in range(len(manifest.shards)):
            _in_time(old)
            yield shard

    with pool(old, files, manifest) as sandboxes:
        found = answered(
            sandboxes, run.shards(in_time()), old.contract, Restarts(RESTARTS), order_seed=run.seed
        )
        data = joined(old, [file_of(old, [of]) for of in found])
        _, _, failures = answers_in([data])
        if all(failures):
            raise _CanNotBeCompared(NO_ANSWER)
        _in_time(old)
        if not again(run, sandboxes[0], data).agrees:
            raise _CanNotBeCompared(NOT_REPEATABLE)
    return data


def _in_time(work: Work) -> None:
    ends: dt.datetime | None = work.row["deadline"]
    if ends is not None and dt.datetime.now(dt.UTC) > ends - MARGIN:
        raise _CanNotBeCompared(NO_TIME)


def _begin(work: Work) -> None:
    """Write down that it begins, so that what ends turns is not begun for ever."""
    starts = [f"{RUN}/{number}" for number in range(1, STARTS + 1)]
    name = next((of for of in starts if work.output_of(of) is None), None)
    if name is None:
        raise _CanNotBeCompared(NOT_ENDED)
    with work.facility.record.transaction() as now:
        lost = now.one("turns_lost", submission=work.id, state=work.row["state"])
        if lost["died"] or lost["unforeseen"]:
            raise _CanNotBeCompared(LOST)
        now.do("step_done", submission=work.id, name=name, output={}, seconds=0.0)


def _unless_ours(work: Work, error: TouchstoneError) -> None:
    """Raise what was not the model's doing: the submission was stopped, or the host is unsound."""
    if work.watch.stopped:
        raise error  # by us: `carry` sees why
    if isinstance(error, ModelFailure) and not canary.sound(work.start_own_sandbox):
        raise Unavailable("this host no longer runs the facility's own model", code="host_unsound")
