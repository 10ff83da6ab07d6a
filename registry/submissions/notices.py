"""What those concerned are told: read by polling, no e-mail.

    >>> listing(facility, clara)
    [{'number': 7, 'kind': 'suspended', 'message': 'nodule-net version 3 is suspended: …', …}]

Rules
-----
1. A notice is written in the transaction of what it tells, by the database, and never changed.
2. The submitter's organisation is told of its submissions, a hospital of the models it pulled,
   and the facility's people see every notice.
3. Sixty, thirty and seven days before a certificate ends both are told, once each.
"""

from typing import Any

from registry.facility import Facility
from registry.identity.caller import Caller
from registry.identity.policy import require


def listing(
    facility: Facility, caller: Caller, *, after: int = 0, limit: int = 200
) -> list[dict[str, Any]]:
    """Notices that the caller may read, oldest first, those with a number beyond `after`."""
    require(caller, "notice.read")
    with facility.record.transaction(caller) as now:
        rows = now.all("notices", after=after, limit=limit)
    return [
        {
            "number": row["number"],
            "organisation": row["organisation"],
            "submission": str(row["submission"]),
            "kind": row["kind"],
            "message": row["message"],
            "at": row["at"].isoformat(),
        }
        for row in rows
    ]
