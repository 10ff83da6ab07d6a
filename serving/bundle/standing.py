"""Whether a certificate is still in force, as the facility's newest signed status says.

    >>> standing = standing_of(statement_digest, at)     # a StandingOf
    >>> standing.require(at)                             # Refused where it may not be used

Rules
-----
1. The facility may suspend or revoke; time alone may end it too: a status that is not renewed says
   nothing after `use_until`, which follows from the status' own dates and the hospital's policy.
2. What can't be known is refused: no status, one that went back, or one of another root.
"""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from registry.trust.errors import Refused

State = Literal["in_force", "suspended", "revoked"]


@dataclass(frozen=True)
class Standing:
    """What the status says of one certificate.

    reason: of a suspension or revocation, for people. signed_at: when the facility last renewed
    its status. use_until: after this moment it must not be used without a newer status.
    """

    state: State
    reason: str
    signed_at: dt.datetime
    use_until: dt.datetime

    def require(self, at: dt.datetime) -> None:
        """Raise Refused (suspended, revoked, status_expired) where it may not be used at `at`."""
        if self.state != "in_force":
            raise Refused(
                f"the facility has {self.state} this certificate: {self.reason}. Stop using the "
                "model and ask the facility what to do",
                code=self.state,
            )
        if at > self.use_until:
            raise Refused(
                f"the newest status known here is of {self.signed_at:%Y-%m-%d} and ended on "
                f"{self.use_until:%Y-%m-%d}: fetch a newer one (`touchstone status fetch`)",
                code="status_expired",
            )


StandingOf = Callable[[str, dt.datetime], Standing]
"""(digest of the signed statement, now) -> its standing. Raises Refused, Tampered, Unavailable."""
