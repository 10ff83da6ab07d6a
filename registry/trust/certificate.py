"""The validation certificate: an in-toto Statement v1 that two assessors sign.

    >>> statement = new_statement(subjects, predicate)       # canonical bytes, the same for both
    >>> envelope = add_signature(add_signature(unsigned(STATEMENT_TYPE, statement), ada), ben)
    >>> certificate = verified(envelope, leaves, root, signed_at=logged)
    >>> check_in_force(certificate.predicate, at=now)

Rules
-----
1. The subjects are every file of the bundle that carries meaning, by digest.
2. Two different people sign, with two different keys, both under the facility's root, and
   neither belongs to the organisation whose model it is. Their certificates are valid when the
   log took the certificate in; they need not be today.
3. Only a verdict of `pass` or `conditional` can stand in a certificate, and it follows from the
   rules and numbers in it (`registry.trust.verdict_rules`). A conditional one states its
   conditions, when they are due, and ends then at the latest.
4. It holds until `not_after` and says nothing afterwards.
5. It carries a checkpoint of the facility's log, signed under the same root: whoever holds the
   certificate can hold the facility to the history that led to it.
6. What is not known is said so, with the reason (`Named`), and never left out.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from cryptography import x509
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from registry.trust.canonical import canonical, digest_of, hex_of, parse_canonical
from registry.trust.checkpoint import Checkpoint
from registry.trust.dsse import Envelope, payload_of, verified_signers
from registry.trust.errors import Invalid, Refused, Tampered
from registry.trust.keys import parse_certificate
from registry.trust.log_key import verified_checkpoint
from registry.trust.verdict_rules import Recomputed, Result, recompute

STATEMENT_TYPE = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:touchstone:validation-certificate:v1"
SIGNERS_NEEDED = 2

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CertifiedModel(_Strict):
    """Whose model, under which name and version, with which files."""

    organisation: str
    name: str
    version: int
    digest: Digest


class CertifiedCohort(_Strict):
    """What it was run on. Counts are None where they may not be shown."""

    id: str
    version: str
    root: Digest
    cases: Annotated[int, Field(ge=1)] | None
    patients: Annotated[int, Field(ge=1)] | None


class CertifiedProtocol(_Strict):
    """By which rules it was judged."""

    id: str
    version: str
    digest: Digest


class Named(_Strict):
    """A thing by its digest, or why there is none."""

    digest: Digest | None
    reason: str = ""


class CertifiedExecution(_Strict):
    """What computed the predictions. `record` is the digest of all that was noted of it."""

    record: Digest
    onnxruntime: str
    provider: str
    machine: str
    """The class of CPU or GPU: within one class the same model gives the same bytes."""
    container: Named
    """The image that the run was made in."""


class IntendedUse(_Strict):
    """For whom, where, what for, and what it is not for."""

    purpose: str
    population: str
    setting: str
    prevalence: float | None
    """The one expected where it is used."""
    limits: str


class CertifiedLog(_Strict):
    """The audit log when the verdict was reached, its own events among those covered."""

    checkpoint: Annotated[str, Field(max_length=20_000)]
    """The signed note (C2SP); witnesses may have co-signed it."""
    certificate: Annotated[str, Field(max_length=4_000)]
    """The certificate (PEM) of the key that signed it, under the facility's root."""


class Predicate(_Strict):
    """What the two assessors state about the subjects."""

    submission: str
    facility: str
    model: CertifiedModel
    cohort: CertifiedCohort
    protocol: CertifiedProtocol
    log: CertifiedLog
    full_report: Digest
    """The facility's complete report.json; the subject `report.json` is its released form."""
    code: Digest
    """Of the program that computed evidence and verdict."""
    contract: Digest
    preprocessing: Named
    """Of the program that makes a model's inputs of images and tables, by the contract."""
    execution: CertifiedExecution
    results: tuple[Result, ...]
    """Every rule with what was found: the verdict follows from them."""
    overall: Literal["pass", "conditional"]
    conditions: tuple[str, ...]
    conditions_due: dt.datetime | None = None
    """When the conditions must be met, by a new submission; the certificate ends then."""
    intended_use: IntendedUse
    pilot_mode: Literal["shadow", "assistive"]
    regulatory_references: tuple[str, ...]
    """What a pilot needs beside the certificate."""
    issued: dt.datetime
    not_after: dt.datetime
    golden_tolerance: float

    @property
    def use(self) -> str:
        """The digest of all that a hospital acknowledges: the same for a version with the same."""
        return digest_of(
            {
                "model": f"{self.model.organisation}/{self.model.name}",
                "intended_use": self.intended_use.model_dump(mode="json"),
                "pilot_mode": self.pilot_mode,
                "conditions": list(self.conditions),
                "regulatory_references": list(self.regulatory_references),
            }
        )


