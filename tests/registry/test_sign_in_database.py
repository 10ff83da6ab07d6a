"""The database alone: where a token of an assessor or a steward may come from."""

import hashlib
import secrets
import uuid
from pathlib import Path
from typing import Any

import psycopg
import pytest

from registry.database import migrate
from registry.settings import Databases
from tests.registry.role import (
    Role,
    acting,
    enrol_by_hand,
    sign_in_by_hand,
    statement,
    stored,
    token_of,
)

INSERT = (
    "INSERT INTO touchstone.token (id, organisation, role, person, secret_hash, expires_at)"
    " VALUES (%s, 'tef', %s, %s, %s, now() + interval '1 day')"
)


@pytest.fixture(scope="module")
def keys(database: Databases) -> dict[str, str]:
    """Enrolled: Sam, a steward, Ada and Ben, assessors; and an older row without a statement."""
    owner = Role(database.owner)
    owner.execute(
        "INSERT INTO touchstone.organisation VALUES ('tef', 'facility', 'T'), ('sme-a', 'sme', 'A')"
    )
    owner.execute(
        "INSERT INTO touchstone.signer (key_id, organisation, person, pem)"
        f" VALUES ('sha256:{'7' * 64}', 'tef', 'Old', 'pem')"
    )
    found = {"Old": "sha256:" + "7" * 64}
    for person, role in (("Sam", "steward"), ("Ada", "assessor"), ("Ben", "assessor")):
        found[person] = enrol_by_hand(database, person, role)
    return found


@pytest.mark.parametrize("role", ["steward", "assessor"])
@pytest.mark.parametrize("who", ["app", "owner"])
def test_no_insert_makes_such_a_token_not_even_the_owners(
    database: Databases, keys: dict[str, str], who: str, role: str
) -> None:
    person = "Sam" if role == "steward" else "Ada"
    by = acting(database, "tef", "admin", "Ann") if who == "app" else Role(database.owner)
    with pytest.raises(psycopg.errors.RestrictViolation, match="is given to nobody"):
        by.execute(INSERT, (uuid.uuid4(), role, person, secrets.token_bytes(32)))


def test_an_administrator_turns_no_token_into_one_and_writes_no_sign_in(
    database: Databases, keys: dict[str, str]
) -> None:
    admin = acting(database, "tef", "admin", "Ann")
    token = token_of(database, "tef", "steward", "Sam")
    for command, values in (
        ("UPDATE touchstone.token SET role = 'steward', person = 'Sam'", ()),
        ("UPDATE touchstone.token SET secret_hash = %s WHERE role = 'steward'",
         (stored("tst_mine"),)),
        ("UPDATE touchstone.token SET expires_at = now() + interval '9 days'", ()),
        ("SELECT secret_hash FROM touchstone.token", ()),
        ("INSERT INTO touchstone.sign_in VALUES (%s, %s, '{}')", (uuid.uuid4(), keys["Sam"])),
        ("INSERT INTO touchstone.login_token VALUES (%s, %s)", (uuid.uuid4(), uuid.uuid4())),
        ("INSERT INTO touchstone.confirmed_login (person, key_id) VALUES (%s, %s)",
         (uuid.uuid4(), keys["Sam"])),
        ("SELECT * FROM touchstone.sign_in_challenge", ()),
        ("SELECT touchstone.sign_in_begin('x', 'tef', 'Sam', %s)", (keys["Sam"],)),
        ("SELECT touchstone.sign_in_make('x', '{}', 'x')", ()),
    ):  # fmt: skip
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            admin.execute(command, values)
    with pytest.raises(psycopg.errors.RestrictViolation, match="signed in with the key"):
        admin.execute("SELECT touchstone.confirm_login('x')")
    assert Role(database.app, token).execute("SELECT touchstone.my_role()").fetchone() == (
        "steward",
    )
    Role(database.owner).execute("UPDATE touchstone.token SET revoked_at = now()"
                                 " WHERE role = 'steward' AND revoked_at IS NULL")  # fmt: skip
    with pytest.raises(psycopg.errors.RestrictViolation, match="given to nobody"):
        Role(database.owner).execute(
            "UPDATE touchstone.token SET role = 'steward', person = 'Sam' WHERE role = 'admin'"
        )


