"""A hospital's signed report of a pilot."""

from typing import Any

from registry.trust.canonical import canonical
from registry.trust.dsse import Envelope, add_signature, unsigned
from registry.trust.keys import Identity
from registry.trust.pilot_report import PILOT_REPORT_TYPE


def report_of(certificate: str, **change: Any) -> dict[str, Any]:
    return {
        "schema_id": "touchstone/pilot-report/v1", "certificate": certificate, "k": 10,
        "first_month": "2025-11", "last_month": "2025-11", "answers": 310, "failed": None,
        "patients": 300, "outcomes": 280, "positives": 90,
        "watched": [
            {"question": "sensitivity", "patients": 90, "evidence": 20, "alarm": None},
            {"question": "score", "patients": 300, "evidence": 0, "alarm": None},
        ],
        "performance": [{"metric": "sensitivity", "estimate": 0.9, "low": 0.82, "high": 0.95}],
        "score": None, "attributes": {"sex": {"F": 160, "M": 140}},
    } | change  # fmt: skip


def signed_report(signer: Identity, certificate: str, **change: Any) -> Envelope:
    payload = canonical(report_of(certificate, **change))
    return add_signature(unsigned(PILOT_REPORT_TYPE, payload), signer)


ALARM = [{"question": "sensitivity", "patients": 90, "evidence": 100, "alarm": "2025-11"}]
