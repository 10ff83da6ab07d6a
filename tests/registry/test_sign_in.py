"""Signing in with an enrolled key, and that no other way leads to such a token."""

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from registry.identity import accounts, enrolment, sign_in
from registry.submissions import review
from registry.trust.decision import DECISION_TYPE
from registry.trust.dsse import add_signature, payload_of, unsigned
from registry.trust.errors import (
    Invalid,
    Refused,
    Tampered,
    TouchstoneError,
    Unauthenticated,
)
from registry.trust.keys import Identity, issue, key_id, new_root, pem_of
from registry.trust.sign_in import SIGN_IN_TYPE, check_server, check_sign_in, new_sign_in
from tests.registry.house import House
from tests.registry.role import enrol_by_hand


def test_an_enrolled_key_gives_its_holder_a_token_for_twelve_hours(house: House) -> None:
    for person, role in (("Sam", "steward"), ("Ada", "assessor")):
        given = house.answer(house.challenged(person))
        caller = accounts.authenticate(house.facility.record, given.secret)
        assert (caller.person, caller.role, caller.organisation) == (person, role, "tef")
        left = given.expires_at - dt.datetime.now(dt.UTC)
        assert dt.timedelta(hours=11, minutes=59) < left <= dt.timedelta(hours=12)
    kept = house.owner.execute(
        "SELECT e.detail FROM touchstone.event e WHERE e.kind = 'signed-in' AND e.subject = %s",
        (given.id,),
    ).fetchone()
    assert key_id(house.keys["Ada"].certificate) in kept[0]


def test_a_challenge_is_answered_once(house: House) -> None:
    envelope = house.challenged("Ada")
    house.answer(envelope)
    with pytest.raises(Unauthenticated, match="used already"):
        house.answer(envelope)


def test_two_answers_at_once_give_one_token(house: House) -> None:
    def safely(envelope: Any) -> Any:
        try:
            return house.answer(envelope)
        except TouchstoneError as error:
            return error

    for _ in range(5):
        envelope = house.challenged("Ada")
        with ThreadPoolExecutor(4) as pool:
            said = list(pool.map(safely, [envelope] * 4))
        assert sorted(type(one).__name__ for one in said) == ["LoggedIn"] + ["Unauthenticated"] * 3


def test_two_challenges_of_one_person_at_once_are_two_tokens(house: House) -> None:
    first, second = house.challenged("Ada"), house.challenged("Ada")
    with ThreadPoolExecutor(2) as pool:
        given = list(pool.map(house.answer, (first, second)))
    assert len({one.secret for one in given}) == 2


def test_a_challenge_ends_after_five_minutes(house: House) -> None:
    envelope = house.challenged("Ada")
    rows = house.owner.execute(
        "SELECT max(expires_at) - now() FROM touchstone.sign_in_challenge"
    ).fetchone()
    assert dt.timedelta(minutes=4) < rows[0] <= dt.timedelta(minutes=5)
    house.owner.execute(
        "UPDATE touchstone.sign_in_challenge SET expires_at = now() - interval '1 second'"
    )
    with pytest.raises(Unauthenticated, match="is over"):
        house.answer(envelope)


def test_whose_token_is_over_is_told_to_log_in_again(house: House) -> None:
    given = house.answer(house.challenged("Ada"))
    house.owner.execute(
        "UPDATE touchstone.token SET expires_at = now() - interval '1 day' WHERE id = %s",
        (given.id,),
    )
    with pytest.raises(Unauthenticated, match=r"expired on .*; log in again, or ask"):
        accounts.authenticate(house.facility.record, given.secret)


def test_a_challenge_of_another_person_is_no_good(house: House) -> None:
    theirs = sign_in.begin(
        house.facility.login, "http://127.0.0.1:1",
        sign_in.NewSignIn(
            person="Ben", organisation="tef", key=key_id(house.keys["Ben"].certificate)
        ),
    )  # fmt: skip
    with pytest.raises(Unauthenticated, match="another person or key"):
        house.answer(signed(house.keys["Ada"], theirs.nonce))


