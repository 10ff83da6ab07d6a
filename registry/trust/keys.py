"""People's keys and the certificates that say whose they are.

    >>> root = new_root("Touchstone demo", demo=True)
    >>> ada = issue(root, "Ada", organisation="tef")
    >>> signer_name(ada.certificate), checked_chain([ada.certificate], root.certificate, at=now)

Rules
-----
1. Keys are ECDSA, P-256 or (in a card) P-384. A private key file is 0600, never overwritten.
2. A signing certificate is a leaf directly under the facility's root: not a CA, key usage
   digitalSignature, extended key usage exactly codeSigning, valid at the time of signing.
3. The root of the demo says so in its name; whoever checks a chain is told.
4. The server is given certificates only. It never sees a person's key.
"""

import datetime as dt
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from registry.trust.canonical import sha256_bytes
from registry.trust.errors import Conflict, Invalid, Refused

DEMO_MARK = "DEMO - not for patients"
_LEAF_DAYS, _ROOT_DAYS = 730, 3650


@dataclass(frozen=True)
class Identity:
    """A private key with the certificate that names its holder."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def sign(self, data: bytes) -> bytes:
        """ECDSA over SHA-256, in DER: what `registry.trust.signer.Signer` asks for."""
        return self.key.sign(data, ec.ECDSA(hashes.SHA256()))


def _name(common: str, organisation: str, unit: str | None) -> x509.Name:
    parts = [(NameOID.ORGANIZATION_NAME, organisation), (NameOID.COMMON_NAME, common)]
    if unit:
        parts.append((NameOID.ORGANIZATIONAL_UNIT_NAME, unit))
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])


def _usage(*, signature: bool, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))  # a hospital's clock may lag a little
        .not_valid_after(now + dt.timedelta(days=days))
    )


def new_root(facility: str, *, demo: bool) -> Identity:
    """A fresh self-signed root for a facility; `demo` writes the mark that hospitals look for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"{facility} root", facility, DEMO_MARK if demo else None)
    certificate = (
        _builder(name, name, key.public_key(), _ROOT_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signature=False, certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Identity(key, certificate)


def issue(root: Identity, person: str, *, organisation: str) -> Identity:
    """A fresh key for a person and its leaf under `root`."""
    key = ec.generate_private_key(ec.SECP256R1())
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(root.key.public_key())
    certificate = (
        _builder(
            _name(person, organisation, None),
            root.certificate.subject,
            key.public_key(),
            _LEAF_DAYS,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signature=True, certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
        .add_extension(authority, critical=False)
        .sign(root.key, hashes.SHA256())
    )
    return Identity(key, certificate)


def key_id(certificate: x509.Certificate) -> str:
    """The digest of the public key (SubjectPublicKeyInfo, DER): what a signature names."""
    return sha256_bytes(
        certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )


def signer_name(certificate: x509.Certificate) -> tuple[str, str]:
    """(person, organisation) as the certificate states them."""
    person = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    organisation = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    if len(person) != 1 or len(organisation) != 1:
        raise Refused("a signing certificate does not name one person of one organisation")
    return str(person[0].value), str(organisation[0].value)


def holder_of(certificate: x509.Certificate) -> str:
    """The common name alone, for sentences about a root or a person."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else "somebody"


def is_demo(root: x509.Certificate) -> bool:
    """Whether the root is one that a demo made for itself."""
    units = root.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    return any(unit.value == DEMO_MARK for unit in units)


def check_leaf(leaf: x509.Certificate, root: x509.Certificate, at: dt.datetime) -> None:
    """Raise Refused, with the reason, unless `leaf` may sign under `root` at the time `at`."""
    person, _ = signer_name(leaf)
    try:
        leaf.verify_directly_issued_by(root)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise Refused(
            f"the certificate of {person} was not issued by this root", code="other_root"
        ) from error
    for holder, certificate in ((person, leaf), ("the root", root)):
        if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
            raise Refused(
                f"the certificate of {holder} was not valid on {at:%Y-%m-%d}", code="leaf_expired"
            )
    try:
        constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
        extended = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        root_constraints = root.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound as error:
        raise Refused(f"the certificate of {person} lacks an extension: {error}") from error
    if constraints.ca or not root_constraints.ca or not usage.digital_signature:
        raise Refused(f"the certificate of {person} is not a signing leaf", code="not_a_leaf")
    if list(extended) != [ExtendedKeyUsageOID.CODE_SIGNING]:
        raise Refused(
            f"the certificate of {person} is not for code signing alone", code="wrong_usage"
        )
    public = leaf.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(
        public.curve, (ec.SECP256R1, ec.SECP384R1)
    ):
        raise Refused(f"the key of {person} is not ECDSA P-256 or P-384", code="wrong_key")


def save_identity(identity: Identity, directory: Path, stem: str) -> Path:
    """Write `stem.key` (PKCS #8 PEM, 0600) and `stem.pem`; returns the key's path."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = directory / f"{stem}.key"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise Conflict(f"{path} exists; a key is never overwritten") from error
    with os.fdopen(handle, "wb") as stream:
        stream.write(
            identity.key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
    path.with_suffix(".pem").write_bytes(pem_of(identity.certificate))
    return path


def load_identity(key_path: Path) -> Identity:
    """The key in `NAME.key` and the certificate beside it in `NAME.pem`."""
    try:
        key = serialization.load_pem_private_key(key_path.read_bytes(), None)
    except FileNotFoundError as error:
        raise Invalid(f"there is no key file {key_path}") from error
    except (ValueError, TypeError) as error:
        raise Invalid(f"{key_path} is not an unencrypted PEM private key") from error
    certificate = load_certificate(key_path.with_suffix(".pem"))
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Invalid(f"{key_path} is not an elliptic-curve key")
    if key.public_key() != certificate.public_key():
        raise Invalid(f"{key_path} does not belong to the certificate beside it")
    return Identity(key, certificate)


def load_certificate(path: Path) -> x509.Certificate:
    """One PEM certificate from a file."""
    try:
        return parse_certificate(path.read_bytes())
    except FileNotFoundError as error:
        raise Invalid(f"there is no certificate file {path}") from error
    except OSError as error:
        raise Invalid(f"{path} can't be read as a certificate ({error.strerror})") from error
    except Invalid as error:
        raise Invalid(f"{path}: {error.message}", code=error.code) from error


def parse_certificate(pem: bytes) -> x509.Certificate:
    """One PEM certificate."""
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except (ValueError, x509.InvalidVersion) as error:
        raise Invalid("this is not a PEM certificate") from error
    if len(certificates) != 1:
        raise Invalid(f"one PEM certificate was expected, {len(certificates)} were found")
    return certificates[0]


def pem_of(certificate: x509.Certificate) -> bytes:
    """The certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)
