"""Signatures in the DSSE envelope (secure-systems-lab/dsse, v1), by keys with certificates.

    >>> envelope = add_signature(unsigned(TYPE, payload), ada)
    >>> [name for name, _ in verified_signers(envelope, TYPE, leaves, root, at=now)]

Rules
-----
1. What is signed is the pre-authentication encoding of type and payload, never the JSON around it.
2. A signature counts once a key; two key ids of one key are one key.
3. A signature whose certificate does not lead to the given root counts for nothing: it is an error.
4. The payload is looked at only after its signatures have been checked.
"""

import base64
import binascii
import datetime as dt
from collections.abc import Sequence
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from registry.trust.errors import Invalid, Tampered
from registry.trust.keys import check_leaf, holder_of, key_id, signer_name
from registry.trust.signer import Signer

Envelope = dict[str, Any]


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """PAE(type, body) of DSSE v1: the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def unsigned(payload_type: str, payload: bytes) -> Envelope:
    """An envelope without signatures yet."""
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [],
    }


def signature_over(payload_type: str, payload: bytes, signer: Signer) -> dict[str, str]:
    """One entry for an envelope's `signatures`."""
    signature = signer.sign(pre_authentication_encoding(payload_type, payload))
    return {"keyid": key_id(signer.certificate), "sig": base64.b64encode(signature).decode()}


def add_signature(envelope: Envelope, signer: Signer) -> Envelope:
    """The envelope with one more signature; the given one is left as it is."""
    signature = signature_over(envelope["payloadType"], payload_of(envelope), signer)
    return {**envelope, "signatures": [*envelope["signatures"], signature]}


def payload_of(envelope: Envelope) -> bytes:
    """The payload's bytes, unverified."""
    try:
        return base64.b64decode(envelope["payload"], validate=True)
    except (KeyError, TypeError, ValueError) as error:
        raise Invalid("this is not a DSSE envelope: no base64 payload") from error


def is_exact(envelope: object) -> bool:
    """Whether an envelope is in the one form of its content, so that every bit of it counts."""
    if not isinstance(envelope, dict) or set(envelope) != {"payload", "payloadType", "signatures"}:
        return False
    entries = envelope["signatures"]
    return (
        _is_canonical_base64(envelope["payload"])
        and isinstance(entries, list)
        and all(
            isinstance(entry, dict)
            and set(entry) == {"keyid", "sig"}
            and isinstance(entry["keyid"], str)
            and _is_canonical_base64(entry["sig"])
            for entry in entries
        )
    )


def _is_canonical_base64(text: object) -> bool:
    if not isinstance(text, str):
        return False
    try:
        return base64.b64encode(base64.b64decode(text, validate=True)).decode() == text
    except (ValueError, binascii.Error):
        return False


def check_signature(envelope: Envelope, payload_type: str, certificate: x509.Certificate) -> bytes:
    """The payload, if every signature on it is by this very certificate's key.

    No chain is asked for: it is for the root's own signature. Raises as `verified_signers`.
    """
    encoded = _encoded(envelope, payload_type)
    entries = envelope["signatures"]
    if not isinstance(entries, list) or not entries:
        raise Tampered("the envelope is not signed", code="bad_signature")
    for entry in entries:
        _check_one(entry, encoded, certificate)
    return payload_of(envelope)


def verified_signers(
    envelope: Envelope,
    payload_type: str,
    leaves: Sequence[x509.Certificate],
    root: x509.Certificate,
    at: dt.datetime,
) -> list[tuple[str, str]]:
    """(person, organisation) of each distinct key whose signature holds, in envelope order.

    Raises Tampered when a signature does not fit the payload or names no given certificate,
    Refused when a certificate may not sign under `root`, Invalid for a malformed envelope.
    """
    encoded = _encoded(envelope, payload_type)
    by_key = {key_id(leaf): leaf for leaf in leaves}
    signers: dict[str, tuple[str, str]] = {}
    entries = envelope["signatures"]
    if not isinstance(entries, list):
        raise Invalid("this is not a DSSE envelope: signatures is not a list")
    for entry in entries:
        leaf = by_key.get(str(entry.get("keyid"))) if isinstance(entry, dict) else None
        if leaf is None:
            raise Tampered("a signature names a key that no certificate here holds")
        check_leaf(leaf, root, at)
        _check_one(entry, encoded, leaf)
        signers[key_id(leaf)] = signer_name(leaf)
    return list(signers.values())


def _encoded(envelope: Envelope, payload_type: str) -> bytes:
    if not isinstance(envelope, dict) or set(envelope) != {"payload", "payloadType", "signatures"}:
        raise Invalid("this is not a DSSE envelope: payload, payloadType and signatures only")
    if envelope["payloadType"] != payload_type:
        raise Invalid(f"the envelope holds another kind of document than {payload_type}")
    return pre_authentication_encoding(payload_type, payload_of(envelope))


def _check_one(entry: Any, encoded: bytes, certificate: x509.Certificate) -> None:
    public = certificate.public_key()
    try:
        if not isinstance(public, ec.EllipticCurvePublicKey):
            raise Tampered("a signing key is not an elliptic-curve key")
        signature = base64.b64decode(entry["sig"], validate=True)
        public.verify(signature, encoded, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, KeyError, TypeError, ValueError) as error:
        raise Tampered(
            f"the signature of {holder_of(certificate)} does not fit this document",
            code="bad_signature",
        ) from error