def signed(key: Identity, nonce: str, **more: Any) -> Any:
    """A sign-in by a key, over any nonce."""
    values: dict[str, Any] = {"server": "http://127.0.0.1:1", "date": dt.datetime.now(dt.UTC)}
    return new_sign_in(key, nonce=nonce, **(values | more))


def test_another_key_opens_nothing_whatever_it_says_of_itself(house: House) -> None:
    strangers = {
        "a second key of Ada's, never enrolled": issue(house.root, "Ada", organisation="tef"),
        "a key of another root": issue(new_root("tef", demo=True), "Ada", organisation="tef"),
        "the root's own": house.root,
        "one for serving web pages": of_another_purpose(house.root, "Ada"),
        "an innovator's": issue(house.root, "Eva", organisation="sme-a"),
    }
    for key in strangers.values():
        with pytest.raises(Unauthenticated, match="not enrolled"):
            house.answer(house.challenged("Ada", key))
    forged = house.challenged("Ada", strangers["a second key of Ada's, never enrolled"])
    forged["signatures"][0]["keyid"] = key_id(house.keys["Ada"].certificate)
    with pytest.raises(Tampered, match="does not fit"):
        house.answer(forged)


def of_another_purpose(root: Identity, person: str) -> Identity:
    """A key under the root whose certificate is for something else, handed in by two others."""
    like = issue(root, person, organisation="tef")
    purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    builder = (
        x509.CertificateBuilder()
        .subject_name(like.certificate.subject)
        .issuer_name(like.certificate.issuer)
        .public_key(like.key.public_key())
        .serial_number(like.certificate.serial_number)
        .not_valid_before(like.certificate.not_valid_before_utc)
        .not_valid_after(like.certificate.not_valid_after_utc)
        .add_extension(purpose, critical=True)
    )
    return Identity(like.key, builder.sign(root.key, hashes.SHA256()))


def test_a_key_of_another_purpose_is_not_enrolled_and_signs_nobody_in(house: House) -> None:
    """Even if the row of the key is put there, and its certificate's rules are all that stand."""
    web = of_another_purpose(house.root, "Ada")
    envelope = signed(web, "nonce")
    with pytest.raises(Refused):
        check_sign_in(
            envelope, web.certificate, house.root.certificate, server="http://127.0.0.1:1",
            now=dt.datetime.now(dt.UTC),
        )  # fmt: skip
    house.keys["Web"] = of_another_purpose(house.root, "Web")
    with pytest.raises(Refused):
        house.enrol("Web", "Ada", "Ben")
    house.owner.execute(  # of an older version: a row without a statement
        "INSERT INTO touchstone.signer (key_id, organisation, person, pem) VALUES (%s, %s, %s, %s)",
        (key_id(web.certificate), "tef", "Ada", pem_of(web.certificate).decode()),
    )
    with pytest.raises(Unauthenticated, match="not enrolled"):
        house.answer(house.challenged("Ada", web))


def test_a_row_of_a_key_that_nobody_vouched_for_opens_nothing(house: House) -> None:
    """Whoever owns the database writes the row, not the statement of two others."""
    mal = house.keys["Mal"] = issue(house.root, "Mal", organisation="tef")
    enrol_by_hand(
        house.database, "Mal", "steward", key=key_id(mal.certificate),
        pem=pem_of(mal.certificate).decode(),
    )  # fmt: skip
    with pytest.raises(Unauthenticated, match="not enrolled"):
        house.sign_in("Mal")


def test_a_signature_on_a_decision_is_no_sign_in_and_the_other_way_round(house: House) -> None:
    submission = house.in_review()
    decision = house.signed("Ada", submission).envelope
    with pytest.raises(Invalid, match="another kind of document"):
        house.answer(decision)
    with pytest.raises(Tampered, match="does not fit"):
        house.answer({**decision, "payloadType": SIGN_IN_TYPE})
    envelope = house.challenged("Ada")
    own = house.signed("Ada", submission)
    for wrong, error in (
        (envelope, Invalid),
        ({**envelope, "payloadType": DECISION_TYPE}, (Tampered, Invalid)),
    ):
        with pytest.raises(error):
            review.decide(
                house.facility, house.callers["Ada"], submission,
                own.model_copy(update={"envelope": wrong}),
            )  # fmt: skip


