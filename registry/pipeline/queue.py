"""The durable queue, on the same Postgres (procrastinate), in a schema of its own.

Rules
-----
1. A job is a ticket for one turn, and no more: whose turn it is, is chosen when the turn begins
   (`turns`). So nobody's place in the queue depends on how many tickets another has.
2. A submission is in the queue that its protocol names, and a worker takes turns of the queues that
   it was started for.
3. At most one waiting ticket a submission; asking twice is asking once.
4. The sweep, every few seconds, gives each unfinished submission its ticket and has the watchdog
   look at what is overdue. A ticket too many helps with the runs that others lead, or ends.
"""

import asyncio
import contextlib
import datetime as dt
import logging
import os
import socket
from collections.abc import Sequence
from typing import Any

import procrastinate
from procrastinate import exceptions, jobs

from registry.audit.asking import ask_for_ever
from registry.audit.checkpoints import keep_up_for_ever
from registry.facility import Facility
from registry.pipeline.carry import carry
from registry.pipeline.overdue import look_at_overdue
from registry.pipeline.parts import help_out
from registry.pipeline.turns import QUEUES, next_turn
from registry.status.publish import keep_up_for_ever as keep_status_for_ever
from registry.trust.errors import TouchstoneError, Unavailable

TRIES = 3
SWEEP_SECONDS = 5.0
STALLED_SECONDS = 30.0
_IN_SCHEMA = {"options": "-c search_path=queue"}
log = logging.getLogger("touchstone.queue")


def enqueue(facility: Facility, submission: str, queue: str = "cpu") -> None:
    """Ask for a submission to be carried on. What is lost here is found by the sweep."""
    connector = procrastinate.SyncPsycopgConnector(
        conninfo=facility.databases.app, kwargs=_IN_SCHEMA
    )
    app = procrastinate.App(connector=connector)
    with app.open(), contextlib.suppress(exceptions.AlreadyEnqueued):
        app.configure_task("carry", queue=queue, queueing_lock=submission).defer()


def worker_app(
    facility: Facility, queues: Sequence[str] = QUEUES, *, allow_unsandboxed: bool = False
) -> procrastinate.App:
    """The queue with its one task, for a worker."""
    app = procrastinate.App(
        connector=procrastinate.PsycopgConnector(conninfo=facility.databases.app, kwargs=_IN_SCHEMA)
    )

    worker = f"{socket.gethostname()}:{os.getpid()}"

    @app.task(
        name="carry",
        pass_context=True,
        retry=procrastinate.RetryStrategy(max_attempts=TRIES, wait=2),
    )
    def take_a_turn(context: procrastinate.JobContext) -> None:
        with next_turn(facility, worker, queues) as turn:
            if turn is None:
                help_out(
                    facility,
                    queues,
                    allow_unsandboxed=allow_unsandboxed,
                    stopping=context.should_abort,
                )
            else:
                carry(
                    facility,
                    turn,
                    allow_unsandboxed=allow_unsandboxed,
                    stopping=context.should_abort,
                )

    return app


async def work(
    facility: Facility, queues: Sequence[str] = QUEUES, *, allow_unsandboxed: bool = False
) -> None:
    """Work until told to stop by SIGINT or SIGTERM."""
    app = worker_app(facility, queues, allow_unsandboxed=allow_unsandboxed)
    try:
        async with app.open_async():
            keepers = [
                asyncio.create_task(keep_up_for_ever(facility)),
                asyncio.create_task(ask_for_ever(facility)),
                asyncio.create_task(keep_status_for_ever(facility)),
            ]
            sweeper = asyncio.create_task(
                _sweep_for_ever(app, facility, queues, allow_unsandboxed=allow_unsandboxed)
            )
            try:
                await app.run_worker_async(
                    queues=list(queues),
                    concurrency=1,
                    delete_jobs=jobs.DeleteJobCondition.SUCCESSFUL,
                    stalled_worker_timeout=STALLED_SECONDS,
                    fetch_job_polling_interval=1.0,
                    shutdown_graceful_timeout=5,
                )
            finally:
                sweeper.cancel()
                for keeper in keepers:
                    keeper.cancel()
    except exceptions.ConnectorException as error:
        raise Unavailable("the worker lost the database; start it again") from error


async def _sweep_for_ever(
    app: procrastinate.App, facility: Facility, queues: Sequence[str], *, allow_unsandboxed: bool
) -> None:
    while True:
        try:
            await sweep(app, facility)
            await asyncio.to_thread(
                look_at_overdue,
                facility,
                dt.datetime.now(dt.UTC),
                queues=queues,
                allow_unsandboxed=allow_unsandboxed,
            )
        except (TouchstoneError, exceptions.ConnectorException) as error:
            log.warning("sweep: %s", error)
        await asyncio.sleep(SWEEP_SECONDS)


async def sweep(app: procrastinate.App, facility: Facility) -> int:
    """Retry stalled tickets and give each unfinished submission one; returns how many."""
    moved = 0
    for job in await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=STALLED_SECONDS):
        with contextlib.suppress(exceptions.AlreadyEnqueued):
            await app.job_manager.retry_job(job)
            moved += 1
    for row in await asyncio.to_thread(_unfinished, facility):
        with contextlib.suppress(exceptions.AlreadyEnqueued):
            await app.configure_task(
                "carry", queue=row["queue"], queueing_lock=str(row["id"])
            ).defer_async()
            moved += 1
    return moved


def _unfinished(facility: Facility) -> list[dict[str, Any]]:
    with facility.record.transaction() as now:
        return now.all("submissions_unfinished")
