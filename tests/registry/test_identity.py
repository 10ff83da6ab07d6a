"""Who may do what, and how people are known."""

import datetime as dt
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from registry.database.record import Record
from registry.identity import accounts
from registry.identity.accounts import SYSTEM_ADMIN, NewOrganisation, NewToken
from registry.identity.caller import Caller
from registry.identity.policy import KIND_OF_ROLE, POLICY, require, table
from registry.settings import Databases
from registry.trust.errors import Invalid, NotFound, Refused, Unauthenticated
from registry.trust.keys import Identity, issue, new_root, pem_of

WHOLE_TABLE = """\
                          innovator    steward   assessor  clinician    auditor      admin
audit.read                      own          -          -        own        all          -
certificate.resume                -          -        all          -          -          -
certificate.revoke                -          -        all          -          -          -
certificate.suspend               -        all        all          -          -          -
certified.pull                    -          -          -        all          -          -
cohort.list                     all        all        all          -        all        all
cohort.lock                       -        all          -          -          -          -
cohort.verify                     -        all        all          -        all          -
mlflow.use                      own          -          -          -          -          -
notice.read                     own        all        all        own        all          -
organisation.add                  -          -          -          -          -        all
person.add                        -          -          -          -          -        all
person.list                       -          -          -          -        all        all
protocol.lock                     -        all          -          -          -          -
protocol.read                   all        all        all        all        all          -
quota.read                      own        all        all          -        all        all
quota.set                         -          -          -          -          -        all
report.read_full                  -        all        all          -        all          -
report.read_released            own          -          -          -          -          -
submission.add                  own          -          -          -          -          -
submission.cancel                 -        all          -          -          -          -
submission.decide                 -          -        all          -          -          -
submission.read                 own        all        all          -        all          -
submission.withdraw             own          -          -          -          -          -
token.add                         -          -          -          -          -        all
token.list                      own        own        own        own        all        all
token.revoke                    own        own        own        own        own        all"""


def test_the_whole_permission_table_is_this() -> None:
    assert [line.split() for line in table().splitlines()] == [
        line.split() for line in WHOLE_TABLE.splitlines()
    ]


@pytest.mark.parametrize("role", list(POLICY))
def test_a_role_counts_only_in_an_organisation_of_its_kind(role: Any) -> None:
    for kind in ("sme", "facility", "hospital"):
        caller = Caller("x", kind, role, "P", "t")  # type: ignore[arg-type]
        for action in POLICY[role]:
            if kind in KIND_OF_ROLE[role]:
                require(caller, action)
            else:
                with pytest.raises(Refused):
                    require(caller, action)


def test_own_means_own() -> None:
    caller = Caller("sme-a", "sme", "innovator", "Eva", "t")
    require(caller, "submission.read", owner="sme-a")
    with pytest.raises(Refused, match="belongs to sme-a"):
        require(caller, "submission.read", owner="sme-b")


@pytest.fixture(scope="module")
def record(database: Databases) -> Iterator[Record]:
    assert database.owner is not None
    opened = Record(database.owner)  # nobody has a token yet
    for name, kind in (("tef", "facility"), ("sme-a", "sme")):
        accounts.add_organisation(
            opened,
            SYSTEM_ADMIN,
            NewOrganisation(id=name, kind=kind, name=name),  # type: ignore[arg-type]
        )
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def root() -> Identity:
    return new_root("tef", demo=True)


def new(**changes: Any) -> NewToken:
    return NewToken(**{"organisation": "sme-a", "role": "innovator", "person": "Eva"} | changes)


def test_a_token_is_known_by_its_hash_alone(record: Record, database: Databases) -> None:
    token = accounts.add_token(record, SYSTEM_ADMIN, new())
    caller = accounts.authenticate(Record(database.app), token.secret)
    assert (caller.organisation, caller.role, caller.person) == ("sme-a", "innovator", "Eva")
    with psycopg.connect(str(database.owner)) as owner:
        for (name,) in owner.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'touchstone'"
        ).fetchall():
            rows = owner.execute(f"SELECT t::text FROM touchstone.{name} t").fetchall()
            assert not [row for row in rows if token.secret in row[0]]


def test_wrong_expired_and_revoked_tokens_are_told_apart_and_refused(
    record: Record, database: Databases
) -> None:
    with pytest.raises(Unauthenticated, match="not known"):
        accounts.authenticate(record, "tst_nonsense")
    token = accounts.add_token(record, SYSTEM_ADMIN, new())
    with record.transaction() as now:
        now.do("token_revoke", id=token.id)
    with pytest.raises(Unauthenticated, match="revoked"):
        accounts.authenticate(record, token.secret)
    token = accounts.add_token(record, SYSTEM_ADMIN, new())
    with psycopg.connect(str(database.owner)) as owner:
        owner.execute(
            "UPDATE touchstone.token SET expires_at = now() - interval '1 day' WHERE id = %s",
            (token.id,),
        )
    with pytest.raises(Unauthenticated, match="expired on"):
        accounts.authenticate(record, token.secret)


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic eDp5", "tst_x"])
def test_a_header_without_a_bearer_token_is_no_token(header: str | None) -> None:
    with pytest.raises(Unauthenticated, match="TOUCHSTONE_TOKEN"):
        accounts.bearer(header)


def test_an_assessor_needs_a_certificate_of_the_facility_in_their_own_name(
    record: Record, root: Identity
) -> None:
    ask = {"organisation": "tef", "role": "assessor", "person": "Ada"}
    with pytest.raises(Invalid, match="key of their own"):
        accounts.add_token(record, SYSTEM_ADMIN, new(**ask), root.certificate)
    stranger = issue(new_root("tef", demo=True), "Ada", organisation="tef")
    ben = issue(root, "Ben", organisation="tef")
    ada = issue(root, "Ada", organisation="tef")
    for leaf, words in ((stranger, "not issued by this root"), (ben, "another person")):
        with pytest.raises(Refused, match=words):
            accounts.add_token(
                record, SYSTEM_ADMIN,
                new(**ask, certificate=pem_of(leaf.certificate).decode()), root.certificate,
            )  # fmt: skip
    accounts.add_token(
        record, SYSTEM_ADMIN, new(**ask, certificate=pem_of(ada.certificate).decode()),
        root.certificate,
    )  # fmt: skip


def test_a_role_is_given_only_where_it_belongs(record: Record) -> None:
    with pytest.raises(Refused, match="not a role of a sme"):
        accounts.add_token(record, SYSTEM_ADMIN, new(role="assessor"))
    with pytest.raises(NotFound, match="org add"):
        accounts.add_token(record, SYSTEM_ADMIN, new(organisation="nowhere"))
    innovator = Caller("sme-a", "sme", "innovator", "Eva", "t")
    with pytest.raises(Refused, match=r"may not do token\.add"):
        accounts.add_token(record, innovator, new())


def test_a_token_names_the_day_it_ends(record: Record) -> None:
    token = accounts.add_token(record, SYSTEM_ADMIN, new(days=1))
    left = token.expires_at - dt.datetime.now(dt.UTC)
    assert dt.timedelta(hours=23) < left <= dt.timedelta(days=1)