def test_what_was_signed_for_another_registry_or_time_or_by_two_is_refused(house: House) -> None:
    key = house.keys["Ada"]

    def nonce() -> str:
        said = sign_in.begin(
            house.facility.login, "x",
            sign_in.NewSignIn(person="Ada", organisation="tef", key=key_id(key.certificate)),
        )  # fmt: skip
        return said.nonce

    with pytest.raises(Refused, match="names the registry it is for") as refusal:
        house.answer(signed(key, nonce(), server="https://evil.example"))
    assert refusal.value.code == "another_registry"
    for minutes in (-11, 11):
        date = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=minutes)
        with pytest.raises(Refused, match="machine's clock"):
            house.answer(signed(key, nonce(), date=date))
    both = add_signature(signed(key, nonce()), house.keys["Ben"])
    with pytest.raises(Invalid, match="one signature"):
        house.answer(both)
    said = payload_of(signed(key, nonce()))
    for payload in (
        said.replace(b'"person":"Ada"', b'"person":"Sam"'),
        said.replace(b'"facility":"tef"', b'"facility":"sme-a"'),
    ):
        assert payload != said
        with pytest.raises(Refused, match="another person or key"):
            house.answer(add_signature(unsigned(SIGN_IN_TYPE, payload), key))
    decided = said.replace(b'"purpose":"sign-in"', b'"purpose":"decide"')
    with pytest.raises(Invalid, match="malformed at purpose"):
        house.answer(add_signature(unsigned(SIGN_IN_TYPE, decided), key))
    with pytest.raises(Unauthenticated, match="not begun here"):
        house.answer(signed(key, "a nonce that nobody gave"))


@pytest.mark.parametrize(
    ("asked", "own", "fits"),
    [
        ("https://tef.example", "https://tef.example", True),
        ("https://TEF.example:443/", "https://tef.example", True),
        ("https://tef.example/a", "https://tef.example/a/", True),
        ("http://localhost:9000", "http://127.0.0.1:8400", True),
        ("http://[::1]:9000", "http://localhost:8400", True),
        ("http://tef.example", "https://tef.example", False),
        ("https://tef.example:8443", "https://tef.example", False),
        ("https://tef.example/b", "https://tef.example/a", False),
        ("https://tef.example.evil.org", "https://tef.example", False),
        ("https://evil@tef.example.org", "https://evil", False),
        ("http://localhost:8400", "https://tef.example", False),
        ("https://tef.example", "http://127.0.0.1:8400", False),
        ("tef.example", "tef.example", False),
        ("https://[", "https://[", False),
    ],
)
def test_an_address_is_the_registrys_own_or_it_is_not(asked: str, own: str, fits: bool) -> None:
    if fits:
        check_server(asked, own)
    else:
        with pytest.raises(Refused, match="names the registry"):
            check_server(asked, own)


def test_a_revoked_key_opens_nothing_and_what_it_opened_ends_also_with_a_second_key(
    house: House,
) -> None:
    house.enrol("Kay", "Ada", "Ben")
    first = house.keys["Kay"]
    waiting = house.challenged("Kay")
    token = house.answer(house.challenged("Kay"))
    house.keys.pop("Kay")
    house.enrol("Kay", "Ada", "Ben")  # a second key of the same person
    enrolment.revoke(
        house.facility.record, house.admin, key_id(first.certificate),
        enrolment.NewRevocation(reason="lost the card"),
    )  # fmt: skip
    with pytest.raises(Unauthenticated, match="this key was revoked"):
        house.answer(waiting)
    with pytest.raises(Unauthenticated, match="was revoked"):
        accounts.authenticate(house.facility.record, token.secret)
    assert house.sign_in("Kay").role == "assessor"
