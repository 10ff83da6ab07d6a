"""Whose key may decide, at the server: not for its administrator or database owner to say."""

import datetime as dt
from pathlib import Path
from typing import Any

import psycopg
import pytest

from registry.identity import accounts, enrolment
from registry.identity.caller import Caller
from registry.submissions import review
from registry.trust.canonical import canonical
from registry.trust.dsse import add_signature
from registry.trust.enrolment import founded, person_of, request
from registry.trust.errors import Conflict, Refused, Tampered, Unauthenticated
from registry.trust.keys import Identity, issue, key_id, new_root, pem_of
from tests.registry.house import FIRST, House
from tests.registry.role import Role, enrol_by_hand, token_of


def test_two_others_enrol_a_third_who_then_has_a_token(house: House) -> None:
    house.keys["Cleo"] = issue(house.root, "Cleo", organisation="tef")
    with pytest.raises(Unauthenticated, match="not enrolled"):
        house.sign_in("Cleo")
    shown = house.enrol("Cleo", "Ada", "Sam")
    assert (shown["person"], shown["role"], shown["revoked_at"]) == ("Cleo", "assessor", None)
    assert house.welcome("Cleo", "assessor").role == "assessor"
    with pytest.raises(Conflict, match="enrolled already"):
        house.enrol("Cleo", "Ada", "Sam")


def test_an_administrator_makes_no_puppet_who_could_certify(house: House) -> None:
    """Neither by a token, nor by keys of their own that vouch for each other, nor by SQL."""
    for role in ("assessor", "steward"):
        with pytest.raises(Refused, match="two others"):
            house.welcome("Puppet 1", role)  # has no key yet: the administrator's way
        with pytest.raises(psycopg.errors.RestrictViolation, match="two others enrol"):
            Role(house.database.app, _admin_secret(house)).execute(
                "INSERT INTO touchstone.token (id, organisation, role, person, secret_hash,"
                f" expires_at) VALUES (gen_random_uuid(), 'tef', '{role}', 'Puppet 1', sha256('x'),"
                " now() + interval '1 day')"
            )
    for name in ("Puppet 1", "Puppet 2"):  # suppose that the root's holder even issued leaves
        house.keys[name] = issue(house.root, name, organisation="tef")
    for others in (("Puppet 2",), ("Puppet 2", "Puppet 1"), ("Puppet 2", "Ada"), ()):
        with pytest.raises(Refused):
            house.enrol("Puppet 1", *others)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        Role(house.database.app, _admin_secret(house)).execute(
            "INSERT INTO touchstone.signer (key_id, organisation, person, pem)"
            f" VALUES ('sha256:{'9' * 64}', 'tef', 'Puppet 1', 'pem')"
        )
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        Role(house.database.app, _admin_secret(house)).execute(
            "INSERT INTO touchstone.enrolment (digest, kind, envelope)"
            f" VALUES ('sha256:{'9' * 64}', 'enrolment', '{{}}')"
        )


def _admin_secret(house: House) -> str:
    return house.facility.settings.admin_token.read_text().strip()


def test_the_administrator_founds_nothing_anew(house: House) -> None:
    now = dt.datetime.now(dt.UTC)
    own_root = new_root("tef", demo=True)
    for root, words in ((own_root, "not signed by this root"), (house.root, "loaded once")):
        puppets = [issue(root, name, organisation="tef") for name in ("P1", "P2")]
        people = [person_of(who.certificate, "assessor", now) for who in puppets]
        new = enrolment.NewFounding(
            envelope=founded(root, "tef", people, now),
            certificates=[pem_of(who.certificate).decode() for who in puppets],
        )
        with pytest.raises(Refused, match=words):
            enrolment.load_founding(house.facility.record, house.root.certificate, house.admin, new)
        with pytest.raises(psycopg.errors.RestrictViolation, match="loaded once"):
            Role(house.database.app, _admin_secret(house)).execute(
                "SELECT touchstone.load_founding(%s::jsonb, '{}')",
                (canonical(new.envelope).decode(),),
            )


def test_nobody_is_enrolled_by_themself_by_one_or_by_a_stranger(house: House) -> None:
    house.keys["Eva"] = issue(house.root, "Eva", organisation="sme-a")
    house.keys["Dan"] = issue(house.root, "Dan", organisation="tef")
    house.keys["Dan again"] = issue(house.root, "Dan", organisation="tef")
    for others, words in (
        (("Dan", "Ada"), "not enrolled before"),
        (("Ada",), "1 enrolled person"),
        (("Ada", "Ada"), "1 enrolled person"),
        (("Ada", "Eva"), "not enrolled before"),
        ((), "0 enrolled person"),
    ):
        with pytest.raises(Refused, match=words):
            house.enrol("Dan", *others)
    with pytest.raises(Refused, match="belongs to sme-a"):
        house.enrol("Eva", "Ada", "Ben", organisation="sme-a")
    with pytest.raises(Refused, match="one role"):
        _second_key(house, "Sam", "Ada", "Ben")
    with pytest.raises(Refused, match="their own key"):
        _second_key(house, "Ada", "Ada", "Ben")


