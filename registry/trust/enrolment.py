"""Whose key may decide: statements that lead from a signing key back to the facility's root.

    >>> founding = founded(root, "tef", [person_of(ada, "assessor", now), ...], now)
    >>> asked = request(person_of(cleo.certificate, "assessor", now))
    >>> enrolled(Register(founding, (add_signature(add_signature(asked, ada), ben),), leaves), root)

Rules
-----
1. The first people, two at least, are named by one founding statement that the root's own key
   signs. The root is offline: no server holds its key.
2. Everybody after them is named by an enrolment statement that two other enrolled people sign.
   A person counts once, however many keys they have, and never for themself.
3. A statement binds person, facility, role, key, certificate, purpose and date; the certificate
   leads to the root and was valid on that date.
4. A person has one role for good: who was enrolled as a steward is never an assessor.
5. Pure: who is enrolled is a function of the statements. So a hospital checks it as the server
   does, and rows that were written past the server count for nothing.
"""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from registry.trust.canonical import canonical, parse_canonical, sha256_bytes
from registry.trust.dsse import (
    Envelope,
    add_signature,
    check_signature,
    is_exact,
    payload_of,
    unsigned,
    verified_signers,
)
from registry.trust.errors import Invalid, Refused, Tampered
from registry.trust.keys import check_leaf, key_id, parse_certificate, pem_of, signer_name
from registry.trust.signer import Signer

FOUNDING_TYPE = "application/vnd.touchstone.founding.v1+json"
ENROLMENT_TYPE = "application/vnd.touchstone.enrolment.v1+json"
OTHERS_NEEDED = 2
EnrolledRole = Literal["assessor", "steward"]
_Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
_Line = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
_PURPOSE: dict[EnrolledRole, Literal["decide", "lock"]] = {"assessor": "decide", "steward": "lock"}


_UNREADABLE = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    RecursionError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_Model = TypeVar("_Model", bound=_Strict)


class Person(_Strict):
    """One person in one role with one key."""

    person: _Line
    organisation: _Line
    role: EnrolledRole
    key: _Digest
    certificate: _Digest
    purpose: Literal["decide", "lock"]
    date: AwareDatetime

    @property
    def name(self) -> tuple[str, str]:
        """(person, organisation)."""
        return self.person, self.organisation


class Founding(_Strict):
    """The first people of a facility."""

    facility: _Line
    root: _Digest
    people: Annotated[tuple[Person, ...], Field(min_length=OTHERS_NEEDED)]
    date: AwareDatetime


@dataclass(frozen=True)
class Register:
    """Every statement, and the certificates of those whom they name."""

    founding: Envelope
    enrolments: tuple[Envelope, ...]
    certificates: tuple[x509.Certificate, ...]

    def as_bytes(self) -> bytes:
        """The canonical form that travels with a bundle."""
        pems = sorted(pem_of(leaf).decode() for leaf in self.certificates)
        return canonical(
            {"founding": self.founding, "enrolments": list(self.enrolments), "certificates": pems}
        )


def certificate_digest(certificate: x509.Certificate) -> str:
    """The SHA-256 of the certificate's DER."""
    return sha256_bytes(certificate.public_bytes(serialization.Encoding.DER))


def person_of(certificate: x509.Certificate, role: EnrolledRole, date: dt.datetime) -> Person:
    """Whom a certificate names, to be enrolled in `role`."""
    person, organisation = signer_name(certificate)
    return Person(
        person=person,
        organisation=organisation,
        role=role,
        key=key_id(certificate),
        certificate=certificate_digest(certificate),
        purpose=_PURPOSE[role],
        date=date,
    )


def founded(root: Signer, facility: str, people: Sequence[Person], date: dt.datetime) -> Envelope:
    """The founding statement, signed with the root's key, where that key is: offline."""
    founding = Founding(
        facility=facility, root=key_id(root.certificate), people=tuple(people), date=date
    )
    _check_founding(founding)
    payload = canonical(founding.model_dump(mode="json"))
    return add_signature(unsigned(FOUNDING_TYPE, payload), root)


def request(person: Person) -> Envelope:
    """An enrolment statement that nobody has signed yet."""
    return unsigned(ENROLMENT_TYPE, canonical(person.model_dump(mode="json")))


