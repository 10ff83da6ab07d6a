"""The database alone: whoever holds touchstone_login's password, with the code in their hands."""

import secrets
import uuid
from typing import Any

import psycopg
import pytest

from registry.database.record import Record
from registry.settings import Databases
from tests.registry.role import Role, acting, token_of

ISSUER = "https://login.example.org"


@pytest.fixture(scope="module", autouse=True)
def organisations(database: Databases) -> None:
    """One of each kind."""
    owner = Role(database.owner)
    for name, kind in (("tef", "facility"), ("sme-a", "sme"), ("clinic", "hospital")):
        owner.execute(
            "INSERT INTO touchstone.organisation (id, kind, name) VALUES (%s, %s, %s)",
            (name, kind, name),
        )


@pytest.fixture
def login(database: Databases) -> Role:
    """The role of the login."""
    return Role(database.login)


def make(
    login: Role, role: str, organisation: str = "tef", subject: str = "puppet", **more: Any
) -> Any:
    """Call the function that makes tokens."""
    fields = {"email": None, "name": "Puppet", "seconds": 3600, "issuer": ISSUER, **more}
    return login.execute(
        "SELECT * FROM touchstone.login_make(%s, %s, %s, %s, %s, %s, %s, %s)",
        (
            fields["issuer"], subject, fields["email"], fields["name"], organisation, role,
            secrets.token_bytes(32), fields["seconds"],
        ),
    ).fetchone()  # fmt: skip


def grant(database: Databases, name: str, organisation: str, role: str, subject: str) -> uuid.UUID:
    """A person as an administrator links them."""
    admin = acting(database, "tef", "admin", "administrator")
    person = uuid.uuid4()
    admin.execute(
        "INSERT INTO touchstone.person (id, name, issuer, subject, added_by)"
        " VALUES (%s, %s, %s, %s, 'administrator')",
        (person, name, ISSUER, subject),
    )
    admin.execute(
        "INSERT INTO touchstone.person_role (person, organisation, role, granted_by)"
        " VALUES (%s, %s, %s, 'administrator')",
        (person, organisation, role),
    )
    return person


@pytest.mark.parametrize("role", ["assessor", "steward", "admin", "auditor"])
def test_no_login_makes_a_person_of_the_facility_whom_the_record_does_not_know(
    login: Role, role: str
) -> None:
    with pytest.raises(psycopg.errors.RestrictViolation, match="granted in our own record"):
        make(login, role)


def test_the_record_knows_each_person_for_their_own_roles_only(
    login: Role, database: Databases
) -> None:
    grant(database, "Otto", "tef", "auditor", "otto")
    assert make(login, "auditor", subject="otto")
    for role in ("assessor", "admin", "steward"):
        with pytest.raises(psycopg.errors.RestrictViolation):
            make(login, role, subject="otto")
    with pytest.raises(psycopg.errors.RestrictViolation):
        make(login, "auditor", subject="otto", issuer="https://other.example.org")


def test_an_assessor_gets_in_only_with_an_enrolled_key(login: Role, database: Databases) -> None:
    grant(database, "Ada", "tef", "assessor", "ada")
    with pytest.raises(psycopg.errors.RestrictViolation, match="none is enrolled for Ada"):
        make(login, "assessor", subject="ada")


@pytest.mark.parametrize(
    ("role", "organisation"),
    [("innovator", "tef"), ("innovator", "clinic"), ("clinician", "sme-a"), ("admin", "sme-a"),
     ("innovator", "nowhere")],
)  # fmt: skip
def test_a_role_belongs_to_its_kind_of_organisation(
    login: Role, role: str, organisation: str
) -> None:
    with pytest.raises(psycopg.errors.RestrictViolation, match="is not a role of"):
        make(login, role, organisation)


@pytest.mark.parametrize("seconds", [0, -1, 59, 43201, 10**8, None])
def test_a_login_lasts_hours_whatever_the_settings_say(login: Role, seconds: int | None) -> None:
    with pytest.raises((psycopg.errors.RestrictViolation, psycopg.errors.NotNullViolation)):
        make(login, "innovator", "sme-a", seconds=seconds)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM touchstone.token",
        "SELECT * FROM touchstone.person",
        "SELECT * FROM touchstone.login_flow",
        "SELECT * FROM touchstone.submission",
        "INSERT INTO touchstone.token (id, organisation, role, person, secret_hash, expires_at)"
        " VALUES (gen_random_uuid(), 'tef', 'assessor', 'Puppet', sha256('x'), now())",
        "INSERT INTO touchstone.person_role (person, organisation, role, granted_by)"
        " VALUES (gen_random_uuid(), 'tef', 'assessor', 'x')",
        "UPDATE touchstone.token SET role = 'assessor'",
        "SELECT touchstone.enter(sha256('x'))",
        "SELECT touchstone.append_event('Ada', 'tef', 'decided', 'x', '{}')",
        "SELECT touchstone.write_event('Ada', 'tef', 'decided', 'x', '{}')",
        "SELECT touchstone.person_known('a', 'b', 'c')",
    ],
)
def test_the_logins_role_reaches_its_functions_and_nothing_else(
    login: Role, statement: str
) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        login.execute(statement)