class Certificate(_Strict):
    """A certificate whose signatures have been checked."""

    subjects: dict[str, Digest]
    predicate: Predicate
    signers: tuple[tuple[str, str], ...]
    log: Checkpoint


def new_statement(subjects: Mapping[str, str], predicate: Predicate) -> bytes:
    """The canonical bytes that both assessors sign."""
    _check_conditions(predicate)
    check_verdict(predicate)
    return canonical(
        {
            "_type": _STATEMENT,
            "subject": [
                {"name": name, "digest": {"sha256": hex_of(digest)}}
                for name, digest in sorted(subjects.items())
            ],
            "predicateType": PREDICATE,
            "predicate": predicate.model_dump(mode="json"),
        }
    )


def parse_statement(payload: bytes) -> tuple[dict[str, str], Predicate]:
    """(subjects, predicate) of a statement, its form checked and nothing else."""
    statement: Any = parse_canonical(payload)
    try:
        if statement["_type"] != _STATEMENT or statement["predicateType"] != PREDICATE:
            raise Invalid("this statement is not a Touchstone validation certificate (v1)")
        subjects = {
            str(entry["name"]): "sha256:" + entry["digest"]["sha256"]
            for entry in statement["subject"]
        }
        if len(subjects) != len(statement["subject"]):
            raise Invalid("the certificate names one file twice")
        predicate = Predicate.model_validate(statement["predicate"])
    except (KeyError, TypeError) as error:
        raise Invalid(f"this statement lacks a part of a certificate: {error}") from error
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise Invalid(f"the certificate's predicate is malformed at {place}") from error
    return subjects, predicate


def verified(
    envelope: Envelope,
    leaves: Sequence[x509.Certificate],
    root: x509.Certificate,
    signed_at: dt.datetime,
) -> Certificate:
    """The certificate in the envelope, if two assessors signed it whose keys held at `signed_at`.

    Raises Invalid, Tampered or Refused with the first reason found; see `dsse.verified_signers`.
    Whether it is in force, and whether its verdict holds, is asked apart.
    """
    signers = verified_signers(envelope, STATEMENT_TYPE, leaves, root, signed_at)
    check_two_people(signers)
    subjects, predicate = parse_statement(payload_of(envelope))
    if any(organisation == predicate.model.organisation for _, organisation in signers):
        raise Refused("a signer belongs to the organisation whose model it is", code="own_model")
    _check_conditions(predicate)
    return Certificate(
        subjects=subjects,
        predicate=predicate,
        signers=tuple(signers),
        log=_checked_log(predicate.log, root, signed_at),
    )


def check_in_force(predicate: Predicate, at: dt.datetime) -> None:
    """Raise Refused (certificate_expired) where the certificate's last day has passed."""
    if at >= predicate.not_after:
        raise Refused(
            f"the certificate expired on {predicate.not_after:%Y-%m-%d}; ask the facility for a "
            "newer one",
            code="certificate_expired",
        )


def check_verdict(predicate: Predicate) -> Recomputed:
    """The verdict computed from the certificate alone; Tampered unless it is the stated one."""
    found = recompute(predicate.results)
    if found.overall != predicate.overall:
        raise Tampered(
            f"the certificate says {predicate.overall}, and its own rules and numbers say "
            f"{found.overall.replace('_', ' ')}: don't use the model, and tell the facility",
            code="verdict_disagrees",
        )
    return found


def _checked_log(log: CertifiedLog, root: x509.Certificate, at: dt.datetime) -> Checkpoint:
    certificate = parse_certificate(log.certificate.encode())
    return verified_checkpoint(log.checkpoint.encode(), certificate, root, at)


def _check_conditions(predicate: Predicate) -> None:
    due = predicate.conditions_due
    if predicate.overall == "pass":
        if due is not None:
            raise Refused("a certificate without conditions names a day when they are due")
    elif not predicate.conditions:
        raise Refused("a conditional certificate must state its conditions")
    elif due is None or predicate.not_after > due:
        raise Refused("a conditional certificate ends when its conditions are due, or earlier")


def check_two_people(signers: Sequence[tuple[str, str]]) -> None:
    """Raise Refused unless at least two different people are among the signers."""
    if len(set(signers)) < SIGNERS_NEEDED:
        raise Refused(
            f"{len(set(signers))} assessor has signed; {SIGNERS_NEEDED} different ones are needed",
            code="one_signer",
        )
