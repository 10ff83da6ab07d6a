"""What a certificate states, made of the report that was assessed: a pure function.

    >>> predicate = certified(work_row, report, released, protocol, contract, log=…, …)

Rules
-----
1. Numbers come from the released report (`certificate_results`), never from the complete one.
2. What is not known is named with the reason: an image that nobody recorded, a program that was
   replaced between assessment and draft.
3. The verdict must follow from the predicate alone, or nothing is given to sign
   (`registry.trust.certificate.new_statement` computes it again).
"""

import datetime as dt
from collections.abc import Mapping
from typing import Any, cast

from registry.pipeline.certificate_results import certified_results
from registry.trust.canonical import is_digest
from registry.trust.certificate import (
    CertifiedCohort,
    CertifiedExecution,
    CertifiedLog,
    CertifiedModel,
    CertifiedProtocol,
    IntendedUse,
    Named,
    Predicate,
)
from validators.contract.schema import Contract
from validators.evidence import Report
from validators.protocol.schema import Protocol
from validators.report.build import code_digest, preprocessing_digest

IMAGE = "image"
"""The key of `Environment.execution` under which a run notes the image it was made in."""


def certified(
    row: Mapping[str, Any],
    report: Report,
    released: Mapping[str, Any],
    protocol: Protocol,
    contract: Contract,
    *,
    facility: str,
    log: CertifiedLog,
    issued: dt.datetime,
    not_after: dt.datetime,
    conditions_due: dt.datetime | None,
) -> Predicate:
    """The predicate of the submission in `row`. Its verdict is one that can be certified."""
    overall = report.verdict.overall
    assert overall in ("pass", "conditional"), "nothing else is prepared for signing"
    cases = released["cases"]
    use = report.intended_use
    return Predicate(
        submission=str(row["id"]),
        facility=facility,
        model=CertifiedModel(
            organisation=row["organisation"],
            name=row["model_name"],
            version=row["model_version"],
            digest=row["model_digest"],
        ),
        cohort=CertifiedCohort(
            id=row["cohort_id"],
            version=row["cohort_version"],
            root=row["cohort_root"],
            cases=cases["n"],
            patients=cases["patients"],
        ),
        protocol=CertifiedProtocol(
            id=protocol.id, version=protocol.version, digest=protocol.digest
        ),
        log=log,
        full_report=row["report_digest"],
        code=report.digests.code,
        contract=contract.digest,
        preprocessing=_preprocessing(report),
        execution=_execution(report),
        results=certified_results(report, released, protocol),
        overall=overall,
        # The facility's own conditions quote exact numbers; a certificate travels.
        conditions=tuple(released["verdict"]["conditions"]),
        conditions_due=conditions_due,
        intended_use=IntendedUse(
            purpose=str(use["purpose"]),
            population=str(use["population"]),
            setting=str(use["setting"]),
            prevalence=cast("float | None", use.get("prevalence")),
            limits=str(use.get("limits") or ""),
        ),
        pilot_mode=protocol.pilot_mode,
        regulatory_references=tuple(report.regulatory_references),
        issued=issued,
        not_after=not_after,
        golden_tolerance=contract.tolerance,
    )


def _preprocessing(report: Report) -> Named:
    """Of the program that is here, if it is the one that assessed."""
    if code_digest() == report.digests.code:
        return Named(digest=preprocessing_digest())
    return Named(
        digest=None,
        reason="the facility's program was replaced between assessment and certificate; `code` "
        "covers the one that assessed",
    )


def _execution(report: Report) -> CertifiedExecution:
    of = report.environment
    image = str(of.execution.get(IMAGE, ""))
    return CertifiedExecution(
        record=report.digests.environment,
        onnxruntime=of.versions.get("onnxruntime", "unknown"),
        provider=str(of.execution.get("provider", "unknown")),
        machine=str(of.execution.get("class", "unknown")),
        container=Named(digest=image)
        if is_digest(image)
        else Named(digest=None, reason="the run noted no container image"),
    )
