"""Whether two cohorts are apart: as far as this can be known from what was sealed.

    >>> compare_inputs(facility, caller, gating_manifest, development_manifest)
    'no input in both'

Rules
-----
1. Patients are compared by what was kept of both at their sealing (`validators.leakage.links`),
   where this machine has it. A patient in both is refused.
2. Inputs are compared where this machine holds the keys of both. One that lies in both, to the
   byte, is refused.
3. What was not compared is said, and the answer goes into the log.
4. Reading inputs is in the log before the first byte is read.
"""

from collections.abc import Iterator
from typing import Literal

from registry.facility import Facility
from registry.identity.accounts import note
from registry.identity.caller import Caller
from registry.storage.key_encryption import facility_keys
from registry.trust.errors import Invalid, NotFound, Refused
from validators.cohort.keys import InputKey
from validators.cohort.manifest import Manifest
from validators.cohort.stream import open_shards
from validators.leakage.key_file import open_linking_key
from validators.leakage.link_index import LinkIndex

Compared = Literal["no input in both", "not compared: this machine holds no keys"]
ComparedPatients = Literal["no patient in both", "not compared: this machine can't find both again"]


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


def compare_patients(
    facility: Facility, gating: Manifest, development: Manifest
) -> ComparedPatients:
    """Raise Refused where a patient of one is, by the linking key, in the other too."""
    key = facility.settings.linking_key
    if not key.exists():
        return "not compared: this machine can't find both again"
    index = LinkIndex(facility.settings.links, open_linking_key(key))
    try:
        mine, theirs = (index.read(of.id, of.version) for of in (gating, development))
    except (NotFound, Refused, Invalid):
        return "not compared: this machine can't find both again"
    both = len((set(mine.patients) & set(theirs.patients)) - {b""})
    if both:
        raise Refused(
            f"{both} patients of {development.id} are in {gating.id} too: divide the source by "
            "patient and seal the development cohort anew",
            code="cohorts_overlap",
        )
    return "no patient in both"


def _inputs(facility: Facility, manifest: Manifest, key: InputKey) -> Iterator[str]:
    for _, inputs in open_shards(manifest, facility.store, key):
        yield from inputs
