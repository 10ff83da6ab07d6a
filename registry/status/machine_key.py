"""The one key of the status that lies with the server.

    >>> make_status_key(settings)        # at `init` and when a server starts; safe to repeat
    >>> machine = status_key(settings)

Rules
-----
1. It renews the status and stops certificates. It can't list one, or bring one back.
2. `status.key` (0600) lies in the data directory; `status.pub` beside it goes to whoever makes the
   root of the status.
"""

import contextlib

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from registry.settings import Settings
from registry.trust.errors import Conflict, Invalid, Unavailable
from registry.trust.log_key import save_log_key


def make_status_key(settings: Settings) -> None:
    """Make the key where there is none, and write its public half beside it."""
    if not settings.status_key.exists():
        with contextlib.suppress(Conflict):  # another server of the same facility was first
            save_log_key(ec.generate_private_key(ec.SECP256R1()), settings.status_key)
    public = settings.status_key.with_suffix(".pub")
    if not public.exists():
        key = status_key(settings).public_key()
        public.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def status_key(settings: Settings) -> ec.EllipticCurvePrivateKey:
    """The key; Unavailable, saying what to do, where there is none."""
    try:
        key = load_pem_private_key(settings.status_key.read_bytes(), None)
    except FileNotFoundError as error:
        raise Unavailable(
            f"the status has no key yet ({settings.status_key}); run `touchstone init`, or start "
            "the registry"
        ) from error
    except (ValueError, TypeError) as error:
        raise Invalid(f"{settings.status_key} is not an unencrypted PEM private key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Invalid(f"{settings.status_key} is not an elliptic-curve key")
    return key


def read_public(pem: bytes) -> ec.EllipticCurvePublicKey:
    """The key in `status.pub`."""
    try:
        key = load_pem_public_key(pem)
    except ValueError as error:
        raise Invalid("this is not a public key (PEM)") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Invalid("this is not an elliptic-curve key")
    return key
