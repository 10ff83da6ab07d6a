"""The unsigned files of a bundle: the envelope, who signed it, and who enrolled the signers.

Rules
-----
1. Each is read whole, bounded, and must be in the one form that their content has: canonical
   JSON, canonical base64, plain PEM. So no byte of them can be changed unnoticed.
2. Every certificate in signers.pem belongs to a signature, and the other way round.
3. The pinned root is a certificate authority in force, and none that a demo made for itself
   unless that is said. It never comes from the bundle.
"""

import base64
import binascii
import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from registry.trust.canonical import parse_canonical
from registry.trust.certificate import Certificate, verified
from registry.trust.dsse import Envelope, payload_of
from registry.trust.enrolment import check_assessors, parse_register
from registry.trust.errors import Invalid, Refused, Tampered
from registry.trust.keys import is_demo, key_id, pem_of
from serving.bundle.files import check_bundle, read_small
from serving.bundle.layout import CERTIFICATE, ENROLMENTS, SIGNERS


def check_root(root: x509.Certificate, at: dt.datetime, *, allow_demo: bool) -> bool:
    """Whether the pinned root is a demo's; Refused unless it is an authority in force at `at`.

    A demo's root is refused (demo_root) where it is not allowed by name.
    """
    try:
        authority = root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        authority = False
    if not authority:
        raise Refused(
            "the pinned root is not a certificate authority: pin the facility's root.pem",
            code="root_invalid",
        )
    if not root.not_valid_before_utc <= at <= root.not_valid_after_utc:
        raise Refused(
            f"the pinned root is not valid on {at:%Y-%m-%d}: check this machine's clock, or ask "
            "the facility for its present root",
            code="root_invalid",
        )
    demo = is_demo(root)
    if demo and not allow_demo:
        raise Refused(
            "the pinned root was made by a demo for itself and vouches for nothing: NOT FOR "
            "PATIENTS. Pin the facility's root, or say --allow-demo to try things out",
            code="demo_root",
        )
    return demo


def read_envelope(directory: Path) -> tuple[Envelope, list[x509.Certificate], bytes]:
    """(envelope, signers' certificates, payload), their form checked and no signature yet."""
    try:
        data = read_small(directory, CERTIFICATE)
    except Tampered:
        check_bundle(directory)  # it may be that this is none at all
        raise
    try:
        envelope = parse_canonical(data)
    except (Invalid, ValueError, TypeError, RecursionError) as error:
        if isinstance(error, Invalid) and error.code != Invalid.default_code:
            raise  # the directory, not the file
        raise _malformed(CERTIFICATE, "it is not canonical JSON") from error
    pem = read_small(directory, SIGNERS)
    try:
        leaves = x509.load_pem_x509_certificates(pem)
        if b"".join(pem_of(leaf) for leaf in leaves) != pem:
            raise _malformed(SIGNERS, "it holds more than PEM certificates")
        keys = [key_id(leaf) for leaf in leaves]
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise _malformed(SIGNERS, "it is not a list of PEM certificates") from error
    payload = _checked_envelope(envelope, keys)
    return envelope, leaves, payload


def signed_certificate(
    envelope: Envelope,
    leaves: Sequence[x509.Certificate],
    root: x509.Certificate,
    signed_at: dt.datetime,
) -> Certificate:
    """The certificate in the envelope, if two assessors signed it under `root`; see `verified`."""
    try:
        return verified(envelope, leaves, root, signed_at)
    except (ValueError, OverflowError) as error:
        # A leaf whose extensions do not parse, or a date that is none.
        raise _malformed(CERTIFICATE, "a part of it does not parse") from error


def check_enrolled(
    directory: Path, leaves: Sequence[x509.Certificate], root: x509.Certificate
) -> str:
    """A sentence on who vouches for the signers; Refused unless two others enrolled each of them.

    It needs no word of the facility's server: the statements lead to the root by signatures alone.
    """
    register = parse_register(read_small(directory, ENROLMENTS))
    try:
        people = check_assessors(register, leaves, root)
    except (ValueError, OverflowError) as error:
        raise _malformed(ENROLMENTS, "a part of it does not parse") from error
    names = " and ".join(person.person for person in people)
    return (
        f"{names} were enrolled as assessors of {people[0].organisation} by two others, or by the "
        "founding statement, under the pinned root"
    )


def _checked_envelope(envelope: Any, keys: list[str]) -> bytes:
    if not isinstance(envelope, dict):
        raise _malformed(CERTIFICATE, "it is not a DSSE envelope")
    signatures = envelope.get("signatures")
    if not isinstance(signatures, list) or not all(
        isinstance(entry, dict)
        and set(entry) == {"keyid", "sig"}
        and isinstance(entry["keyid"], str)
        and _is_canonical_base64(entry["sig"])
        for entry in signatures
    ):
        raise _malformed(CERTIFICATE, "its signatures are not in the form of DSSE")
    if not _is_canonical_base64(envelope.get("payload")):
        raise _malformed(CERTIFICATE, "its payload is not canonical base64")
    if sorted(entry["keyid"] for entry in signatures) != sorted(keys):
        raise Tampered(
            f"{SIGNERS} does not hold exactly the certificates of those who signed: pull the "
            "bundle again",
            code="bad_signature",
        )
    return payload_of(envelope)


def _is_canonical_base64(text: object) -> bool:
    if not isinstance(text, str):
        return False
    try:
        return base64.b64encode(base64.b64decode(text, validate=True)).decode() == text
    except (ValueError, binascii.Error):
        return False


def _malformed(name: str, reason: str) -> Tampered:
    return Tampered(f"{name} is damaged: {reason}; pull the bundle again",
                    code="certificate_malformed")  # fmt: skip
