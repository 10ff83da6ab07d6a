"""The key of the log, and the certificate by which a stranger knows it from root.pem alone.

    >>> key = new_log_key()
    >>> certificate = certify(request(key, origin_of(key, "tef")), root)     # at the root's key
    >>> verified_checkpoint(note, certificate, root.certificate, at=now).size

Rules
-----
1. The key is Ed25519 and lies with the server (0600). It signs checkpoints of one log and, by its
   certificate's usage, nothing else: whoever steals it can't sign a decision or a certificate.
2. Its certificate is a leaf directly under the facility's root that names the log's origin, and is
   valid as long as the root: a checkpoint must be checkable for as long as anybody keeps it.
3. An origin is made from the key. A log that begins anew has another key and so another origin:
   no checkpoint of the old one can be taken for one of the new.
"""

import datetime as dt
import hashlib
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID

from registry.trust.checkpoint import Checkpoint, check_origin, verified
from registry.trust.errors import Conflict, Invalid, Refused
from registry.trust.keys import Identity, load_certificate

# A UUID as an object identifier (ITU-T X.667): ours, and in no other usage's way.
LOG_SIGNING = x509.ObjectIdentifier("2.25.164976030997063541390901020250705141089")


@dataclass(frozen=True)
class LogKey:
    """The log's private key with its certificate and the origin that this names."""

    key: Ed25519PrivateKey
    certificate: x509.Certificate
    origin: str


def origin_of(key: Ed25519PrivateKey, organisation: str) -> str:
    """The name of the log that begins with this key; no other log has it."""
    digest = hashlib.sha256(key.public_key().public_bytes_raw()).hexdigest()
    name = re.sub(r"[^a-z0-9-]+", "-", organisation.lower())[:32]
    return check_origin(f"touchstone/{name}/{digest[:16]}")


def new_log_key() -> Ed25519PrivateKey:
    """A fresh key."""
    return Ed25519PrivateKey.generate()


def request(key: Ed25519PrivateKey, origin: str) -> x509.CertificateSigningRequest:
    """What goes to where the root's key is: "this key is the log's", signed by the key itself."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, check_origin(origin))])
    return x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, None)


def certify(asked: x509.CertificateSigningRequest, root: Identity) -> x509.Certificate:
    """The certificate of a log's key under `root`. Refused for a request that is none."""
    public = asked.public_key()
    names = asked.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if not isinstance(public, Ed25519PublicKey) or len(names) != 1 or not asked.is_signature_valid:
        raise Refused("this is not a request for a log's certificate, or not signed by its key")
    origin = check_origin(str(names[0].value))
    organisation = root.certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    subject = [
        *(x509.NameAttribute(NameOID.ORGANIZATION_NAME, name.value) for name in organisation),
        x509.NameAttribute(NameOID.COMMON_NAME, origin),
    ]
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False
    )  # fmt: skip
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(root.key.public_key())
    now = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=5)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name(subject))
        .issuer_name(root.certificate.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(now, root.certificate.not_valid_before_utc))
        .not_valid_after(root.certificate.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, **usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage([LOG_SIGNING]), critical=True)
        .add_extension(authority, critical=False)
        .sign(root.key, hashes.SHA256())
    )


def check_log_certificate(
    certificate: x509.Certificate, root: x509.Certificate, at: dt.datetime
) -> tuple[str, Ed25519PublicKey]:
    """(origin, key) of the log that the certificate names, if `root` says so at the time `at`."""
    try:
        certificate.verify_directly_issued_by(root)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError) as error:
        raise Refused(
            "the log's certificate was not issued by this root", code="other_root"
        ) from error
    for holder, shown in (("the log", certificate), ("the root", root)):
        if not shown.not_valid_before_utc <= at <= shown.not_valid_after_utc:
            raise Refused(
                f"the certificate of {holder} was not valid on {at:%Y-%m-%d}", code="leaf_expired"
            )
    public = certificate.public_key()
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    try:
        authority = root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        leaf = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        extended = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, ValueError) as error:
        raise Refused("the log's certificate lacks an extension", code="not_a_log") from error
    if (
        not authority
        or leaf.ca
        or list(extended) != [LOG_SIGNING]
        or not isinstance(public, Ed25519PublicKey)
        or len(names) != 1
    ):
        raise Refused("this certificate is not a log's", code="not_a_log")
    return check_origin(str(names[0].value)), public


def verified_checkpoint(
    note: bytes, certificate: x509.Certificate, root: x509.Certificate, at: dt.datetime
) -> Checkpoint:
    """The checkpoint in a note, if the log of this certificate signed it and `root` knows it."""
    origin, public = check_log_certificate(certificate, root, at)
    return verified(note, origin, public)


def save_log_key(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey, path: Path) -> None:
    """Write the key (PKCS #8 PEM, 0600), whole or not at all; Conflict where one lies already."""
    partial = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )
            stream.flush()
            os.fsync(stream.fileno())
        os.link(partial, path)
    except FileExistsError as error:
        raise Conflict(f"{path} exists; a key is never overwritten") from error
    finally:
        partial.unlink()


def read_log_key(path: Path) -> Ed25519PrivateKey:
    """The private key in a file."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except FileNotFoundError as error:
        raise Invalid(f"there is no key file {path}") from error
    except (ValueError, TypeError) as error:
        raise Invalid(f"{path} is not an unencrypted PEM private key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise Invalid(f"{path} is not an Ed25519 key, as the log's must be")
    return key


def load_log_key(path: Path, root: x509.Certificate, at: dt.datetime) -> LogKey:
    """The key in `NAME.key` with the certificate beside it in `NAME.pem`, which `root` issued."""
    key = read_log_key(path)
    certificate = load_certificate(path.with_suffix(".pem"))
    origin, public = check_log_certificate(certificate, root, at)
    if key.public_key() != public:
        raise Invalid(f"{path} does not belong to the certificate beside it")
    return LogKey(key, certificate, origin)
