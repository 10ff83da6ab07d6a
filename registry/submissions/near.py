"""Whether a new version of a cohort is so near to another that the two tell of single cases.

    >>> near_versions(now, {"id": "lidc-nodules", "version": "2", "positives": 301, …})
    ['2 has 2 positives more than 1: …']

Rules
-----
1. Near is fewer than k cases of a class, and not none. k is the largest `minimum_group` of the
   protocols on the cohort, and at least 10.
2. It is a warning: who seals and who signs is told. What is released of either version is withheld
   by the same rule (`validators.report.suppression`).
3. Cases that were exchanged one for one leave the counts as they are, and are not seen.
"""

import json

from registry.database.record import Row, Transaction
from validators.protocol.read import parse_protocol
from validators.report.suppression import CLASSES, differs

SMALLEST_GROUP = 10


def near_versions(now: Transaction, row: Row) -> list[str]:
    """A line for each class and other version that the counts in `row` are too near to."""
    protocols = now.all("protocols_on_cohort", id=row["id"])
    asked = [parse_protocol(json.loads(one["body"])).disclosure for one in protocols]
    k = max([SMALLEST_GROUP, *(disclosure.minimum_group for disclosure in asked)])
    others = now.all("cohort_versions", id=row["id"], version=row["version"], until=None)
    return [
        f"version {row['version']} has {abs(row[side] - other[side])} {side} "
        f"{'more' if row[side] > other[side] else 'fewer'} than version {other['version']}: "
        f"numbers that two versions fewer than {k} apart would give away together are withheld; "
        "add or leave out more, or none"
        for other in others
        for side in CLASSES
        if differs(row[side], other[side], k)
    ]
