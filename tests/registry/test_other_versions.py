"""Which other versions of a cohort a release looks at."""

import datetime as dt
import json
import uuid
from typing import Any

import pytest

from registry.submissions import places, review
from registry.submissions.lock import other_versions
from registry.trust.canonical import canonical, sha256_bytes
from registry.trust.errors import Tampered
from tests.registry.house import D1, House
from tests.validators.evidence_made import protocol, report
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
from validators.report.build import report_bytes


def counted(positives: int, negatives: int) -> Counts:
    cases = positives + negatives
    return Counts(cases=cases, patients=cases, positives=positives, negatives=negatives)


def manifest(
    version: str, positives: int, negatives: int, *, cohort: str = "c",
    attributes: dict[str, dict[str, Counts]] | None = None,
) -> Manifest:  # fmt: skip
    """A manifest that fits itself, over objects that nobody sealed."""
    cases, counts = positives + negatives, counted(positives, negatives)
    kinds = (
        (shard_path(cohort, version, 0), "inputs"),
        (reference_path(cohort, version), "reference"),
    )
    made = Manifest(
        id=cohort, version=version, title="t", licence="l", citation="c", reference_standard="r",
        contract_digest=D1, counts=counts,
        attributes=attributes or {"sex": {"female": counts}}, case_flow={}, about={},
        case_digests=(D1,) * cases, keys=KeyFingerprints(inputs="i", reference="r"),
        objects=tuple(
            SealedObject(path=path, kind=kind, cases=cases, size=1, sha256=D1, plain_size=1,
                         plain_sha256=D1)
            for path, kind in kinds
        ),
        root=D1,
    )  # fmt: skip
    root = root_of(description_of(made), made.objects, made.case_digests)
    return made.model_copy(update={"root": root})


def locked(house: House, made: Manifest) -> Manifest:
    """A version of a cohort, locked by Sam."""
    data, path = manifest_bytes(made), manifest_path(made.id, made.version)
    house.facility.store.put(path, data)
    counts = made.counts
    house.owner.execute(
        "INSERT INTO touchstone.cohort (id, version, root, manifest_digest, manifest_path,"
        " title, positives, negatives, patients, contract_digest, locked_by)"
        f" VALUES ('{made.id}','{made.version}','{made.root}','{sha256_bytes(data)}','{path}','t',"
        f"{counts.positives},{counts.negatives},{counts.patients},'{D1}','Sam')"
    )
    return made


ROW: dict[str, Any] = {"cohort_id": "c", "cohort_version": "1"}


def test_every_other_version_that_was_locked_by_then_is_looked_at(house: House) -> None:
    caller = house.callers["Ada"]
    assert other_versions(house.facility, caller, ROW) == []
    before = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    second, third = (locked(house, manifest(v, n, 40)) for v, n in (("2", 30), ("3", 33)))
    assert other_versions(house.facility, caller, ROW) == [second, third]
    assert other_versions(house.facility, caller, ROW, until=before) == []
    of_second = {"cohort_id": "c", "cohort_version": "3"}
    house.superuser("DELETE FROM touchstone.cohort WHERE id = 'c' AND version = '1'")
    assert other_versions(house.facility, caller, of_second) == [second]


def test_a_version_whose_manifest_was_changed_stops_the_release(house: House) -> None:
    locked(house, manifest("4", 50, 40))
    house.superuser(
        f"UPDATE touchstone.cohort SET manifest_digest = '{D1}' WHERE id = 'c' AND version = '4'"
    )
    with pytest.raises(Tampered, match="not the one that was locked"):
        other_versions(house.facility, house.callers["Ada"], ROW)


def test_a_submitter_does_not_read_a_group_that_grew_by_one(house: House) -> None:
    rules, made = protocol(attempts=1), report()
    groups = {
        row.group: (row.positives or 0, row.negatives or 0)
        for row in made.subgroups
        if row.attribute == "site"
    }
    flow = made.case_flow
    assert flow.positives is not None
    assert flow.negatives is not None
    locked(house, manifest("1", flow.positives, flow.negatives, cohort="d"))
    house.owner.execute(
        "INSERT INTO touchstone.protocol (digest, id, version, body, attempts, locked_by)"
        " VALUES (%s, 'q', '1', %s, 1, 'Sam')",
        (rules.digest, canonical(rules.model_dump(mode="json")).decode()),
    )
    submission = str(uuid.uuid4())
    house.owner.execute(
        "INSERT INTO mlflow.registered_models (workspace, name) VALUES ('sme-a', 'm')"
    )
    house.owner.execute(
        "INSERT INTO mlflow.model_versions (workspace, name, version, current_stage, status,"
        " source) VALUES ('sme-a', 'm', 1, 'None', 'READY', 'models:/m-0')"
    )
    house.owner.execute(
        "INSERT INTO touchstone.submission (id, organisation, model_name, model_version,"
        f" protocol_digest, cohort_id, cohort_version, submitted_by) VALUES ('{submission}',"
        f"'sme-a','m',1,'{rules.digest}','d','1','Eva')"
    )
    house.owner.execute(
        "INSERT INTO touchstone.fingerprint (submission, weights)"
        f""" VALUES ('{submission}', '{{"contents": null, "tensors": [], "complete": false}}')"""
    )
    house.owner.execute(
        "INSERT INTO touchstone.attempt (submission, family, cohort_id, cohort_version)"
        f" VALUES ('{submission}','sme-a/q','d','1')"
    )
    data = report_bytes(made)
    house.facility.store.put(places.report(submission), data)
    house.superuser(
        "UPDATE touchstone.submission SET state = 'not_certified', verdict = 'fail',"
        f" report_digest = '{sha256_bytes(data)}' WHERE id = '{submission}'"
    )
    eva = house.welcome("Eva", "innovator", "sme-a")

    def shown() -> dict[str, str]:
        rows = json.loads(review.report_for(house.facility, eva, submission))["subgroups"]
        return {
            row["group"]: row["outcome"]
            for row in rows
            if (row["attribute"], row["metric"]) == ("site", "sensitivity")
        }

    assert "suppressed" not in shown().values()
    grown = {name: counted(p + (1 if name == "head" else 20), n) for name, (p, n) in groups.items()}
    locked(
        house,
        manifest("2", sum(of.positives for of in grown.values()), flow.negatives, cohort="d",
                 attributes={"site": grown}),
    )  # fmt: skip
    assert shown()["head"] == "suppressed"
    assert list(shown().values()).count("suppressed") == 2
