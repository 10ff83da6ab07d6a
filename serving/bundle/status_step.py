"""The two steps of `verify` that ask the facility's status: is it fresh, is this one in force.

    >>> asked = StatusAsked(root, Path("state"))
    >>> asked.fresh(at)                       # ("ok", sentence); Refused, Tampered, Unavailable
    >>> asked.in_force(statement, at)         # after the signatures, which give the statement

Rules
-----
1. With a folder, what lies in it is taken into the state first.
2. Who leaves the status out says so; the step stays in the result as skipped.
"""

import datetime as dt
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509

from serving.bundle.status import NO_GRACE, Found, Status, fresh, in_force
from serving.bundle.status_copy import fetch, folder_reader, kept

LEFT_OUT: Found = (
    "skipped",
    "not asked for, as told: a suspension or revocation would not be noticed",
)


@dataclass
class StatusAsked:
    """Where the status and what is remembered are, and the hospital's own grace."""

    root: x509.Certificate
    state: Path
    folder: Path | None = None
    grace: dt.timedelta = NO_GRACE
    _status: Status | None = field(default=None, init=False)

    def fresh(self, at: dt.datetime) -> Found:
        """Read, check and remember it; whether it may still be relied on."""
        if self.folder is not None:
            self._status = fetch(self.state, self.root, at, folder_reader(self.folder))
        else:
            self._status, _ = kept(self.state, self.root, at)
        return fresh(self._status, at, self.grace)

    def in_force(self, statement: str, at: dt.datetime) -> Found:
        """Whether the certificate with this statement is in force."""
        assert self._status is not None
        return in_force(self._status, statement, at, self.grace)