def parse_founding(payload: bytes) -> Founding:
    """The founding statement in a payload."""
    return _parsed(Founding, payload)


def parse_enrolment(payload: bytes) -> Person:
    """The person whom an enrolment statement names."""
    return _parsed(Person, payload)


def parse_register(data: bytes) -> Register:
    """The statements that came with a bundle; Tampered unless the form is exact."""
    try:
        value = parse_canonical(data)
        if set(value) != {"founding", "enrolments", "certificates"}:
            raise Invalid("other fields than founding, enrolments and certificates")
        leaves = tuple(parse_certificate(pem.encode()) for pem in value["certificates"])
        for leaf in leaves:
            key_id(leaf)  # a key of an unknown kind is found here
        register = Register(value["founding"], tuple(value["enrolments"]), leaves)
        envelopes = (register.founding, *register.enrolments)
        if register.as_bytes() != data or not all(map(is_exact, envelopes)):
            raise Invalid("it is not in the one form that its content has")
        if len(set(leaves)) != len(leaves) or any(
            len(signing_keys(of)) != len(of["signatures"]) for of in envelopes
        ):
            raise Invalid("it holds a certificate or a signature twice")
    except (*_UNREADABLE, Invalid) as error:
        raise Tampered(
            "the list of enrolments is damaged; pull the bundle again", code="enrolments_malformed"
        ) from error
    return register


def enrolled(register: Register, root: x509.Certificate) -> dict[str, Person]:
    """{key: person} of everybody whom the statements enrol under `root`.

    Raises Refused, Tampered or Invalid for the first statement that does not hold.
    """
    leaves = {key_id(leaf): leaf for leaf in register.certificates}
    founding = _checked_founding(register.founding, leaves, root)
    known = {person.key: person for person in founding.people}
    waiting = list(register.enrolments)
    while waiting:
        ready = [envelope for envelope in waiting if signing_keys(envelope) <= set(known)]
        if not ready:
            person = parse_enrolment(payload_of(waiting[0])).person
            raise _refused(f"{person} was enrolled by somebody who was not enrolled before")
        for envelope in ready:
            person_ = _checked_enrolment(envelope, founding.facility, known, leaves, root)
            known[person_.key] = person_
        waiting = [envelope for envelope in waiting if envelope not in ready]
    return known


def needed_for(register: Register, keys: Iterable[str]) -> Register:
    """The smallest part of `register` that enrols `keys`: what travels with a certificate."""
    by_key: dict[str, Envelope] = {}
    for envelope in register.enrolments:
        with suppress(Invalid):  # what is no statement enrols nobody, and holds nobody up
            by_key[parse_enrolment(payload_of(envelope)).key] = envelope
    wanted: set[str] = set()
    ahead = list(keys)
    while ahead:
        key = ahead.pop()
        if key not in wanted:
            wanted.add(key)
            ahead += sorted(signing_keys(by_key[key])) if key in by_key else []
    first = {person.key for person in parse_founding(payload_of(register.founding)).people}
    return Register(
        register.founding,
        tuple(envelope for key, envelope in sorted(by_key.items()) if key in wanted),
        tuple(leaf for leaf in register.certificates if key_id(leaf) in wanted | first),
    )


def signing_keys(envelope: Any) -> set[str]:
    """The keys that an envelope says it was signed with, unverified."""
    try:
        return {str(entry["keyid"]) for entry in envelope["signatures"]}
    except (KeyError, TypeError) as error:
        raise Invalid("a statement of enrolment is not a DSSE envelope") from error


def check_assessors(
    register: Register, leaves: Iterable[x509.Certificate], root: x509.Certificate
) -> tuple[Person, ...]:
    """Those who signed, as enrolled assessors; Refused for anybody who is not one."""
    return _check_signers(register, leaves, root, "assessor", "a certificate")


def check_stewards(
    register: Register,
    leaves: Iterable[x509.Certificate],
    root: x509.Certificate,
    date: dt.datetime,
) -> tuple[Person, ...]:
    """Those who signed a lock, as stewards enrolled by `date`; Refused for anybody else."""
    found = _check_signers(register, leaves, root, "steward", "a cohort's lock")
    for person in found:
        if person.date > date:
            raise _refused(f"{person.person} was enrolled after the date of what they signed")
    return found


