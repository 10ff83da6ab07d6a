"""A run in parts, shared out among workers on any number of hosts through the record.

    >>> data = lead(work, run, sandboxes)            # the worker whose turn it is
    >>> help_out(facility, stopping=…)               # a worker that has no turn of its own

Rules
-----
1. A part is a few shards of the cohort in a row. Its answers are a function of model, protocol and
   cohort alone: an object by its digest and a row, each written once. Who comes second with a part
   finds the row and changes nothing.
2. A part is claimed by whoever works on it (`database.claim`); a worker that is lost lets go of it
   and another takes it. What was answered before stays.
3. The leader takes what nobody else holds, waits for what others do, and puts all together in the
   order of the cohort: the same bytes, however many took part.
4. A run is put together of parts of one class: what bytes are promised alike within. Parts that
   another class left behind are answered again.
5. Helpers come once a leader of their class is at work, which holds a claim on its class, or has
   answered a part. They need what the leader needs: the lock, a release of the key, a sound host at
   the level that the protocol asks for. A helper's failure ends nothing: the leader meets it
   itself, and it is judged there. To look whether there is something to do costs a few questions.
6. A model that needs more fresh processes than `MAXIMUM_RESTARTS`, over all parts, fails the run.
"""

import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Final

from registry.audit.reads import note_read
from registry.database.claim import Claims, claims
from registry.database.record import Row
from registry.facility import Facility
from registry.pipeline.answering import file_of, joined
from registry.pipeline.before import open_inputs
from registry.pipeline.manifests import known_manifest
from registry.pipeline.pool import pool, processor_seconds
from registry.pipeline.run import Run, parts_of, step_of
from registry.pipeline.turns import QUEUES
from registry.pipeline.watch import Watch
from registry.pipeline.work import Work
from registry.submissions import places
from registry.trust.canonical import digest_of, sha256_bytes
from registry.trust.errors import Conflict, Tampered, TouchstoneError
from serving.answering import Answers
from serving.calls import Model
from serving.client import Restarts, answered
from validators.cohort.stream import read_sealed

_WAIT_SECONDS: Final = 0.2
_WORKER: Final = f"{socket.gethostname()}:{os.getpid()}"[-200:]
log = logging.getLogger("touchstone.pipeline")


