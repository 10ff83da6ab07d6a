"""The manifest of a cohort that was never sealed: it fits itself, and nothing lies behind it."""

from typing import Any

from registry.trust.canonical import digest_of
from validators.cohort.manifest import (
    Counts,
    KeyFingerprints,
    Manifest,
    SealedObject,
    check_manifest,
    reference_path,
    root_of,
    shard_path,
)

Groups = dict[str, dict[str, int]]


def made_manifest(cohort: str, version: str, contract: str, attributes: Groups) -> Manifest:
    """200 positives and 400 negatives of 300 patients; `attributes`: cases of each group."""
    cases = 600
    description: dict[str, Any] = {
        "schema_id": "touchstone/cohort/v2", "id": cohort, "version": version, "title": "Nodules",
        "licence": "CC BY 3.0", "citation": "", "reference_standard": "median of four readers",
        "contract_digest": contract, "case_flow": {}, "about": {},
        "counts": _counts(cases, 300, 200),
        "attributes": {
            name: {group: _counts(n, n, n // 3) for group, n in groups.items()}
            for name, groups in attributes.items()
        },
    }  # fmt: skip
    objects = [
        SealedObject(
            path=path, kind=kind, cases=cases, size=1, plain_size=1,
            sha256=digest_of(path), plain_sha256=digest_of(kind),
        )
        for path, kind in (
            (shard_path(cohort, version, 0), "inputs"),
            (reference_path(cohort, version), "reference"),
        )
    ]  # fmt: skip
    digests = [digest_of(number) for number in range(cases)]
    made = Manifest.model_validate(
        description
        | {
            "objects": objects,
            "case_digests": digests,
            "keys": KeyFingerprints(inputs="0", reference="1"),
            "root": root_of(description, objects, digests),
        }
    )
    check_manifest(made)
    return made


def _counts(cases: int, patients: int, positives: int) -> dict[str, int]:
    made = Counts(cases=cases, patients=patients, positives=positives, negatives=cases - positives)
    return made.model_dump()
