"""Signing in with an enrolled key: what a person's own machine signs, and how it is checked.

    >>> envelope = new_sign_in(ada, nonce=challenge.nonce, server="https://tef.example", date=now)
    >>> check_sign_in(envelope, ada.certificate, root, server="https://tef.example", now=now).person
    'Ada'

Rules
-----
1. It has a payload type of its own: no signature on a decision, an enrolment or a lock is one, and
   this one is none of those.
2. It names the registry's address as its signer typed it. So whoever stands between and hands a
   challenge of this registry on, under another address, gets a signature that is good nowhere.
3. A registry that calls itself by an address of one machine takes any such address, for it has no
   other name. Every other one is asked by its own name.
4. Pure: that a challenge is used once and in time is for whoever made it.
"""

import datetime as dt
from typing import Annotated, Literal
from urllib.parse import urlsplit

from cryptography import x509
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from registry.trust.canonical import canonical, parse_canonical
from registry.trust.dsse import (
    Envelope,
    add_signature,
    is_exact,
    payload_of,
    unsigned,
    verified_signers,
)
from registry.trust.errors import Invalid, Refused
from registry.trust.keys import key_id, signer_name
from registry.trust.signer import Signer

SIGN_IN_TYPE = "application/vnd.touchstone.sign-in.v1+json"
CLOCKS_DIFFER = dt.timedelta(minutes=10)
_ONE_MACHINE = ("localhost", "127.0.0.1", "::1")
_PORTS = {"http": 80, "https": 443}
_Line = Annotated[str, Field(min_length=1, max_length=2000, pattern=r"^[^\x00-\x1f\x7f]+$")]


class SignIn(BaseModel):
    """One person's wish to be let in at one registry, once."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    purpose: Literal["sign-in"]
    person: _Line
    facility: _Line
    key: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    nonce: _Line
    server: _Line
    date: dt.datetime


def new_sign_in(signer: Signer, *, nonce: str, server: str, date: dt.datetime) -> Envelope:
    """The signed statement, by whoever the signer's certificate names."""
    person, facility = signer_name(signer.certificate)
    said = SignIn(
        purpose="sign-in",
        person=person,
        facility=facility,
        key=key_id(signer.certificate),
        nonce=nonce,
        server=server,
        date=date,
    )
    return add_signature(unsigned(SIGN_IN_TYPE, canonical(said.model_dump(mode="json"))), signer)


def signing_key(envelope: Envelope) -> str:
    """The key that an envelope of one signature names, unverified; Invalid for any other."""
    if not is_exact(envelope) or len(envelope["signatures"]) != 1:
        raise Invalid("a sign-in is one DSSE envelope with one signature")
    return str(envelope["signatures"][0]["keyid"])


def check_sign_in(
    envelope: Envelope,
    leaf: x509.Certificate,
    root: x509.Certificate,
    *,
    server: str,
    now: dt.datetime,
) -> SignIn:
    """What was signed, if the key of `leaf` signed it now, for the registry at `server`.

    Raises Tampered for a signature that does not fit, Refused for another person, registry or
    time, Invalid for what is no such statement.
    """
    verified_signers(envelope, SIGN_IN_TYPE, [leaf], root, now)
    try:
        said = SignIn.model_validate(parse_canonical(payload_of(envelope)))
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise Invalid(f"the sign-in is malformed at {place}") from error
    if (said.person, said.facility) != signer_name(leaf) or said.key != key_id(leaf):
        raise Refused("the sign-in names another person or key than the one that signed it")
    check_server(said.server, server)
    if said.date.tzinfo is None or abs(said.date - now) > CLOCKS_DIFFER:
        raise Refused(
            "the sign-in is dated more than ten minutes from the registry's clock; set this "
            "machine's clock and sign in again"
        )
    return said


def check_server(asked: str, own: str) -> None:
    """Refused unless `asked` is the address by which the registry knows itself."""
    places = _place(asked), _place(own)
    if places[0] is None or (
        places[0] != places[1]
        and not all(place is not None and place[1] in _ONE_MACHINE for place in places)
    ):
        raise Refused(
            f"this registry is {own}, and a sign-in names the registry it is for: ask it by that "
            "address (--server), or have the facility set TOUCHSTONE_PUBLIC_URL to the right one",
            code="another_registry",
        )


def _place(address: str) -> tuple[str, str, int | None, str] | None:
    try:
        parts = urlsplit(address)
        port = parts.port or _PORTS.get(parts.scheme)
        host = parts.hostname
    except ValueError:
        return None
    if not host or parts.scheme not in _PORTS:
        return None
    return parts.scheme, host, port, parts.path.rstrip("/")