@pytest.mark.parametrize("role", ["app", "worker", "gate", "mlflow"])
def test_no_other_role_begins_or_ends_a_sign_in(
    database: Databases, keys: dict[str, str], role: str
) -> None:
    for command in (
        "SELECT touchstone.sign_in_begin('x', 'tef', 'Sam', 'x')",
        "SELECT touchstone.sign_in_make('x', '{}', 'x')",
        "SELECT touchstone.sign_in_signers()",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            Role(getattr(database, role)).execute(command)


@pytest.mark.parametrize(
    "command",
    [
        "SELECT * FROM touchstone.sign_in",
        "SELECT * FROM touchstone.sign_in_challenge",
        "SELECT * FROM touchstone.confirmed_login",
        "INSERT INTO touchstone.sign_in VALUES (gen_random_uuid(), 'x', '{}')",
        "DELETE FROM touchstone.sign_in_challenge",
        "SELECT touchstone.confirm_login('x')",
        "SELECT touchstone.signed_in(gen_random_uuid(), 'tef', 'Sam', 'steward')",
    ],
)
def test_the_logins_role_has_the_functions_and_no_table(database: Databases, command: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        Role(database.login).execute(command)


def test_without_a_challenge_of_this_person_and_key_there_is_no_token(
    database: Databases, keys: dict[str, str]
) -> None:
    login = Role(database.login)

    def make(begun: tuple[str, str], said: tuple[str, str], **changes: Any) -> Any:
        nonce = secrets.token_urlsafe(32)
        digest = hashlib.sha256(nonce.encode()).digest()
        login.execute("SELECT touchstone.sign_in_begin(%s, 'tef', %s, %s)", (digest, *begun))
        return login.execute(
            "SELECT * FROM touchstone.sign_in_make(%s, %s::jsonb, %s)",
            (digest, statement("tef", *said, nonce, **changes), secrets.token_bytes(32)),
        ).fetchone()

    ada, sam = ("Ada", keys["Ada"]), ("Sam", keys["Sam"])
    assert make(ada, ada)[1:4] == ("tef", "assessor", "Ada")
    for begun, said, changes in (
        (ada, sam, {}),
        (sam, ada, {}),
        (("Sam", keys["Ada"]), ("Sam", keys["Ada"]), {}),
        (("Ada", keys["Ben"]), ("Ada", keys["Ben"]), {}),
        (ada, ada, {"purpose": "decide"}),
        (ada, ada, {"facility": "sme-a"}),
        (ada, ada, {"nonce": "another"}),
        (ada, ada, {"person": None}),
    ):
        with pytest.raises(psycopg.DatabaseError, match="another person or key"):
            make(begun, said, **changes)
    for unknown in (("Old", keys["Old"]), ("Ada", "sha256:" + "0" * 64)):
        with pytest.raises(psycopg.DatabaseError, match="not enrolled"):
            make(unknown, unknown)
    with pytest.raises(psycopg.DatabaseError, match="was used already or was not begun"):
        login.execute(
            "SELECT touchstone.sign_in_make(%s, %s::jsonb, %s)",
            (secrets.token_bytes(32), statement("tef", *ada, "n"), secrets.token_bytes(32)),
        )


def test_a_sign_in_is_kept_with_its_statement_for_auditors_and_never_changed(
    database: Databases, keys: dict[str, str]
) -> None:
    sign_in_by_hand(database, "tef", "Ben", keys["Ben"])
    auditor = acting(database, "tef", "auditor", "Aud")
    rows = auditor.execute(
        "SELECT envelope ->> 'payloadType' FROM touchstone.sign_in WHERE key_id = %s",
        (keys["Ben"],),
    ).fetchall()
    assert rows == [("application/vnd.touchstone.sign-in.v1+json",)]
    assert acting(database, "tef", "admin", "Ann").execute(
        "SELECT * FROM touchstone.sign_in"
    ).fetchall() == []  # fmt: skip
    for command in ("UPDATE touchstone.sign_in SET envelope = '{}'",
                    "DELETE FROM touchstone.sign_in", "TRUNCATE touchstone.sign_in"):  # fmt: skip
        with pytest.raises(psycopg.errors.RestrictViolation):
            Role(database.owner).execute(command)


def test_tokens_that_were_given_out_before_are_over(
    database: Databases, keys: dict[str, str]
) -> None:
    """What the migration does with rows of an older version: an administrator saw those tokens."""
    text = (Path(migrate.__file__).parent / "migrations" / "0010_sign_in.sql").read_text()
    start = text.index("UPDATE touchstone.token SET revoked_at")
    token = token_of(database, "tef", "steward", "Sam")
    other = token_of(database, "tef", "admin", "Ann")
    Role(database.owner).execute(text[start : text.index(";", start)])
    with pytest.raises(psycopg.DatabaseError, match="was revoked"):
        Role(database.app, token).execute("SELECT 1")
    assert Role(database.app, other).execute("SELECT 1").fetchone() == (1,)
