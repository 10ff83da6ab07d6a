"""Whose key may decide, from the statements alone: what a hospital checks."""

import datetime as dt
from typing import Any

import pytest

from registry.trust.dsse import Envelope, add_signature
from registry.trust.enrolment import (
    EnrolledRole,
    Register,
    check_assessors,
    enrolled,
    founded,
    needed_for,
    parse_register,
    person_of,
    request,
)
from registry.trust.errors import Invalid, Refused, Tampered
from registry.trust.keys import Identity, issue, key_id, new_root

NOW = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)  # after every certificate made here
ROOT = new_root("tef", demo=True)
ADA, BEN, SAM, CLEO, DAN = (
    issue(ROOT, name, organisation="tef") for name in ("Ada", "Ben", "Sam", "Cleo", "Dan")
)
EVA = issue(ROOT, "Eva", organisation="sme-a")
FOUNDING = founded(
    ROOT,
    "tef",
    [
        person_of(ADA.certificate, "assessor", NOW),
        person_of(BEN.certificate, "assessor", NOW),
        person_of(SAM.certificate, "steward", NOW),
    ],
    NOW,
)
LEAVES = tuple(who.certificate for who in (ADA, BEN, SAM, CLEO, DAN, EVA))


def statement(
    who: Identity, *signers: Identity, role: EnrolledRole = "assessor", **changes: Any
) -> Envelope:
    person = person_of(who.certificate, role, NOW).model_copy(update=changes)
    envelope = request(person)
    for signer in signers:
        envelope = add_signature(envelope, signer)
    return envelope


def register(*enrolments: Envelope, founding: Envelope = FOUNDING) -> Register:
    return Register(founding, enrolments, LEAVES)


def test_the_first_people_stand_by_the_roots_own_signature() -> None:
    known = enrolled(register(), ROOT.certificate)
    assert {p.person: p.role for p in known.values()} == {
        "Ada": "assessor", "Ben": "assessor", "Sam": "steward",
    }  # fmt: skip
    other = new_root("tef", demo=True)
    with pytest.raises(Refused, match="not signed by this root"):
        enrolled(register(), other.certificate)
    people = [person_of(who.certificate, "assessor", NOW) for who in (ADA, BEN)]
    forged = founded(Identity(other.key, ROOT.certificate), "tef", people, NOW)
    with pytest.raises(Tampered, match="does not fit"):
        enrolled(register(founding=forged), ROOT.certificate)


def test_two_who_are_enrolled_enrol_a_third_and_so_on() -> None:
    dan = statement(DAN, CLEO, SAM)
    cleo = statement(CLEO, ADA, SAM)
    known = enrolled(register(dan, cleo), ROOT.certificate)  # in any order
    assert {p.person for p in known.values()} == {"Ada", "Ben", "Sam", "Cleo", "Dan"}
    signed = check_assessors(
        register(dan, cleo), [DAN.certificate, CLEO.certificate], ROOT.certificate
    )
    assert [p.person for p in signed] == ["Dan", "Cleo"]


@pytest.mark.parametrize(
    ("envelope", "words"),
    [
        (statement(CLEO), "0 enrolled person"),
        (statement(CLEO, ADA), "1 enrolled person"),
        (statement(CLEO, ADA, ADA), "1 enrolled person"),
        (statement(CLEO, ADA, CLEO), "not enrolled before"),
        (statement(CLEO, ADA, EVA), "not enrolled before"),
        (statement(CLEO, DAN, EVA), "not enrolled before"),
        (statement(EVA, ADA, BEN), "belongs to sme-a"),
        (statement(ADA, ADA, BEN), "their own key"),
        (statement(issue(ROOT, "Ada", organisation="tef"), ADA, BEN), "their own key"),
        (statement(CLEO, ADA, BEN, purpose="lock"), "another purpose"),
        (statement(CLEO, ADA, BEN, person="Dan"), "another person"),
        (statement(CLEO, ADA, BEN, key=key_id(DAN.certificate)), "is missing"),
        (statement(CLEO, ADA, BEN, date=NOW + dt.timedelta(days=4000)), "was not valid"),
        (statement(CLEO, ADA, BEN, date=NOW - dt.timedelta(seconds=9)), "before one of those"),
    ],
)
def test_a_statement_that_two_others_did_not_sign_enrols_nobody(
    envelope: Envelope, words: str
) -> None:
    with pytest.raises(Refused, match=words):
        enrolled(register(envelope), ROOT.certificate)


def test_two_puppets_can_not_vouch_for_each_other() -> None:
    with pytest.raises(Refused, match="not enrolled before"):
        enrolled(register(statement(CLEO, DAN, SAM), statement(DAN, CLEO, SAM)), ROOT.certificate)


def test_two_keys_of_one_person_are_one_person() -> None:
    second = issue(ROOT, "Ada", organisation="tef")
    leaves = (*LEAVES, second.certificate)
    known = Register(FOUNDING, (statement(second, BEN, SAM),), leaves)
    assert len(enrolled(known, ROOT.certificate)) == 4
    twice = Register(FOUNDING, (statement(second, BEN, SAM), statement(CLEO, ADA, second)), leaves)
    with pytest.raises(Refused, match="1 enrolled person"):
        enrolled(twice, ROOT.certificate)


def test_a_person_has_one_role_for_good() -> None:
    second = issue(ROOT, "Sam", organisation="tef")
    both = Register(FOUNDING, (statement(second, ADA, BEN),), (*LEAVES, second.certificate))
    with pytest.raises(Refused, match="one role"):
        enrolled(both, ROOT.certificate)
    with pytest.raises(Refused, match="enrolled as steward"):
        check_assessors(register(), [ADA.certificate, SAM.certificate], ROOT.certificate)


def test_a_changed_statement_fits_no_signature() -> None:
    asked, other = statement(CLEO, ADA, BEN), statement(DAN)
    with pytest.raises(Tampered, match="does not fit"):
        enrolled(register({**other, "signatures": asked["signatures"]}), ROOT.certificate)


def test_the_first_people_are_two_at_least_and_of_one_facility() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        founded(ROOT, "tef", [person_of(ADA.certificate, "assessor", NOW)], NOW)
    ada = person_of(ADA.certificate, "assessor", NOW)
    with pytest.raises(Refused, match="twice"):
        founded(ROOT, "tef", [ada, ada], NOW)
    with pytest.raises(Refused, match="not all of tef"):
        founded(ROOT, "tef", [ada, person_of(EVA.certificate, "assessor", NOW)], NOW)


def test_only_what_a_certificate_needs_travels_with_it() -> None:
    other = statement(DAN, ADA, BEN)
    whole = register(statement(CLEO, ADA, SAM), other)
    part = needed_for(whole, [key_id(CLEO.certificate), key_id(ADA.certificate)])
    assert len(part.enrolments) == 1
    assert {p.person for p in enrolled(part, ROOT.certificate).values()} == {
        "Ada", "Ben", "Sam", "Cleo",
    }  # fmt: skip
    assert parse_register(part.as_bytes()).as_bytes() == part.as_bytes()
    for damaged in (part.as_bytes() + b" ", b"{}", b"[]", b"\xff"):
        with pytest.raises(Tampered, match="damaged"):
            parse_register(damaged)


def test_a_founding_statement_without_a_signature_is_none() -> None:
    bare = {**FOUNDING, "signatures": []}
    with pytest.raises((Refused, Invalid, Tampered)):
        enrolled(register(founding=bare), ROOT.certificate)