def lead(
    work: Work,
    run: Run,
    sandboxes: list[Model],
    *,
    before_first: Callable[[], None] = lambda: None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> bytes:
    """Have every part answered, by this worker or by others; the run's file of answers.

    before_first is called when the first shard was found intact, before any is decrypted. Raises
    what made a part fail here: ModelFailure, Tampered, Unavailable; Conflict once it was stopped.
    """
    _note(work, run)
    read_sealed(run.manifest.shards[0], work.facility.store)
    before_first()
    parts, kind = parts_of(run.manifest), class_of(sandboxes[0])
    with claims(work.facility.databases.app) as ours:
        ours.claim(_claim(work, run.name, kind))  # until we end: who computes alike may help
        while len(rows := _rows(work, run.name, kind)) < len(parts):
            if _answer_free(work, run, sandboxes, ours, on_progress):
                continue
            if work.watch.stopped:
                raise Conflict("the run was stopped", code="sandbox_stopped")
            on_progress(_cases(run, rows))
            time.sleep(_WAIT_SECONDS)
    return joined(work, (_stored(work, run.name, row) for row in rows.values()))


def help_out(
    facility: Facility,
    queues: Sequence[str] = QUEUES,
    *,
    allow_unsandboxed: bool = False,
    stopping: Callable[[], bool] = lambda: False,
) -> int:
    """Answer parts of whatever runs under others' lead; returns how many."""
    with facility.record.transaction() as now:
        running = [str(row["id"]) for row in now.all("submissions_running", queues=list(queues))]
    answered_parts = 0
    for submission in running:
        with Watch(facility.record, submission, stopping) as watch:
            with facility.record.transaction() as now:
                row = now.one("submission_by_id", id=submission)
            try:
                answered_parts += _help(Work(facility, row, watch, allow_unsandboxed))
            except TouchstoneError as error:
                log.info("helping with submission %s ended: %s", submission, error.code)
    return answered_parts


def _help(work: Work) -> int:
    asked = [None, *work.protocol.perturbations]
    under_way = next((of for of in asked if work.output_of(step_of(of)) is None), None)
    name = step_of(under_way)
    with claims(work.facility.databases.app) as ours:
        leads = _leading_class(work, name, ours)
        if leads is None or not _any_free(work, name, leads, ours):
            return 0
        manifest, key = open_inputs(work)
        run = Run(work, manifest, key, under_way)
        _note(work, run)
        with pool(work, work.model_files(), manifest) as sandboxes:
            if class_of(sandboxes[0]) != leads:
                return 0
            return _answer_free(work, run, sandboxes, ours)


def _note(work: Work, run: Run) -> None:
    note_read(work.facility, work.row, "cohort-read", part="inputs", **run.about)


def class_of(sandbox: Model) -> str:
    """What bytes are promised alike within: provider, its options, the processor, the versions."""
    return digest_of([sandbox.execution, sandbox.versions])


def _leading_class(work: Work, name: str, ours: Claims) -> str | None:
    """The class that answered the last part; before the first ours, if such a leader is at work."""
    with work.facility.record.transaction() as now:
        rows = now.all("parts", submission=work.id, run=name)
    if rows:
        return str(max(rows, key=lambda row: row["finished_at"])["class"])
    with work.start_own_sandbox() as sandbox:
        kind = class_of(sandbox)
    return None if _free(ours, _claim(work, name, kind)) else kind


def _any_free(work: Work, name: str, kind: str, ours: Claims) -> bool:
    """Whether there is a part that nobody answered or holds. Nothing is released to find out."""
    rows = _rows(work, name, kind)
    parts = range(len(parts_of(known_manifest(work))))
    return any(part not in rows and _free(ours, _claim(work, name, part)) for part in parts)


def _free(ours: Claims, claim: str) -> bool:
    """Whether nobody holds it."""
    if mine := ours.claim(claim):
        ours.let_go(claim)
    return mine


def _answer_free(
    work: Work,
    run: Run,
    sandboxes: list[Model],
    ours: Claims,
    on_progress: Callable[[int], None] = lambda done: None,
) -> int:
    """Answer every part that nobody else answered or holds; returns how many."""
    kind = class_of(sandboxes[0])
    parts, rows = parts_of(run.manifest), _rows(work, run.name, kind)
    mine: deque[int] = deque()

    def shards_of_ours() -> Iterator[int]:
        for number, shards in enumerate(parts):
            if number in rows or not ours.claim(claim := _claim(work, run.name, number)):
                continue
            if number in _rows(work, run.name, kind):  # finished between the look and the claim
                ours.let_go(claim)
                continue
            mine.append(number)
            yield from shards

    shards = shards_of_ours()
    first = next(shards, None)
    if first is None:
        return 0
    restarts = Restarts(given=sum(row["restarts"] for row in rows.values()))
    of_part: list[Answers] = []
    done, began, before = 0, time.monotonic(), processor_seconds(sandboxes)
    for answers in answered(
        sandboxes,
        run.shards(chain([first], shards)),
        work.contract,
        restarts,
        order_seed=run.seed,
    ):
        of_part.append(answers)
        if len(of_part) == len(parts[mine[0]]):
            part = mine.popleft()
            now, spent = time.monotonic(), processor_seconds(sandboxes)
            took = None if spent is None or before is None else max(0.0, spent - before)
            _keep(work, run.name, part, kind, of_part, now - began, took)
            ours.let_go(_claim(work, run.name, part))
            of_part, began, before, done = [], now, spent, done + 1
            on_progress(_cases(run, _rows(work, run.name, kind)))
    return done


def _keep(
    work: Work,
    name: str,
    part: int,
    kind: str,
    answers: list[Answers],
    seconds: float,
    processor: float | None,
) -> None:
    data = file_of(work, answers)
    digest = sha256_bytes(data)
    work.facility.store.put(places.part(work.id, name, part, digest), data)
    with work.facility.record.transaction() as now:
        now.do(
            "part_done",
            **{"submission": work.id, "run": name, "part": part, "class": kind, "answers": digest},
            restarts=sum(of.restarts for of in answers),
            seconds=seconds,
            processor_seconds=processor,
            worker=_WORKER,
        )


def _stored(work: Work, name: str, row: Row) -> bytes:
    data = work.facility.store.get(places.part(work.id, name, row["part"], row["answers"]))
    if sha256_bytes(data) != row["answers"]:
        raise Tampered(f"part {row['part']} of {name} is not what a worker wrote down")
    return data


def _rows(work: Work, name: str, kind: str) -> dict[int, Row]:
    """The parts that were answered within this class."""
    with work.facility.record.transaction() as now:
        rows = now.all("parts", submission=work.id, run=name)
    return {row["part"]: row for row in rows if row["class"] == kind}


def _cases(run: Run, rows: Iterable[int]) -> int:
    """How many cases these parts have."""
    parts, shards = parts_of(run.manifest), run.manifest.shards
    return sum(shards[index].cases for part in rows for index in parts[part])


def _claim(work: Work, name: str, what: int | str) -> str:
    """The name of a part, by its number, or of the lead of a class."""
    return f"{work.id}/{name}/{what}"
