"""The way back for a hospital that lost its pilot key: another key, announced and agreed to.

    >>> announce(facility, clara, pem, "the disk died")["key"]
    'sha256:…'
    >>> agree(facility, ada, key)          # and ben: the second pins it

Rules
-----
1. A clinician of the hospital announces the key. Nothing changes by that: whoever took over the
   account could announce one too.
2. Two assessors agree, each after asking the hospital by another way which key it is: the digest is
   read out, and so is typed. The second different one pins it (0030_pilot_key_change.sql).
3. From then on no earlier key counts. Reports that were kept stay as they were signed.
"""

from typing import Any

from registry.database.record import Row, Transaction
from registry.facility import Facility
from registry.identity.caller import Caller
from registry.identity.policy import require
from registry.trust.errors import NotFound
from registry.trust.keys import key_id, parse_certificate, pem_of

NEEDED = 2


def announce(facility: Facility, caller: Caller, certificate: str, reason: str) -> dict[str, Any]:
    """Announce the key of `certificate` (PEM) in place of the one that is pinned.

    Raises Refused where none is pinned yet or this one was before, Conflict the second time.
    """
    require(caller, "pilot.report")
    leaf = parse_certificate(certificate.encode())
    with facility.record.transaction(caller) as now:
        now.do(
            "pilot_key_announce",
            key_id=key_id(leaf),
            organisation=caller.organisation,
            pem=pem_of(leaf).decode(),
            reason=reason,
            announced_by=caller.person,
        )
        return _shown(_announced(now, key_id(leaf)))


def agree(facility: Facility, caller: Caller, key: str) -> dict[str, Any]:
    """An assessor's agreement. Raises NotFound where nobody announced it, Conflict by one twice."""
    require(caller, "pilot.agree")
    with facility.record.transaction(caller) as now:
        _announced(now, key)
        now.do("pilot_key_agree", key_id=key, person=caller.person)
        return _shown(_announced(now, key))


def announced(facility: Facility, caller: Caller, key: str) -> dict[str, Any]:
    """How far a key has come, for those who may see it."""
    require(caller, "pilot.read")
    with facility.record.transaction(caller) as now:
        return _shown(_announced(now, key))


def _announced(now: Transaction, key: str) -> Row:
    row = now.maybe("pilot_key_announced", key_id=key)
    if row is None:
        raise NotFound("no hospital announced this key: ask it to read its digest out again")
    return row


def _shown(row: Row) -> dict[str, Any]:
    agreed = list(row["agreed_by"])
    return {
        "hospital": row["organisation"],
        "key": row["key_id"],
        "reason": row["reason"],
        "announced_by": row["announced_by"],
        "agreed_by": agreed,
        "needed": NEEDED,
        "pinned": len(agreed) >= NEEDED,
    }
