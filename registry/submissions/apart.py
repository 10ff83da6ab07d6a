"""Whether two cohorts are apart: as far as this can be known from what was sealed.

    >>> compare_inputs(facility, caller, gating_manifest, development_manifest)
    'no input in both'

Rules
-----
1. Patients can't be compared: each cohort version has pseudonyms under a key of its own, and no id
   of the source is kept anywhere. Whoever makes the cohorts divides them by patient.
2. Inputs can, where this machine holds the keys of both. One that lies in both, to the byte, is
   refused. That finds a case that was sealed twice, and not another scan of the same patient.
3. Without the keys nothing is compared, and the answer, which goes into the log, says so.
4. Reading is in the log before the first byte is read.
"""

from collections.abc import Iterator
from typing import Literal

from registry.facility import Facility
from registry.identity.accounts import note
from registry.identity.caller import Caller
from registry.storage.key_encryption import facility_keys
from registry.trust.errors import NotFound, Refused
from validators.cohort.keys import InputKey
from validators.cohort.manifest import Manifest
from validators.cohort.stream import open_shards

Compared = Literal["no input in both", "not compared: this machine holds no keys"]


def compare_inputs(
    facility: Facility, caller: Caller, gating: Manifest, development: Manifest
) -> Compared:
    """Raise Refused where a case of one has, to the byte, the inputs of a case of the other."""
    try:
        keys = [
            facility_keys(facility.settings, manifest).inputs()
            for manifest in (gating, development)
        ]
    except NotFound:
        return "not compared: this machine holds no keys"
    for manifest in (gating, development):
        with facility.record.transaction(caller) as now:
            note(now, caller, "cohort-read", f"{manifest.id}/{manifest.version}",
                 {"for": "comparison of inputs"})  # fmt: skip
    locked = frozenset(_inputs(facility, gating, keys[0]))
    shared = sum(digest in locked for digest in _inputs(facility, development, keys[1]))
    if shared:
        raise Refused(
            f"{shared} cases of {development.id} have the inputs of cases of {gating.id}: divide "
            "the source by patient and seal the development cohort anew",
            code="cohorts_overlap",
        )
    return "no input in both"


def _inputs(facility: Facility, manifest: Manifest, key: InputKey) -> Iterator[str]:
    for _, inputs in open_shards(manifest, facility.store, key):
        yield from inputs