def _second_key(house: House, person: str, *others: str) -> None:
    leaf = issue(house.root, person, organisation="tef").certificate
    envelope = request(person_of(leaf, "assessor", dt.datetime.now(dt.UTC)))
    for other in others:
        envelope = add_signature(envelope, house.keys[other])
    house.hand_in(envelope, leaf)


@pytest.mark.parametrize(
    ("others", "words"),
    [
        (["Ada"], "by two others"),
        (["Ada", "Ada"], "by two others"),
        (["Ada", "Nobody"], "by two others"),
        (["Nobody", "Noone"], "by two others"),
        (["Ada", "Ben", "Nobody"], "by two others"),
        (["Ada", "Forger"], "by two others"),
        (["Ada", "Self"], "their own key"),
    ],
)
def test_the_database_alone_counts_the_others(house: House, others: list[str], words: str) -> None:
    """What it can't check is ECDSA: these envelopes carry no real signature at all."""
    keys = {person: key_id(house.keys[person].certificate) for person in FIRST}
    person = "Ada" if "Self" in others else "Zoe"
    leaf = issue(house.root, person, organisation="tef").certificate
    if "Forger" in others:  # a row without a statement, as an older version left them
        keys["Forger"] = "sha256:" + "7" * 64
        house.owner.execute(
            "INSERT INTO touchstone.signer (key_id, organisation, person, pem)"
            f" VALUES ('{keys['Forger']}', 'tef', 'Forger', 'pem') ON CONFLICT DO NOTHING"
        )
    envelope: Any = request(person_of(leaf, "assessor", dt.datetime.now(dt.UTC)))
    envelope["signatures"] = [
        {"keyid": keys.get(other, "sha256:" + "8" * 64), "sig": ""} for other in others
    ]
    for secret in (_admin_secret(house), token_of(house.database, "tef", "steward", "Sam")):
        with pytest.raises(psycopg.errors.RestrictViolation, match=words):
            Role(house.database.app, secret).execute(
                "SELECT touchstone.enrol(%s::jsonb, %s)",
                (canonical(envelope).decode(), pem_of(leaf).decode()),
            )


