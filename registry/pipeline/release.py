"""The release of a cohort's key to one step of one submission.

    >>> key, ends = release_inputs(facility, row, manifest)

Rules
-----
1. A release is a row and an event, committed before the key is unwrapped (0015_cohort_life.sql).
2. The inputs' key is released while the submission runs, until the reference standard's was (runs
   under perturbation come after the run itself); that one once there are predictions: no step is
   given both, and none goes back. A burned cohort's keys are released to none.
3. A release ends after `LASTS`, or with the state's deadline where that comes first. Whoever works
   under it ends with it: the run asks before each shard, and `watch` kills its sandboxes; the
   process that scores is ended by its kernel, and by the worker (`scoring`).
4. A step that is tried again gets a release of its own. Nothing is the model's fault by this.
"""

import datetime as dt
from typing import Final, Literal

from registry.database.record import Row
from registry.facility import Facility
from registry.storage.key_encryption import facility_keys
from validators.cohort.keys import InputKey
from validators.cohort.manifest import Manifest

Purpose = Literal["inputs", "reference"]
LASTS: Final[dict[Purpose, dt.timedelta]] = {
    "inputs": dt.timedelta(hours=48),
    "reference": dt.timedelta(hours=12),
}
RELEASE_ENDED: Final = "the release of the cohort's key has ended; the next turn gets another one"


def release_inputs(
    facility: Facility, row: Row, manifest: Manifest
) -> tuple[InputKey, dt.datetime]:
    """The key that opens the inputs, for the step that runs the model, and when that ends."""
    ends = released(facility, row, "inputs")
    return facility_keys(facility.settings, manifest).inputs(), ends


def released(facility: Facility, row: Row, purpose: Purpose) -> dt.datetime:
    """Write the release down; returns when it ends. Refused where it may not be."""
    with facility.record.transaction() as now:
        made = now.one(
            "key_release_add", submission=row["id"], purpose=purpose, length=LASTS[purpose]
        )
    ends: dt.datetime = made["expires_at"]
    return ends
