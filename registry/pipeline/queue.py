"""The durable queue, on the same Postgres (procrastinate), in a schema of its own.

Rules
-----
1. A job is the id of a submission and nothing else: what is to be done stands in the record.
2. One live job a submission; asking twice is asking once.
3. A job whose worker stopped its heartbeat is given to another (the sweep, every few seconds).
"""

import asyncio
import contextlib
import logging
from typing import Any

import procrastinate
from procrastinate import exceptions, jobs

from registry.audit.checkpoints import keep_up_for_ever
from registry.facility import Facility
from registry.pipeline.carry import carry
from registry.trust.errors import Unavailable

QUEUE = "cpu"
TRIES = 3
SWEEP_SECONDS = 5.0
STALLED_SECONDS = 30.0
_IN_SCHEMA = {"options": "-c search_path=queue"}
log = logging.getLogger("touchstone.queue")


def enqueue(facility: Facility, submission: str) -> None:
    """Ask for a submission to be carried on. What is lost here is found by the sweep."""
    connector = procrastinate.SyncPsycopgConnector(
        conninfo=facility.databases.app, kwargs=_IN_SCHEMA
    )
    app = procrastinate.App(connector=connector)
    with app.open(), contextlib.suppress(exceptions.AlreadyEnqueued):
        app.configure_task("carry", queue=QUEUE, lock=submission, queueing_lock=submission).defer(
            submission=submission
        )


def worker_app(facility: Facility, *, allow_unsandboxed: bool = False) -> procrastinate.App:
    """The queue with its one task, for a worker."""
    app = procrastinate.App(
        connector=procrastinate.PsycopgConnector(conninfo=facility.databases.app, kwargs=_IN_SCHEMA)
    )

    @app.task(
        name="carry",
        queue=QUEUE,
        pass_context=True,
        retry=procrastinate.RetryStrategy(max_attempts=TRIES, wait=2),
    )
    def carry_submission(context: procrastinate.JobContext, submission: str) -> None:
        attempts = context.job.attempts if context.job else 0
        carry(
            facility,
            submission,
            last_try=attempts + 1 >= TRIES,
            allow_unsandboxed=allow_unsandboxed,
        )

    return app


async def work(facility: Facility, *, allow_unsandboxed: bool = False) -> None:
    """Work until told to stop by SIGINT or SIGTERM."""
    app = worker_app(facility, allow_unsandboxed=allow_unsandboxed)
    try:
        async with app.open_async():
            sweeper = asyncio.create_task(_sweep_for_ever(app, facility))
            log_keeper = asyncio.create_task(keep_up_for_ever(facility))
            try:
                await app.run_worker_async(
                    queues=[QUEUE],
                    concurrency=1,
                    delete_jobs=jobs.DeleteJobCondition.SUCCESSFUL,
                    stalled_worker_timeout=STALLED_SECONDS,
                    fetch_job_polling_interval=1.0,
                    shutdown_graceful_timeout=5,
                )
            finally:
                sweeper.cancel()
                log_keeper.cancel()
    except exceptions.ConnectorException as error:
        raise Unavailable("the worker lost the database; start it again") from error


async def _sweep_for_ever(app: procrastinate.App, facility: Facility) -> None:
    while True:
        try:
            await sweep(app, facility)
        except (Unavailable, exceptions.ConnectorException) as error:
            log.warning("sweep: %s", error)
        await asyncio.sleep(SWEEP_SECONDS)


async def sweep(app: procrastinate.App, facility: Facility) -> int:
    """Retry stalled jobs and enqueue unfinished submissions without one; returns how many."""
    moved = 0
    for job in await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=STALLED_SECONDS):
        await app.job_manager.retry_job(job)
        moved += 1
    for row in await asyncio.to_thread(_unfinished, facility):
        with contextlib.suppress(exceptions.AlreadyEnqueued):
            submission = str(row["id"])
            if not await _is_under_way(app, submission):
                await app.configure_task(
                    "carry", queue=QUEUE, lock=submission, queueing_lock=submission
                ).defer_async(submission=submission)
                moved += 1
    return moved


async def _is_under_way(app: procrastinate.App, submission: str) -> bool:
    live = [
        job
        for status in ("todo", "doing")
        for job in await app.job_manager.list_jobs_async(lock=submission, status=status)
    ]
    return bool(live)


def _unfinished(facility: Facility) -> list[dict[str, Any]]:
    with facility.record.transaction() as now:
        return now.all("submissions_unfinished")
