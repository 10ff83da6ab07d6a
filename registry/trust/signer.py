"""Whoever can sign: a key file, or a key in a token that never leaves it (PKCS #11).

    >>> with open_signer("ada.key") as ada: add_signature(envelope, ada)
    >>> with open_signer("pkcs11:token=ada;object=signing") as ada: ...

Rules
-----
1. A signature is ECDSA P-256 over SHA-256 in DER, wherever it was made. PKCS #11 gives r and s
   side by side; `der_of` turns them.
2. A key in a token is named by an RFC 7512 URI: `token`, `serial`, `manufacturer`, `model`,
   `object` and `id`, and `pin-source=file:…`. Its certificate lies beside it in the token, or in
   the file TOUCHSTONE_PKCS11_CERTIFICATE.
3. The PIN comes from `pin-source`, TOUCHSTONE_PKCS11_PIN or the terminal. `pin-value` is refused:
   what is typed on a command line is seen by every process of the machine.
4. The module is TOUCHSTONE_PKCS11_MODULE. A URI can't name one: a URI is data, a module is code.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from registry.trust.errors import Invalid, Refused, Unavailable
from registry.trust.keys import load_certificate, load_identity

_WHERE = {"token", "serial", "manufacturer", "model", "object", "id", "type"}
_HALF = 32  # bytes of r, and of s, on P-256


class Signer(Protocol):
    """Somebody's key, in use, and the certificate that says whose it is."""

    @property
    def certificate(self) -> x509.Certificate:
        """The signer's certificate."""

    def sign(self, data: bytes) -> bytes:
        """ECDSA P-256 over the SHA-256 of `data`, in DER."""


@dataclass(frozen=True)
class KeyUri:
    """What a pkcs11: URI says, percent-decoded."""

    token: str | None = None
    serial: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    object: str | None = None
    id: bytes | None = None
    pin_source: Path | None = None


def parse_uri(uri: str) -> KeyUri:
    """The parts of an RFC 7512 URI; Invalid for one that names no key, a PIN or a module."""
    scheme, colon, rest = uri.partition(":")
    if scheme.lower() != "pkcs11" or not colon:
        raise Invalid("a key in a token is named by pkcs11:token=NAME;object=NAME")
    path, _, query = rest.partition("?")
    values: dict[str, Any] = {}
    for part in filter(None, path.split(";")):
        name, equals, text = part.partition("=")
        if name not in _WHERE or not equals or name in values:
            raise Invalid(f"{name[:40]!r} is unknown or twice in the pkcs11: URI")
        values[name] = _decoded(name, text)
    if values.pop("type", "private") != "private":
        raise Invalid("only a private key signs: leave `type` out of the pkcs11: URI")
    for part in filter(None, query.split("&")):
        name, _, text = part.partition("=")
        if name in ("pin-value", "module-path", "module-name"):
            raise Refused(
                f"{name} does not belong on a command line: the PIN comes from pin-source=file:…, "
                "TOUCHSTONE_PKCS11_PIN or the terminal, the module from TOUCHSTONE_PKCS11_MODULE"
            )
        if name != "pin-source":
            raise Invalid(f"{name[:40]!r} is unknown in the pkcs11: URI")
        values["pin_source"] = Path(re.sub(r"^file:(//(?=/))?", "", str(_decoded(name, text))))
    if "object" not in values and "id" not in values:
        raise Invalid("the pkcs11: URI names no key: add object=NAME or id=%01")
    return KeyUri(**values)


def _decoded(name: str, text: str) -> str | bytes:
    if not re.fullmatch(r"(?:[A-Za-z0-9._~:\[\]@!$'()*+,=&/-]|%[0-9A-Fa-f]{2})+", text):
        raise Invalid(f"the value of {name} in the pkcs11: URI is empty or not percent-encoded")
    data = unquote_to_bytes(text)
    try:
        return data if name == "id" else data.decode()
    except UnicodeDecodeError as error:
        raise Invalid(f"the value of {name} in the pkcs11: URI is not UTF-8") from error


def der_of(raw: bytes) -> bytes:
    """r and s side by side, as PKCS #11 gives them, in the DER that X.509 and DSSE want."""
    if len(raw) != 2 * _HALF:
        raise Invalid(f"a P-256 signature has {2 * _HALF} bytes, this one {len(raw)}")
    return encode_dss_signature(
        int.from_bytes(raw[:_HALF], "big"), int.from_bytes(raw[_HALF:], "big")
    )


