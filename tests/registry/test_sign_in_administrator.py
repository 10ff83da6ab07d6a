"""That an administrator comes by no token of an assessor or a steward, whichever way they try."""

import hashlib
import secrets
from pathlib import Path
from typing import Any

import pytest

from registry.identity import accounts, enrolment, people, sign_in
from registry.identity.caller import Caller
from registry.submissions.lock import propose_cohort
from registry.trust.errors import NotFound, Refused, Unauthenticated
from registry.trust.keys import key_id
from tests.registry.house import House
from tests.registry.role import Role
from tests.validators.cohort_example import sealed_example
from validators.cohort.manifest import manifest_bytes


def test_a_cohort_is_sealed_by_whoever_signed_in_and_not_by_the_administrator(
    house: House, tmp_path: Path
) -> None:
    """The hole that this closes: an administrator had seen the steward's token."""
    sealed = sealed_example(tmp_path)
    objects = tmp_path / "objects"
    for file in (objects / "cohorts").rglob("*"):
        if file.is_file():
            house.facility.store.put(str(file.relative_to(objects)), file.read_bytes())
    path = "cohorts/nodules/1/manifest.json"
    house.facility.store.put(path, manifest_bytes(sealed.manifest))
    for role in ("steward", "assessor"):
        with pytest.raises(Refused, match="are given no token"):
            accounts.add_token(
                house.facility.record, house.admin,
                accounts.NewToken(organisation="tef", role=role, person="Sam"),  # type: ignore[arg-type]
            )  # fmt: skip
    with pytest.raises(Refused, match="may not do"):
        propose_cohort(house.facility, house.admin, path)
    claimed = Caller("tef", "facility", "steward", "Sam", "t", house.admin.proof)
    with pytest.raises(Refused, match="database refuses"):
        propose_cohort(house.facility, claimed, path)
    assert propose_cohort(house.facility, house.sign_in("Sam"), path)["locked_by"] == "Sam"


def test_an_administrator_who_links_a_login_of_their_own_as_steward_gets_nothing(
    house: House,
) -> None:
    """Only whoever holds the key says which login is theirs, and only with that key."""
    link(house, "Sam", "steward", "puppet-of-the-administrator")
    with pytest.raises(Refused, match="nobody has said with the key of Sam"):
        log_in(house, "puppet-of-the-administrator", "steward")
    with pytest.raises(Refused, match=r"may not do login\.confirm"):
        sign_in.confirm(house.facility.record, house.admin, confirmation("puppet"))
    with pytest.raises(NotFound, match="no login of this subject"):
        sign_in.confirm(house.facility.record, house.callers["Sam"], confirmation("sam@home"))
    with pytest.raises(NotFound):  # nor does anybody confirm another's
        sign_in.confirm(
            house.facility.record, house.callers["Ada"],
            confirmation("puppet-of-the-administrator"),
        )  # fmt: skip
    link(house, "Ben", "assessor", "ben@home")
    assert sign_in.confirm(house.facility.record, house.callers["Ben"], confirmation("ben@home"))
    caller = log_in(house, "ben@home", "assessor")
    assert (caller.person, caller.role) == ("Ben", "assessor")
    with pytest.raises(Refused, match="signed in with the key"):  # a login confirms no login
        sign_in.confirm(house.facility.record, caller, confirmation("ben@home"))


def test_a_confirmed_login_ends_with_the_key_that_confirmed_it(house: House) -> None:
    house.enrol("Lou", "Ada", "Ben")
    link(house, "Lou", "assessor", "lou@home")
    lou = house.sign_in("Lou")
    assert sign_in.confirm(house.facility.record, lou, confirmation("lou@home"))
    live = log_in(house, "lou@home", "assessor")
    stolen = house.keys.pop("Lou")
    house.enrol("Lou", "Ada", "Ben")
    enrolment.revoke(
        house.facility.record, house.admin, key_id(stolen.certificate),
        enrolment.NewRevocation(reason="lost the card"),
    )  # fmt: skip
    with pytest.raises(Unauthenticated, match="revoked"), house.facility.record.transaction(live):
        pass
    with pytest.raises(Refused, match="nobody has said with the key of Lou"):
        log_in(house, "lou@home", "assessor")


def link(house: House, person: str, role: Any, subject: str) -> None:
    people.add_person(
        house.facility.record, house.admin, "https://login.example.org",
        people.NewPerson(name=person, organisation="tef", role=role, subject=subject),
    )  # fmt: skip


def confirmation(subject: str) -> sign_in.NewConfirmation:
    return sign_in.NewConfirmation(subject=subject)


def log_in(house: House, subject: str, role: str) -> Caller:
    """A login at the identity provider, as the registry's process ends it."""
    secret = "tst_" + secrets.token_urlsafe(32)
    with house.facility.login.transaction() as now:
        now.one(
            "login_make", issuer="https://login.example.org", subject=subject, email=None,
            name=subject, organisation="tef", role=role, seconds=3600,
            secret_hash=hashlib.sha256(accounts.proof_of(secret)).digest(),
        )  # fmt: skip
    return accounts.authenticate(house.facility.record, secret)


def test_the_log_names_whoever_gives_out_an_auditors_token_also_past_the_application(
    house: House,
) -> None:
    admin = Role(house.database.app, house.facility.settings.admin_token.read_text().strip())
    admin.execute(
        "INSERT INTO touchstone.token (id, organisation, role, person, secret_hash, expires_at)"
        " VALUES (gen_random_uuid(), 'tef', 'auditor', 'Otto', sha256('o'), now() + interval '1 h')"
    )
    rows = house.owner.execute(
        "SELECT actor, detail FROM touchstone.event WHERE kind = 'auditor-token-given'"
    ).fetchall()
    assert rows == [("administrator", '{"person": "Otto"}')]
