"""Who may do what, and how people are known."""

import ast
import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import psycopg
import pytest

from registry.database.record import Record
from registry.identity import accounts
from registry.identity.accounts import SYSTEM_ADMIN, NewOrganisation, NewToken
from registry.identity.caller import Caller
from registry.identity.policy import KIND_OF_ROLE, POLICY, Action, require, table
from registry.settings import Databases
from registry.trust.errors import NotFound, Refused, Unauthenticated
from tests.registry.role import enrol_by_hand

REGISTRY = Path(accounts.__file__).parents[1]
ACTIONS = set(get_args(Action))


def test_the_whole_permission_table_is_the_reviewed_one() -> None:
    """Every role, every action, own and other organisation. A change shows in review: write it
    with `python -c "from registry.identity.policy import table; print(table(), end='')"`."""
    reviewed = Path(__file__).with_name("policy.txt").read_text()
    assert table() == reviewed
    assert len(reviewed.splitlines()) == len(ACTIONS) * len(POLICY)


def test_the_table_is_what_require_does() -> None:
    lines = iter(table().splitlines())
    for action in sorted(ACTIONS):
        for role in POLICY:
            caller = Caller("x", KIND_OF_ROLE[role][0], role, "P", "t")
            said = next(lines).split()
            assert said[:2] == [action, role]
            for owner, allowed in (("x", said[3]), ("y", said[5])):
                if allowed == "yes":
                    require(caller, action, owner=owner)
                else:
                    with pytest.raises(Refused):
                        require(caller, action, owner=owner)


def test_every_action_that_a_room_asks_for_is_in_the_table_and_every_one_there_is_asked_for() -> (
    None
):
    asked: set[str] = set()
    for path in REGISTRY.rglob("*.py"):
        if path.name == "policy.py":
            continue
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and _name(call.func) in ("require", "reach"):
                action = call.args[1]
                assert isinstance(action, ast.Constant), f"{path}:{call.lineno} names no action"
                asked.add(str(action.value))
    assert asked - ACTIONS == set()
    assert ACTIONS - asked == set()


def _name(function: ast.expr) -> str:
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")


def test_an_administrator_signs_locks_and_reads_nothing_and_an_auditor_writes_nothing() -> None:
    assert set(POLICY["admin"]) & {
        "cohort.lock", "protocol.lock", "submission.decide", "submission.read", "submission.add",
        "report.read_full", "report.read_released", "certified.pull", "mlflow.use",
    } == set()  # fmt: skip
    writes = {
        action: how for action, how in POLICY["auditor"].items()
        if action.rpartition(".")[2].partition("_")[0] not in ("read", "list", "verify")
    }  # fmt: skip
    assert writes == {"token.revoke": "own"}  # whoever holds a token may end it


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


@pytest.mark.parametrize("role", ["assessor", "steward"])
def test_nobody_gives_out_a_token_of_an_assessor_or_a_steward(
    record: Record, database: Databases, role: str
) -> None:
    """Before the key is enrolled and after it: not the first start either."""
    ask = {"organisation": "tef", "role": role, "person": f"Ada, {role}"}
    with pytest.raises(Refused, match="login --key"):
        accounts.add_token(record, SYSTEM_ADMIN, new(**ask))
    enrol_by_hand(database, f"Ada, {role}", role)
    with pytest.raises(Refused, match="login --key"):
        accounts.add_token(record, SYSTEM_ADMIN, new(**ask))


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