@contextmanager
def open_signer(key: str, environment: Mapping[str, str] = os.environ) -> Iterator[Signer]:
    """The signer that `--key` names: a file, or a pkcs11: URI whose session ends on leaving."""
    if not key.lower().startswith("pkcs11:"):
        yield load_identity(Path(key))
        return
    uri = parse_uri(key)
    with open_session(uri, environment) as session:
        yield _in_token(session, uri, environment)


@dataclass(frozen=True)
class _TokenSigner:
    key: Any
    certificate: x509.Certificate

    def sign(self, data: bytes) -> bytes:
        import hashlib

        from pkcs11 import Mechanism

        # The digest is made here: not every token has the mechanism that hashes too.
        raw = self.key.sign(hashlib.sha256(data).digest(), mechanism=Mechanism.ECDSA)
        return der_of(bytes(raw))


@contextmanager
def open_session(uri: KeyUri, environment: Mapping[str, str]) -> Iterator[Any]:
    """A session with the one token that fits the URI; it ends on leaving."""
    module = environment.get("TOUCHSTONE_PKCS11_MODULE")
    if not module:
        raise Invalid("set TOUCHSTONE_PKCS11_MODULE to your token's PKCS #11 library (a .so file)")
    try:
        import pkcs11
    except ImportError as error:
        raise Unavailable("keys in a token need: pip install 'touchstone-tef[hsm]'") from error
    try:
        library = pkcs11.lib(module)
        found = [token for token in library.get_tokens() if _is_named(token, uri)]
        if len(found) != 1:
            raise Invalid(
                f"{len(found)} tokens fit the pkcs11: URI; name one by token= and serial="
            )
        with found[0].open(user_pin=_pin(uri, environment)) as session:
            yield session
    except pkcs11.exceptions.PinIncorrect as error:
        raise Refused("the token refused the PIN") from error
    except (pkcs11.exceptions.PKCS11Error, RuntimeError) as error:
        raise Unavailable(f"the token can't be used ({type(error).__name__})") from error


def _is_named(token: Any, uri: KeyUri) -> bool:
    from pkcs11 import TokenFlag

    if not token.flags & TokenFlag.TOKEN_INITIALIZED:
        return False  # an empty slot
    serial = token.serial.decode() if isinstance(token.serial, bytes) else token.serial
    return all(
        asked is None or asked == str(has).strip()
        for asked, has in (
            (uri.token, token.label),
            (uri.serial, serial),
            (uri.manufacturer, token.manufacturer_id),
            (uri.model, token.model),
        )
    )


def _pin(uri: KeyUri, environment: Mapping[str, str]) -> str:
    if uri.pin_source is not None:
        try:
            return uri.pin_source.read_text().strip()
        except OSError as error:
            raise Invalid(f"the PIN's file {uri.pin_source} can't be read") from error
    pin = environment.get("TOUCHSTONE_PKCS11_PIN")
    if pin:
        return pin
    import getpass

    return getpass.getpass("PIN of the token: ")


def _in_token(session: Any, uri: KeyUri, environment: Mapping[str, str]) -> Signer:
    from pkcs11 import Attribute, ObjectClass

    named: dict[Any, Any] = {}
    if uri.object is not None:
        named[Attribute.LABEL] = uri.object
    if uri.id is not None:
        named[Attribute.ID] = uri.id
    keys = list(session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY, **named}))
    if len(keys) != 1:
        raise Invalid(f"{len(keys)} private keys in the token fit the pkcs11: URI; name one")
    path = environment.get("TOUCHSTONE_PKCS11_CERTIFICATE")
    if path:
        certificate = load_certificate(Path(path))
    else:
        beside = list(session.get_objects({Attribute.CLASS: ObjectClass.CERTIFICATE, **named}))
        if len(beside) != 1:
            raise Invalid(
                "no certificate lies beside the key in the token; put it there under the same "
                "name, or set TOUCHSTONE_PKCS11_CERTIFICATE to its file"
            )
        certificate = x509.load_der_x509_certificate(bytes(beside[0][Attribute.VALUE]))
    signer = _TokenSigner(keys[0], certificate)
    _check_pair(signer)
    return signer


def _check_pair(signer: Signer) -> None:
    """A signature on a few bytes, so that a wrong certificate is found before a decision is."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    public = signer.certificate.public_key()
    try:
        if not isinstance(public, ec.EllipticCurvePublicKey):
            raise Invalid("the certificate of the key in the token is not an elliptic curve's")
        probe = b"touchstone: does this key belong to this certificate?"
        public.verify(signer.sign(probe), probe, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise Invalid("the key in the token does not belong to the certificate") from error
