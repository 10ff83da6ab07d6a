"""The watchdog at work: look at every submission whose time is up, and do what is due.

    >>> look_at_overdue(facility, now)
    [('5f0c…', 'Notice')]

Rules
-----
1. What is due is decided in `submissions.watchdog`; this only does it.
2. A turn on a submission that is ended here is over within a second (`watch`).
3. A submission is ended by a worker of its own queue alone: whose fault it was is asked on a host
   that could have run it.
4. Before a certificate ends its submitter and the hospitals that pulled it are told, 60, 30 and 7
   days ahead. The database writes each notice once, however often or in how many workers it is
   asked (0024_pilots.sql).
5. A server that answers again at the deadline tells nothing of the time before: the turns do, which
   say why they ended (`fault.kept_waiting`).
6. One that fails is logged and does not keep the others from being looked at.
"""

import datetime as dt
import functools
import logging
from collections.abc import Sequence

from registry.database.record import Row
from registry.facility import Facility
from registry.pipeline.ending import fail
from registry.pipeline.turns import QUEUES
from registry.pipeline.where import start_model
from registry.submissions.fault import AWAY, kept_waiting
from registry.submissions.revoke import expire
from registry.submissions.watchdog import Action, Expire, Fail, Notice, due
from registry.trust.errors import TouchstoneError

log = logging.getLogger("touchstone.watchdog")


def look_at_overdue(
    facility: Facility,
    now: dt.datetime,
    *,
    queues: Sequence[str] = QUEUES,
    allow_unsandboxed: bool = False,
) -> list[tuple[str, str]]:
    """Do what is due at `now`; returns (submission, kind of action) of each."""
    with facility.record.transaction() as transaction:
        rows = transaction.all("overdue", now=now)
        transaction.one("tell_of_ends", now=now)
    done = []
    for row in rows:
        action = due(row["state"], deadline=row["deadline"], not_after=row["not_after"], now=now)
        try:
            if action is not None and not (isinstance(action, Fail) and row["queue"] not in queues):
                _do(facility, row, action, allow_unsandboxed=allow_unsandboxed)
                done.append((str(row["id"]), type(action).__name__))
        except TouchstoneError as error:
            log.warning("submission %s: %s", row["id"], error.message)
    return done


def _do(facility: Facility, row: Row, action: Action, *, allow_unsandboxed: bool) -> None:
    if isinstance(action, Expire):
        expire(facility, str(row["id"]))
    elif isinstance(action, Notice):
        with facility.record.transaction() as now:
            now.do(
                "notice_add",
                organisation=row["organisation"],
                submission=row["id"],
                kind=action.kind,
                message=action.message,
                occasion=row["deadline"],
            )
    elif isinstance(action, Fail):
        with facility.record.transaction() as now:
            tried = now.one(
                "worked_on", submission=row["id"], since=row["changed_at"], away=sorted(AWAY)
            )
        fail(
            facility,
            row,
            code=action.code,
            message=action.message,
            model_had_a_hand=tried["worked_on"],
            kept_waiting=kept_waiting(
                tried["answered_at"], tried["away_at"], tried["back_at"], until=row["deadline"]
            ),
            start=functools.partial(start_model, facility, allow_unsandboxed=allow_unsandboxed),
        )
