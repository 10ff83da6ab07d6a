"""Which other versions of a cohort a release looks at."""

import datetime as dt
from typing import Any

import pytest

from registry.submissions.lock import other_versions
from registry.trust.canonical import sha256_bytes
from registry.trust.errors import Tampered
from tests.registry.house import D1, House
from validators.cohort.manifest import (
    Counts,
    KeyFingerprints,
    Manifest,
    SealedObject,
    description_of,
    manifest_bytes,
    manifest_path,
    reference_path,
    root_of,
    shard_path,
)


def manifest(version: str, positives: int, negatives: int) -> Manifest:
    """A manifest that fits itself, over objects that nobody sealed."""
    cases = positives + negatives
    counts = Counts(cases=cases, patients=cases, positives=positives, negatives=negatives)
    kinds = ((shard_path("c", version, 0), "inputs"), (reference_path("c", version), "reference"))
    made = Manifest(
        id="c", version=version, title="t", licence="l", citation="c", reference_standard="r",
        contract_digest=D1, counts=counts, attributes={"sex": {"female": counts}}, case_flow={},
        about={}, case_digests=(D1,) * cases, keys=KeyFingerprints(inputs="i", reference="r"),
        objects=tuple(
            SealedObject(path=path, kind=kind, cases=cases, size=1, sha256=D1, plain_size=1,
                         plain_sha256=D1)
            for path, kind in kinds
        ),
        root=D1,
    )  # fmt: skip
    root = root_of(description_of(made), made.objects, made.case_digests)
    return made.model_copy(update={"root": root})


def locked(house: House, version: str, positives: int) -> Manifest:
    """A further version of the cohort `c`, locked by Sam."""
    made = manifest(version, positives, 40)
    data, path = manifest_bytes(made), manifest_path("c", version)
    house.facility.store.put(path, data)
    house.owner.execute(
        "INSERT INTO touchstone.cohort (id, version, root, manifest_digest, manifest_path,"
        " title, positives, negatives, patients, contract_digest, locked_by)"
        f" VALUES ('c','{version}','{made.root}','{sha256_bytes(data)}','{path}','t',"
        f"{positives},40,{positives + 40},'{D1}','Sam')"
    )
    return made


ROW: dict[str, Any] = {"cohort_id": "c", "cohort_version": "1"}


def test_every_other_version_that_was_locked_by_then_is_looked_at(house: House) -> None:
    caller = house.callers["Ada"]
    assert other_versions(house.facility, caller, ROW) == []
    before = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    second, third = locked(house, "2", 30), locked(house, "3", 33)
    assert other_versions(house.facility, caller, ROW) == [second, third]
    assert other_versions(house.facility, caller, ROW, until=before) == []
    of_second = {"cohort_id": "c", "cohort_version": "3"}
    house.superuser("DELETE FROM touchstone.cohort WHERE id = 'c' AND version = '1'")
    assert other_versions(house.facility, caller, of_second) == [second]


def test_a_version_whose_manifest_was_changed_stops_the_release(house: House) -> None:
    locked(house, "4", 50)
    house.superuser(
        f"UPDATE touchstone.cohort SET manifest_digest = '{D1}' WHERE id = 'c' AND version = '4'"
    )
    with pytest.raises(Tampered, match="not the one that was locked"):
        other_versions(house.facility, house.callers["Ada"], ROW)
