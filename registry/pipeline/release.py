"""The release of a cohort's key to one step of one submission.

    >>> key = release_inputs(facility, row, manifest)

Rules
-----
1. A release is a row and an event, committed before the key is unwrapped (0015_cohort_life.sql).
2. The inputs' key is released while the submission runs, until the reference standard's was (runs
   under perturbation come after the run itself); that one once there are predictions: no step is
   given both, and none goes back. A burned cohort's keys are released to none.
3. A release ends with the state's deadline; a step that is tried again gets one of its own.
"""

import datetime as dt
from typing import Literal

from registry.database.record import Row
from registry.facility import Facility
from registry.storage.key_encryption import facility_keys
from validators.cohort.keys import InputKey
from validators.cohort.manifest import Manifest


def release_inputs(facility: Facility, row: Row, manifest: Manifest) -> InputKey:
    """The key that opens the inputs, for the step that runs the model."""
    released(facility, row, "inputs")
    return facility_keys(facility.settings, manifest).inputs()


def released(facility: Facility, row: Row, purpose: Literal["inputs", "reference"]) -> dt.datetime:
    """Write the release down; returns when it ends. Refused where it may not be."""
    with facility.record.transaction() as now:
        ends: dt.datetime = now.one("key_release_add", submission=row["id"], purpose=purpose)[
            "expires_at"
        ]
    return ends
