"""The log in the database: nobody changes it, and everybody computes it alike."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from registry.audit.checkpoints import make_checkpoint
from registry.audit.tree import grow
from registry.database.record import Record
from registry.facility import Facility
from registry.settings import Databases
from registry.trust.canonical import canonical
from registry.trust.event import parse_event
from registry.trust.merkle import Tree, leaf_hash
from tests.registry.logged import facility_over, log_some, person, rows_of
from tests.registry.role import Role


@pytest.fixture(scope="module")
def facility(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Facility]:
    made = facility_over(database, tmp_path_factory.mktemp("facility"))
    log_some(database, 5)
    make_checkpoint(made)
    yield made
    made.close()


def roles(database: Databases) -> dict[str, Role]:
    return {
        "app": Role(database.app),
        "assessor": Role(database.app, person(database, "Ada")[1]),
        "auditor": Role(database.app, person(database, "Ann")[1]),
        "worker": Role(database.worker),
        "gate": Role(database.gate),
        "owner": Role(database.owner),
    }


CHANGES = [
    "UPDATE touchstone.{} SET {} = NULL",
    "UPDATE touchstone.{} SET {} = {}",
    "DELETE FROM touchstone.{}",
    "TRUNCATE touchstone.{}",
    "TRUNCATE touchstone.{} CASCADE",
]


@pytest.mark.parametrize("role", ["app", "assessor", "auditor", "worker", "gate", "owner"])
@pytest.mark.parametrize(("table", "column"), [("event", "detail"), ("checkpoint", "path")])
def test_nobody_changes_or_removes_a_row_of_the_log(
    facility: Facility, database: Databases, role: str, table: str, column: str
) -> None:
    refused = (psycopg.errors.InsufficientPrivilege, psycopg.errors.RestrictViolation)
    for change in CHANGES:
        with pytest.raises(refused):
            roles(database)[role].execute(change.format(table, column, column))


def test_the_owners_refusal_is_the_triggers(facility: Facility, database: Databases) -> None:
    for table in ("event", "checkpoint"):
        for change in (f"DELETE FROM touchstone.{table}", f"TRUNCATE touchstone.{table}"):
            with pytest.raises(psycopg.errors.RestrictViolation, match="never changed"):
                Role(database.owner).execute(change)


def test_nobody_but_the_pen_writes_an_event(facility: Facility, database: Databases) -> None:
    row = "SELECT seq + 1, at, actor, organisation, kind, subject, detail, hash, sha256(hash)"
    for name, role in roles(database).items():
        if name != "owner":  # who migrates; what it writes past the pen, the checkpoints betray
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                role.execute(
                    f"INSERT INTO touchstone.event {row} FROM touchstone.event"
                    " ORDER BY seq DESC LIMIT 1"
                )


@pytest.mark.parametrize("role", ["app", "assessor", "auditor", "worker"])
def test_only_the_gate_writes_checkpoints_and_reads_leaves(
    facility: Facility, database: Databases, role: str
) -> None:
    for statement in (
        "INSERT INTO touchstone.checkpoint (size, root, path) VALUES (1, sha256('x'), 'x')",
        "SELECT * FROM touchstone.leaf_hashes(0, 10)",
        "SELECT touchstone.log_size()",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            roles(database)[role].execute(statement)


def test_a_checkpoint_beyond_the_log_is_refused(facility: Facility, database: Databases) -> None:
    with pytest.raises(psycopg.errors.RestrictViolation, match="has fewer"):
        Role(database.gate).execute(
            "INSERT INTO touchstone.checkpoint (size, root, path)"
            " VALUES (1000000, sha256('x'), 'x')"
        )


def test_an_sme_sees_the_events_of_its_own_organisation_and_nothing_without_a_token(
    facility: Facility, database: Databases
) -> None:
    log_some(database, 1, organisation="sme-b")
    count = "SELECT organisation, count(*) FROM touchstone.event GROUP BY 1 ORDER BY 1"
    seen = {
        name: [row[0] for row in Role(database.app, person(database, name)[1])
               .execute(count).fetchall()]
        for name in ("Ann", "Ada", "Eva", "Bob")
    }  # fmt: skip
    assert seen["Eva"] == ["sme-a"]
    assert seen["Bob"] == ["sme-b"]
    assert seen["Ann"] == seen["Ada"] == ["sme-a", "sme-b", "tef"]
    assert Role(database.app).execute(count).fetchall() == []
    assert Role(database.app).execute("SELECT * FROM touchstone.checkpoint").fetchall() == []


def test_no_field_can_run_into_the_next(facility: Facility, database: Databases) -> None:
    for values in (
        ("w", "sme-a\x1fx", "k", "s", "{}"), ("w", "sme-a", "k", "s\x1f", "{}"),
        ("w", "sme-a", "k", "s", "\n"), ("w", "o" * 300, "k", "s", "{}"),
    ):  # fmt: skip
        with pytest.raises(psycopg.errors.CheckViolation):
            Role(database.worker).execute(
                "SELECT touchstone.append_event(%s, %s, %s, %s, %s)", values
            )


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        'quo"te',
        "back\\slash",
        "größe",
        "日本",
        "😀 \u2028 \ufeff",
        "/<>&'",
        "\u0085 \u200e",
    ],
)
def test_database_and_python_compute_the_same_leaf_and_hash(
    facility: Facility, database: Databases, text: str
) -> None:
    detail = canonical({"text": text}).decode()
    Role(database.worker).execute(
        "SELECT touchstone.append_event('w', %s, 'test-event', %s, %s)", (text, text, detail)
    )
    row = rows_of(database)[-1]
    event = parse_event({key: value for key, value in row.items() if key != "hash"})
    leaf = Role(database.owner).execute(
        "SELECT touchstone.event_leaf(e) FROM touchstone.event e ORDER BY seq DESC LIMIT 1"
    )
    assert leaf.fetchone()[0] == leaf_hash(event.leaf()) == leaf_hash(canonical(event.as_json()))
    assert event.hash() == row["hash"]
    assert json.loads(event.detail) == {"text": text}


def test_two_writers_at_once_keep_the_chain_whole(facility: Facility, database: Databases) -> None:
    before = len(rows_of(database))
    failed: list[Any] = []

    def write(who: str) -> None:
        record = Record(str(database.worker), size=1)
        try:
            for number in range(50):
                with record.transaction() as now:
                    now.one("event_add", actor=who, organisation="tef", kind="test-event",
                            subject=f"{who} {number}", detail="{}")  # fmt: skip
                    if number % 10 == 9:
                        break_it = psycopg.errors.RaiseException()
                        raise break_it
        except psycopg.errors.RaiseException:
            pass
        except Exception as error:
            failed.append(error)
        finally:
            record.close()

    def write_with_rollbacks(who: str) -> None:
        for _ in range(5):
            write(who)

    writers = [
        threading.Thread(target=write_with_rollbacks, args=(f"writer {n}",)) for n in range(4)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failed == []
    rows = rows_of(database)
    assert len(rows) == before + 4 * 5 * 9
    previous = "00" * 32
    for seq, row in enumerate(rows, start=1):
        event = parse_event({key: value for key, value in row.items() if key != "hash"})
        assert (event.seq, event.previous) == (seq, previous)
        previous = event.hash()
        assert previous == row["hash"]
    assert grow(Tree(), facility.gate).size == len(rows)