def test_only_people_of_the_facility_hand_in_and_revoke(house: House) -> None:
    for organisation, role in (("sme-a", "innovator"), ("tef", "auditor")):
        secret = token_of(house.database, organisation, role, "P")
        caller = accounts.authenticate(house.facility.record, secret)
        with pytest.raises(Refused, match=r"may not do key\.revoke"):
            enrolment.revoke(
                house.facility.record, caller, "sha256:" + "0" * 64,
                enrolment.NewRevocation(reason="because"),
            )  # fmt: skip
        for statement in (
            "SELECT touchstone.enrol('{}', '')",
            "SELECT touchstone.revoke_key('x', 'because')",
            "SELECT touchstone.load_founding('{}', '{}')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                Role(house.database.app, secret).execute(statement)


def test_a_revoked_key_decides_nothing_approves_nobody_and_opens_no_door(house: House) -> None:
    house.enrol("Rob", "Ada", "Ben")
    rob = house.welcome("Rob", "assessor")
    submission = house.in_review()
    signed = house.signed("Rob", submission)
    secret = token_of(house.database, "tef", "assessor", "Rob")
    revoked = enrolment.revoke(
        house.facility.record, house.admin, key_id(house.keys["Rob"].certificate),
        enrolment.NewRevocation(reason="lost the card"),
    )  # fmt: skip
    assert revoked["revoked_at"]
    with pytest.raises(Unauthenticated, match="was revoked"):
        review.decide(house.facility, rob, submission, signed)
    with pytest.raises(psycopg.errors.DatabaseError, match="was revoked"):
        Role(house.database.app, secret).execute("SELECT 1")
    with pytest.raises(Unauthenticated, match="this key was revoked"):
        house.sign_in("Rob")
    with pytest.raises(Refused, match="who approves, was revoked"):
        house.enrol("Kim", "Ada", "Rob")
    with pytest.raises(psycopg.errors.RestrictViolation, match="this key was revoked"):
        house.owner.execute(_decision(submission, house, "Rob"))
    with pytest.raises(Conflict, match="revoked already"):
        enrolment.revoke(
            house.facility.record, house.admin, key_id(house.keys["Rob"].certificate),
            enrolment.NewRevocation(reason="lost the card"),
        )  # fmt: skip


def _decision(submission: str, house: House, person: str, key: str | None = None) -> str:
    key = key or key_id(house.keys[person].certificate)
    return (
        "INSERT INTO touchstone.decision (submission, key_id, person, outcome, reason,"
        " report_digest, envelope, statement_signature)"
        f" SELECT id, '{key}', '{person}', 'certify', 'because', report_digest, '{{}}', '{{}}'"
        f" FROM touchstone.submission WHERE id = '{submission}'"
    )


def test_a_key_that_is_revoked_between_decision_and_certificate_counts_no_more(
    house: House,
) -> None:
    house.enrol("Tom", "Ada", "Ben")
    tom = house.welcome("Tom", "assessor")
    submission = house.in_review()
    review.decide(house.facility, tom, submission, house.signed("Tom", submission))
    enrolment.revoke(
        house.facility.record, house.admin, key_id(house.keys["Tom"].certificate),
        enrolment.NewRevocation(reason="lost the card"),
    )  # fmt: skip
    ada = house.callers["Ada"]
    shown = review.decide(house.facility, ada, submission, house.signed("Ada", submission))
    assert (shown["state"], shown["decisions"], shown["void_decisions"]) == ("in_review", 1, 1)
    with pytest.raises(Refused, match="1 assessor has signed"):
        review.issue(house.facility, ada, submission)
    assert house.row(submission)["state"] == "in_review"


def test_whoever_owns_the_database_forges_rows_and_is_found_by_the_signatures(
    house: House, tmp_path: Path
) -> None:
    """Rows for two puppets, with statements that nobody signed: neither the server's own check
    nor a hospital's takes them."""
    submission = house.in_review()
    puppets = ("Mal", "Moe")
    for name in puppets:
        house.keys[name] = issue(house.root, name, organisation="tef")
        enrol_by_hand(house.database, name, "assessor", key=key_id(house.keys[name].certificate))
        house.superuser(
            "UPDATE touchstone.signer SET pem = "
            f"'{pem_of(house.keys[name].certificate).decode()}' WHERE person = '{name}'",
        )
    callers = [_caller(house, name) for name in puppets]
    review.decide(house.facility, callers[0], submission, house.signed("Mal", submission))
    with pytest.raises((Refused, Tampered)):
        review.decide(house.facility, callers[1], submission, house.signed("Moe", submission))
    assert house.row(submission)["state"] == "in_review"
    files = _forged_bundle(house, [house.keys[name] for name in puppets])
    from serving.bundle.pack import write_bundle
    from serving.bundle.verify import verify
    from tests.serving.certified import TAKES_DEMO

    directory = write_bundle(files, tmp_path / "b")
    result = verify(directory, house.root.certificate, _in_an_hour(), TAKES_DEMO, replay=False)
    assert (result.steps[-1].name, result.steps[-1].code) == ("enrolment", "not_enrolled")
    assert "never enrolled" in result.steps[-1].sentence
    house.superuser("DELETE FROM touchstone.enrolment WHERE envelope ->> 'payload' IS NULL")
    house.superuser("DELETE FROM touchstone.signer WHERE person IN ('Mal', 'Moe')")


def _in_an_hour() -> dt.datetime:
    from tests.serving.certified import NOW

    return NOW


def _forged_bundle(house: House, puppets: list[Identity]) -> dict[str, bytes]:
    """A bundle that is right in every way but that two puppets signed it."""
    from registry.trust.certificate import new_statement
    from registry.trust.enrolment import needed_for
    from serving.bundle.pack import subjects
    from tests.serving import certified

    files, log = certified.packed(certified.model()), certified.log_of(house.root)
    statement = new_statement(subjects(files), certified.predicate(files, log))
    with house.facility.record.transaction(house.callers["Ada"]) as now:
        rows = [row for row in now.all("enrolments") if "payload" in row["envelope"]]
    from registry.trust.enrolment import Register

    founding = next(row["envelope"] for row in rows if row["kind"] == "founding")
    leaves = tuple(house.keys[name].certificate for name in FIRST)
    known = needed_for(Register(founding, (), leaves), [])
    return {
        **files,
        **certified.around(statement, log, *puppets),
        "enrolments.json": known.as_bytes(),
    }


def _caller(house: House, person: str) -> Caller:
    return accounts.authenticate(
        house.facility.record, token_of(house.database, "tef", "assessor", person)
    )
