"""Whether the bundle's documents say what the certificate says, once their digests hold.

Rules
-----
1. The model's identity, the protocol's and the cohort's are those in the certificate.
2. The contract that the model is served by is the protocol's, and the rules of the verdict are
   (`serving.bundle.rules`).
3. The released report is about the same model, protocol and cohort, its verdict is the one that was
   certified, and its endpoints' values are the certificate's.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from registry.trust.canonical import digest_of
from registry.trust.certificate import Certificate, Predicate
from registry.trust.errors import Tampered
from serving.bundle.layout import CONTRACT, PROTOCOL, RELEASED_REPORT, REPORT, model_names
from serving.bundle.rules import check_rules
from validators.contract.schema import Contract


@dataclass(frozen=True)
class Stated:
    """What the documents of a verified bundle say."""

    contract: Contract
    report: Mapping[str, Any]


def check_statements(certificate: Certificate, files: Mapping[str, bytes]) -> Stated:
    """The bundle's contract and report, if they and the model agree with the certificate.

    `files` holds the documents' verified bytes. Raises Tampered: model_mismatch,
    protocol_mismatch, report_mismatch, rules_mismatch.
    """
    subjects, predicate = certificate.subjects, certificate.predicate
    model = {name: subjects[path] for name, path in model_names(subjects).items()}
    if digest_of(model) != predicate.model.digest:
        raise Tampered(
            "the model's files are not the model that is certified", code="model_mismatch"
        )
    if subjects[PROTOCOL] != predicate.protocol.digest:
        raise Tampered("protocol.json is not the certified protocol", code="protocol_mismatch")
    protocol, report = _document(files, PROTOCOL), _document(files, REPORT)
    contract = _document(files, CONTRACT)
    if protocol.get("contract") != contract:
        raise Tampered("contract.json is not the protocol's contract", code="protocol_mismatch")
    if digest_of(contract) != predicate.contract:
        raise Tampered("contract.json is not the certified contract", code="protocol_mismatch")
    try:
        parsed = Contract.model_validate(contract)
    except ValidationError as error:
        raise Tampered("contract.json is not a contract", code="protocol_mismatch") from error
    check_rules(predicate.results, protocol)
    _check_report(certificate, report)
    return Stated(parsed, report)


def _check_report(certificate: Certificate, report: Mapping[str, Any]) -> None:
    predicate = certificate.predicate
    digests, verdict = report.get("digests"), report.get("verdict")
    form = report.get("schema_id")
    if form != RELEASED_REPORT or not isinstance(digests, dict) or not isinstance(verdict, dict):
        raise Tampered("report.json is not a released report (v1)", code="report_mismatch")
    for name, stated, certified in (
        ("verdict", verdict.get("overall"), predicate.overall),
        ("model", digests.get("model"), predicate.model.digest),
        ("protocol", digests.get("protocol"), predicate.protocol.digest),
        ("cohort", digests.get("cohort_root"), predicate.cohort.root),
    ):
        if stated != certified:
            raise Tampered(
                f"report.json states another {name} than the certificate", code="report_mismatch"
            )
    _check_values(predicate, report.get("endpoints"))


def _check_values(predicate: Predicate, rows: Any) -> None:
    """Raise Tampered unless the report's endpoints are the certificate's, value by value."""
    stated = {
        result.id: (result.estimate, result.outcome)
        for result in predicate.results
        if result.id.startswith("endpoint:")
    }
    try:
        reported = {}
        for row in rows:
            of = row.get("comparison")
            against = f" against {of['name']}" if of else ""
            value = of["difference"] if of else row["estimate"]
            reported[f"endpoint:{row['metric']}{against}"] = (value, row["outcome"])
    except (KeyError, TypeError, AttributeError) as error:
        raise Tampered("report.json lists no endpoints", code="report_mismatch") from error
    if stated != reported:
        raise Tampered(
            "report.json states other endpoints or values than the certificate",
            code="report_mismatch",
        )


def _document(files: Mapping[str, bytes], path: str) -> dict[str, Any]:
    try:
        value = json.loads(files[path])
    except (ValueError, RecursionError) as error:
        raise Tampered(f"{path} is not JSON", code="certificate_malformed") from error
    if not isinstance(value, dict):
        raise Tampered(f"{path} is not a JSON object", code="certificate_malformed")
    return value
