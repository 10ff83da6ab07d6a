"""Where the log's key lies, and how it comes there.

    >>> make_log_key(settings)           # at `init` and when a server starts; safe to repeat
    >>> log_key(facility).origin

Rules
-----
1. The key is made on the server and stays there: `log.key` (0600) in the data directory.
2. Its certificate `log.pem` lies beside it. Where the root's key is at hand (a demo) it is made at
   once; where the root is offline, `log.csr` waits for `touchstone audit certify`.
"""

import contextlib
import datetime as dt

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from registry.facility import Facility
from registry.settings import Settings
from registry.trust.errors import Conflict, Invalid, Unavailable
from registry.trust.keys import load_certificate, load_identity, pem_of
from registry.trust.log_key import (
    LogKey,
    certify,
    load_log_key,
    new_log_key,
    origin_of,
    read_log_key,
    request,
    save_log_key,
)


def make_log_key(settings: Settings) -> bool:
    """Make what is missing; returns whether the key has its certificate."""
    asked_path = settings.log_key.with_suffix(".csr")
    certificate_path = settings.log_key.with_suffix(".pem")
    if not settings.log_key.exists():
        certificate_path.unlink(missing_ok=True)  # of a key that is gone
        asked_path.unlink(missing_ok=True)
        with contextlib.suppress(Conflict):  # another server of the same facility was first
            save_log_key(new_log_key(), settings.log_key)
    if certificate_path.exists():
        return True
    root = load_certificate(settings.root_certificate)
    names = root.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    key = read_log_key(settings.log_key)
    asked = request(key, origin_of(key, str(names[0].value) if names else "facility"))
    asked_path.write_bytes(asked.public_bytes(Encoding.PEM))
    root_key = settings.keys / "root.key"
    if root_key.exists():
        certificate_path.write_bytes(pem_of(certify(asked, load_identity(root_key))))
    return certificate_path.exists()


def read_request(pem: bytes) -> x509.CertificateSigningRequest:
    """The request in a PEM file."""
    try:
        return x509.load_pem_x509_csr(pem)
    except (ValueError, x509.InvalidVersion) as error:
        raise Invalid("this is not a request for a certificate (PEM)") from error


def log_key(facility: Facility) -> LogKey:
    """The log's key with its certificate; Unavailable, saying what to do, where one is missing."""
    path = facility.settings.log_key
    if not path.exists():
        raise Unavailable(
            f"the log has no key yet ({path}); run `touchstone init`, or start the registry"
        )
    if not path.with_suffix(".pem").exists():
        raise Unavailable(
            f"the log's key has no certificate yet: take {path.with_suffix('.csr')} to the root's "
            "key, run `touchstone audit certify` there, and put what it writes beside it as log.pem"
        )
    return load_log_key(path, facility.root, dt.datetime.now(dt.UTC))
