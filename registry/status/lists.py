"""From the record to the two lists of the status: pure.

    >>> wanted(certificates, stops)          # what two assessors are asked to sign
    >>> stopped(certificates, stops)         # what the machine signs, at once

Rules
-----
1. A stop is named by the moment at which the record suspended or revoked. It stays in the list for
   good: coming back is the assessors' `lifts`, never a line that is gone.
2. A certificate that is stopped, or has ended, is left out of the next list that assessors sign.
"""

import datetime as dt
from collections.abc import Iterable, Mapping

from registry.database.record import Row
from registry.trust.canonical import sha256_bytes
from registry.trust.dsse import payload_of
from registry.trust.status import Listed, Stop, moment_of


def statement_of(row: Row) -> tuple[str, int]:
    """(digest, length) of the signed statement in a row with an envelope."""
    payload = payload_of(row["envelope"])
    return sha256_bytes(payload), len(payload)


def listed_as(length: int, stop: Stop | None) -> Listed:
    """How a certificate in force is listed, whatever stopped it before."""
    return Listed(length, None if stop is None else stop.since)


def wanted(certificates: Iterable[Row], stops: Mapping[str, Stop]) -> dict[str, Listed]:
    """{statement: Listed} of every certificate in force by the record."""
    listed = {}
    for row in certificates:
        if row["in_force"]:
            digest, length = statement_of(row)
            listed[digest] = listed_as(length, stops.get(digest))
    return listed


def stopped(
    certificates: Iterable[Row], stops: Mapping[str, Stop], listed: Mapping[str, Listed]
) -> dict[str, Stop]:
    """`stops` and what the record has stopped since; `listed` is what assessors signed last."""
    found = dict(stops)
    for row in certificates:
        if row["state"] in ("suspended", "revoked"):
            digest, _ = statement_of(row)
            since, before = moment_of(row["changed_at"]), found.get(digest)
            if (
                before is not None
                and since <= before.since
                and not _holds(before, row["state"], listed.get(digest))
            ):
                since = _after(before.since)
            if before is None or before.since < since:
                found[digest] = Stop(row["state"], since, row["reason"] or "no reason was given")
    return found


def _holds(stop: Stop, state: str, listed: Listed | None) -> bool:
    """Whether a stop that is published says what the record says now."""
    lifts = None if listed is None else listed.lifts
    return stop.state == state and (lifts or "") < stop.since


def _after(moment: str) -> str:
    """One microsecond later: a server whose clock went back still stops what it has to."""
    return moment_of(dt.datetime.fromisoformat(moment) + dt.timedelta(microseconds=1))