def _check_signers(
    register: Register,
    leaves: Iterable[x509.Certificate],
    root: x509.Certificate,
    role: EnrolledRole,
    what: str,
) -> tuple[Person, ...]:
    known = enrolled(register, root)
    found = []
    for leaf in leaves:
        name, _ = signer_name(leaf)
        person = known.get(key_id(leaf))
        if person is None or person.certificate != certificate_digest(leaf):
            raise _refused(
                f"the key of {name} was never enrolled: no founding statement and no two others "
                "stand for it"
            )
        if person.role != role:
            raise _refused(f"{name} was enrolled as {person.role}, who can't sign {what}")
        found.append(person)
    return tuple(found)


def _checked_founding(
    envelope: Envelope, leaves: Mapping[str, x509.Certificate], root: x509.Certificate
) -> Founding:
    if not signing_keys(envelope) == {key_id(root)}:
        raise _refused("the founding statement is not signed by this root")
    payload = check_signature(envelope, FOUNDING_TYPE, root)
    founding = parse_founding(payload)
    if founding.root != key_id(root):
        raise _refused("the founding statement is another root's")
    _check_founding(founding)
    for person in founding.people:
        _check_person(person, founding.facility, leaves, root)
    return founding


def _check_founding(founding: Founding) -> None:
    people, keys = ([p.name for p in founding.people], [p.key for p in founding.people])
    if len(set(people)) != len(people) or len(set(keys)) != len(keys):
        raise _refused("the founding statement names one person or one key twice")
    if any(person.organisation != founding.facility for person in founding.people):
        raise _refused(
            f"the first people of {founding.facility} are not all of {founding.facility}"
        )


def _checked_enrolment(
    envelope: Envelope,
    facility: str,
    known: Mapping[str, Person],
    leaves: Mapping[str, x509.Certificate],
    root: x509.Certificate,
) -> Person:
    person = parse_enrolment(payload_of(envelope))
    signers = [leaves[key] for key in sorted(signing_keys(envelope)) if key in leaves]
    others = set(verified_signers(envelope, ENROLMENT_TYPE, signers, root, person.date))
    check_others(person, others)
    _check_person(person, facility, leaves, root)
    if person.key in known:
        raise _refused(f"the key of {person.person} is enrolled already")
    for other in known.values():
        if other.name == person.name and other.role != person.role:
            raise _refused(f"{person.person} was enrolled as {other.role}; a person has one role")
    if any(known[key].date > person.date for key in signing_keys(envelope)):
        raise _refused(f"{person.person} was enrolled before one of those who vouch was")
    return person


def check_others(person: Person, others: set[tuple[str, str]]) -> None:
    """Raise Refused unless two people other than `person` are among `others`."""
    if person.name in others:
        raise _refused(f"{person.person} can't approve their own key")
    if len(others) < OTHERS_NEEDED:
        raise _refused(
            f"{len(others)} enrolled person has approved {person.person}; "
            f"{OTHERS_NEEDED} different ones are needed"
        )


def _check_person(
    person: Person, facility: str, leaves: Mapping[str, x509.Certificate], root: x509.Certificate
) -> None:
    leaf = leaves.get(person.key)
    if leaf is None or certificate_digest(leaf) != person.certificate:
        raise _refused(f"the certificate with which {person.person} was enrolled is missing")
    if signer_name(leaf) != person.name:
        raise _refused(f"the certificate of {person.person} names another person or organisation")
    if person.organisation != facility:
        raise _refused(f"{person.person} belongs to {person.organisation}, not to {facility}")
    if person.purpose != _PURPOSE[person.role]:
        raise _refused(f"{person.person} was enrolled as {person.role} for another purpose")
    check_leaf(leaf, root, person.date)


def _parsed(model: type[_Model], payload: bytes) -> _Model:
    try:
        return model.model_validate(parse_canonical(payload))
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise Invalid(f"the statement of enrolment is malformed at {place}") from error


def _refused(sentence: str) -> Refused:
    return Refused(sentence, code="not_enrolled")