@pytest.mark.parametrize("role", ["app", "worker", "gate", "mlflow"])
def test_no_other_role_makes_a_login(database: Databases, role: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        make(Role(getattr(database, role)), "innovator", "sme-a")


def test_only_an_administrator_grants_and_in_their_own_name(database: Databases) -> None:
    for organisation, role, person in (
        ("sme-a", "innovator", "Eva"),
        ("tef", "steward", "Stella"),
        ("tef", "auditor", "Olga"),
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            acting(database, organisation, role, person).execute(
                "INSERT INTO touchstone.person (id, name, issuer, subject, added_by)"
                " VALUES (gen_random_uuid(), 'Puppet', 'i', 's', %s)",
                (person,),
            )
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        acting(database, "tef", "admin", "administrator").execute(
            "INSERT INTO touchstone.person (id, name, issuer, subject, added_by)"
            " VALUES (gen_random_uuid(), 'Puppet', 'i', 's', 'somebody else')"
        )


def test_what_a_person_is_does_not_change_and_a_grant_ends_once(database: Databases) -> None:
    person = grant(database, "Paul", "sme-a", "innovator", "paul")
    admin = acting(database, "tef", "admin", "administrator")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        admin.execute("UPDATE touchstone.person SET subject = 'x' WHERE id = %s", (person,))
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        admin.execute("UPDATE touchstone.person_role SET role = 'admin' WHERE person = %s",
                      (person,))  # fmt: skip
    withdraw = (
        "UPDATE touchstone.person_role SET withdrawn_at = now(), withdrawn_by = 'administrator'"
        " WHERE person = %s"
    )
    assert admin.execute(withdraw, (person,)).rowcount == 1
    with pytest.raises(psycopg.errors.RestrictViolation):
        admin.execute(withdraw, (person,))
    for statement in (
        "UPDATE touchstone.person SET subject = 'x' WHERE id = %s",
        "UPDATE touchstone.person_role SET withdrawn_at = NULL, withdrawn_by = NULL"
        " WHERE person = %s",
        "DELETE FROM touchstone.person_role WHERE person = %s",
        "DELETE FROM touchstone.person WHERE id = %s",
    ):
        with pytest.raises(psycopg.errors.RestrictViolation):
            Role(database.owner).execute(statement, (person,))


def test_a_revoked_token_is_revoked_for_good(database: Databases) -> None:
    secret = token_of(database, "tef", "admin", "administrator")
    admin = acting(database, "tef", "admin", "administrator")
    admin.execute("UPDATE touchstone.token SET revoked_at = now() WHERE person = 'administrator'"
                  " AND id <> touchstone.my_token()")  # fmt: skip
    assert secret
    with pytest.raises(psycopg.errors.RestrictViolation, match="stays revoked"):
        admin.execute("UPDATE touchstone.token SET revoked_at = NULL WHERE revoked_at IS NOT NULL")


def test_a_flow_is_taken_once_by_the_browser_that_began_it(login: Role) -> None:
    state, browser, other = (secrets.token_bytes(32) for _ in range(3))
    login.execute(
        "SELECT touchstone.flow_begin(%s, 'browser', %s, 'n', 'v', NULL, NULL, NULL, 600)",
        (state, browser),
    )
    take = "SELECT * FROM touchstone.flow_take(%s, %s, %s)"
    assert not login.execute(take, (state, "browser", other)).fetchall()
    assert not login.execute(take, (state, "browser", None)).fetchall()
    assert not login.execute(take, (state, "device", browser)).fetchall()
    assert len(login.execute(take, (state, "browser", browser)).fetchall()) == 1
    assert not login.execute(take, (state, "browser", browser)).fetchall()
    login.execute(
        "SELECT touchstone.flow_begin(%s, 'browser', %s, 'n', 'v', NULL, NULL, NULL, -1)",
        (state, browser),
    )
    assert not login.execute(take, (state, "browser", browser)).fetchall(), "too late"


def test_a_refusal_of_the_database_reaches_people_as_a_sentence(database: Databases) -> None:
    from registry.trust.errors import Refused

    record = Record(database.login, size=1)
    with pytest.raises(Refused, match="no login brings it"), record.transaction() as now:
        now.one(
            "login_make", issuer=ISSUER, subject="s", email=None, name="N", organisation="tef",
            role="assessor", secret_hash=secrets.token_bytes(32), seconds=600,
        )  # fmt: skip
    record.close()
