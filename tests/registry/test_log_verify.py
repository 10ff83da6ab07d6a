"""A log that somebody changed behind the database's own rules is found out, and the row named."""

import datetime as dt
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from registry.audit.checkpoints import (
    EVERY,
    checkpoint_now,
    is_due,
    keep_up,
    make_checkpoint,
    path_of,
    stored_sizes,
)
from registry.audit.log_key import log_key, make_log_key
from registry.audit.recompute import Outcome
from registry.audit.tree import KnownTree, grow
from registry.database.embedded import EmbeddedPostgres
from registry.database.record import Record
from registry.facility import Facility
from registry.pipeline import steps
from registry.pipeline.watch import Watch
from registry.pipeline.work import Work
from registry.settings import Databases
from registry.trust.checkpoint import Checkpoint, parse, sign
from registry.trust.errors import Refused, Tampered, Unavailable
from registry.trust.keys import parse_certificate
from registry.trust.log_key import verified_checkpoint
from registry.trust.merkle import Tree
from tests.registry.logged import (
    REHASH,
    behind_the_triggers,
    facility_over,
    log_some,
    rows_of,
    verified,
)
from tests.registry.role import Role

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def superuser(cluster: EmbeddedPostgres, database: Databases) -> str:
    name = database.app.partition("@/")[2].partition("?")[0]
    return cluster.superuser_dsn.replace("@/touchstone?", f"@/{name}?")


@pytest.fixture
def facility(database: Databases, superuser: str, tmp_path: Path) -> Iterator[Facility]:
    """Twelve events; checkpoints were signed at five and at ten."""
    behind_the_triggers(
        superuser, "TRUNCATE touchstone.event", "TRUNCATE touchstone.checkpoint"
    )  # fmt: skip
    made = facility_over(database, tmp_path)
    for count in (5, 5):
        log_some(database, count)
        make_checkpoint(made)
    log_some(database, 2)
    yield made
    made.close()


def first(outcome: Outcome) -> tuple[int, int, str]:
    assert outcome.findings, "nothing was found"
    found = outcome.findings[0]
    return found.first, found.last, found.what


def test_an_untouched_log_holds(facility: Facility, database: Databases) -> None:
    outcome = verified(facility, database)
    assert outcome.findings == ()
    assert (outcome.events, outcome.checkpoints) == (12, 2)
    assert outcome.root == grow(Tree(), facility.gate).root()


@pytest.mark.parametrize("column", ["actor", "organisation", "subject", "detail"])
def test_an_altered_row_is_named(
    facility: Facility, database: Databases, superuser: str, column: str
) -> None:
    behind_the_triggers(superuser, f"UPDATE touchstone.event SET {column} = 'x' WHERE seq = 7")
    assert first(verified(facility, database))[:2] == (7, 7)


def test_an_altered_time_hash_or_link_is_named(
    facility: Facility, database: Databases, superuser: str
) -> None:
    behind_the_triggers(
        superuser, "UPDATE touchstone.event SET at = at + interval '1 microsecond' WHERE seq = 12"
    )
    assert first(verified(facility, database))[:2] == (12, 12)
    behind_the_triggers(superuser, "UPDATE touchstone.event SET hash = sha256('x') WHERE seq = 9")
    assert first(verified(facility, database))[:2] == (9, 9)
    behind_the_triggers(
        superuser, "UPDATE touchstone.event SET previous = sha256('x') WHERE seq = 3"
    )
    assert first(verified(facility, database))[:2] == (3, 3)


def test_a_removed_row_is_named(facility: Facility, database: Databases, superuser: str) -> None:
    behind_the_triggers(superuser, "DELETE FROM touchstone.event WHERE seq IN (4, 5)")
    assert first(verified(facility, database)) == (4, 5, "missing: after it comes event 6")


def test_a_removed_first_row_is_named(
    facility: Facility, database: Databases, superuser: str
) -> None:
    behind_the_triggers(superuser, "DELETE FROM touchstone.event WHERE seq = 1")
    assert first(verified(facility, database))[:2] == (1, 1)


def test_a_removed_row_whose_gap_was_closed_is_named(
    facility: Facility, database: Databases, superuser: str
) -> None:
    behind_the_triggers(
        superuser,
        "DELETE FROM touchstone.event WHERE seq = 4",
        "UPDATE touchstone.event SET seq = -seq WHERE seq > 4",
        "UPDATE touchstone.event SET seq = -seq - 1 WHERE seq < 0",
    )
    assert first(verified(facility, database))[:2] == (4, 4)


INSERTED = (
    "UPDATE touchstone.event SET seq = -seq WHERE seq > 6",
    "UPDATE touchstone.event SET seq = -seq + 1 WHERE seq < 0",
    "INSERT INTO touchstone.event SELECT 7, at, 'Eve', organisation, kind, subject, detail, hash,"
    " sha256('inserted') FROM touchstone.event WHERE seq = 6",
)


def test_an_inserted_row_is_named(facility: Facility, database: Databases, superuser: str) -> None:
    behind_the_triggers(superuser, *INSERTED)
    assert first(verified(facility, database))[:2] == (7, 7)


def test_swapped_rows_are_named(facility: Facility, database: Databases, superuser: str) -> None:
    behind_the_triggers(
        superuser,
        "UPDATE touchstone.event SET seq = -8 WHERE seq = 7",
        "UPDATE touchstone.event SET seq = 7 WHERE seq = 8",
        "UPDATE touchstone.event SET seq = 8 WHERE seq = -8",
    )
    assert first(verified(facility, database))[:2] == (7, 7)


def test_one_row_written_anew_with_its_hash_breaks_the_link_to_the_next(
    facility: Facility, database: Databases, superuser: str
) -> None:
    behind_the_triggers(
        superuser,
        "UPDATE touchstone.event SET detail = 'x' WHERE seq = 8",
        "UPDATE touchstone.event SET hash = touchstone.event_hash(previous, seq, at, actor,"
        " organisation, kind, subject, detail) WHERE seq = 8",
    )
    begin, end, what = first(verified(facility, database))
    assert (begin, end) == (8, 9)
    assert "does not follow" in what


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("UPDATE touchstone.event SET detail = 'x' WHERE seq = 3",), (1, 5)),
        (("UPDATE touchstone.event SET detail = 'x' WHERE seq = 7",), (6, 10)),
        (INSERTED, (6, 10)),
    ],
)
def test_a_chain_that_was_computed_anew_is_betrayed_by_the_checkpoints(
    facility: Facility, database: Databases, superuser: str,
    change: tuple[str, ...], expected: tuple[int, int],
) -> None:  # fmt: skip
    behind_the_triggers(superuser, *change, REHASH)
    begin, end, what = first(verified(facility, database))
    assert (begin, end) == expected
    assert "rewritten: the chain holds" in what


def test_what_was_kept_elsewhere_betrays_a_database_and_a_store_that_were_both_rewritten(
    facility: Facility, database: Databases, superuser: str
) -> None:
    kept = facility.store.get(path_of(5))
    behind_the_triggers(superuser, "UPDATE touchstone.event SET detail = 'x' WHERE seq = 3", REHASH)
    key, tree = log_key(facility), grow(Tree(), facility.gate)
    folder = facility.settings.objects / "log/checkpoints"
    for size in (5, 10):  # whoever owns the server has the log's key too
        path = folder / f"{size:020d}.txt"
        path.chmod(0o600)
        path.write_bytes(sign(Checkpoint(key.origin, size, tree.root(size)), key.key))
    assert verified(facility, database).findings == ()
    begin, end, what = first(verified(facility, database, kept))
    assert (begin, end) == (1, 5)
    assert "that you kept" in what


def test_a_truncated_tail_is_named(facility: Facility, database: Databases, superuser: str) -> None:
    behind_the_triggers(superuser, "DELETE FROM touchstone.event WHERE seq > 8")
    begin, end, what = first(verified(facility, database))
    assert (begin, end) == (9, 10)
    assert "missing at the end" in what


def test_a_log_that_was_emptied_is_named(
    facility: Facility, database: Databases, superuser: str
) -> None:
    behind_the_triggers(superuser, "TRUNCATE touchstone.event", "TRUNCATE touchstone.checkpoint")
    assert first(verified(facility, database))[:2] == (1, 5)


@pytest.mark.parametrize(
    ("size", "damage", "what"),
    [
        (5, lambda n: n.replace(b"\n5\n", b"\n6\n"), "does not fit"),
        (5, lambda n: n.partition(b"\xe2\x80\x94")[0], "nobody signed it"),
        (10, lambda n: b"rubbish", "not a checkpoint"),
        (10, lambda n: n.replace(b"touchstone/tef", b"touchstone/tee"), "of the log"),
    ],
)
def test_a_stored_checkpoint_that_was_touched_is_named(
    facility: Facility,
    database: Databases,
    size: int,
    damage,
    what: str,  # type: ignore[no-untyped-def]
) -> None:
    path = facility.settings.objects / path_of(size)
    path.chmod(0o600)
    path.write_bytes(damage(path.read_bytes()))
    begin, _, said = first(verified(facility, database))
    assert begin == size
    assert what in said


def test_a_stored_checkpoint_under_another_size_is_named(
    facility: Facility, database: Databases
) -> None:
    facility.store.put(path_of(7), facility.store.get(path_of(5)))
    assert "is one of 5" in first(verified(facility, database))[2]


# -- nothing is signed that is not consistent ------------------------------------------------------


def test_a_database_that_was_rolled_back_is_not_signed(
    facility: Facility, database: Databases, superuser: str
) -> None:
    behind_the_triggers(
        superuser,
        "DELETE FROM touchstone.event WHERE seq > 7",
        "DELETE FROM touchstone.checkpoint WHERE size > 7",
    )
    for more in (0, 1):
        log_some(database, more)
        with pytest.raises(Tampered, match="rolled back"):
            make_checkpoint(facility)
    log_some(database, 20)  # it has grown past what was signed: a fork now
    with pytest.raises(Tampered, match="not the ones that were signed"):
        make_checkpoint(facility)
    assert stored_sizes(facility) == [5, 10]
    assert not checkpoint_now(facility)
    begin, end, _ = first(verified(facility, database))
    assert (begin, end) == (6, 10)


def test_a_rewritten_row_is_not_signed(facility: Facility, superuser: str) -> None:
    behind_the_triggers(superuser, "UPDATE touchstone.event SET detail = 'x' WHERE seq = 2")
    with pytest.raises(Tampered, match="not the ones that were signed"):
        make_checkpoint(facility)


def test_a_gap_is_not_signed(facility: Facility, superuser: str) -> None:
    behind_the_triggers(superuser, "DELETE FROM touchstone.event WHERE seq = 11")
    with pytest.raises(Tampered, match="gap"):
        make_checkpoint(facility)


def test_a_log_whose_key_was_replaced_is_not_signed(facility: Facility) -> None:
    facility.settings.log_key.unlink()
    assert make_log_key(facility.settings)
    with pytest.raises(Refused, match="of the log"):
        make_checkpoint(facility)


def test_a_log_without_a_key_or_a_certificate_says_what_to_do(facility: Facility) -> None:
    facility.settings.log_key.with_suffix(".pem").unlink()
    with pytest.raises(Unavailable, match="audit certify"):
        make_checkpoint(facility)
    facility.settings.log_key.unlink()
    with pytest.raises(Unavailable, match="touchstone init"):
        make_checkpoint(facility)


def test_the_key_is_private_and_stays_when_set_up_is_repeated(facility: Facility) -> None:
    path = facility.settings.log_key
    before = path.read_bytes(), path.with_suffix(".pem").read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    make_log_key(facility.settings)
    assert before == (path.read_bytes(), path.with_suffix(".pem").read_bytes())


def test_an_offline_root_certifies_the_key_by_a_request(facility: Facility, tmp_path: Path) -> None:
    """The root's key never comes to the server, the log's key never leaves it."""
    from registry.cli.audit import certify

    keys = facility.settings.keys
    (keys / "root.key").rename(tmp_path / "root.key")
    (tmp_path / "root.pem").write_bytes((keys / "root.pem").read_bytes())
    for path in facility.settings.home.glob("log.*"):
        path.unlink()
    assert not make_log_key(facility.settings)
    request = facility.settings.log_key.with_suffix(".csr")
    certify(request, tmp_path / "root.key", facility.settings.log_key.with_suffix(".pem"), True)
    assert log_key(facility).origin.startswith("touchstone/tef/")


def test_the_same_log_is_signed_once(facility: Facility) -> None:
    note = make_checkpoint(facility)
    assert make_checkpoint(facility) == note == facility.store.get(path_of(12))
    assert parse(note)[0].root == grow(Tree(), facility.gate).root()


# -- the schedule ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "signed", "ago", "due"),
    [
        (0, None, None, False), (5, None, None, True), (5, 5, EVERY * 9, False),
        (6, 5, EVERY - dt.timedelta(seconds=1), False), (6, 5, EVERY, True),
    ],
)  # fmt: skip
def test_a_checkpoint_is_due_when_the_log_grew_and_the_time_has_come(
    size: int, signed: int | None, ago: dt.timedelta | None, due: bool
) -> None:
    assert is_due(size, signed, ago and NOW - ago, NOW) == due


def test_the_worker_keeps_up_with_the_log(facility: Facility) -> None:
    assert not keep_up(facility)
    later = dt.datetime.now(dt.UTC) + EVERY
    assert keep_up(facility, later)
    assert stored_sizes(facility) == [5, 10, 12]
    assert not keep_up(facility, later)


# -- the tree that is kept for proofs --------------------------------------------------------------


def test_a_kept_tree_follows_the_log_and_is_not_believed_against_a_checkpoint(
    facility: Facility, database: Databases, superuser: str
) -> None:
    trees = KnownTree(facility.gate)
    roots = {size: parse(facility.store.get(path_of(size)))[0].root for size in (5, 10)}
    assert trees.at(5, roots[5]).size >= 5
    assert trees.at(10, roots[10]).root(5) == roots[5]
    log_some(database, 3)
    latest = parse(make_checkpoint(facility))[0]
    assert trees.at(latest.size, latest.root).size == latest.size == len(rows_of(database))
    behind_the_triggers(superuser, "UPDATE touchstone.event SET detail = 'x' WHERE seq = 2")
    with pytest.raises(Tampered):
        KnownTree(facility.gate).at(10, roots[10])


# -- what a certificate carries --------------------------------------------------------------------


@pytest.fixture
def work(facility: Facility, database: Databases) -> Iterator[Work]:
    """A submission in the worker's hands."""
    owner, digest, name = Role(database.owner), "sha256:" + "1" * 64, str(uuid.uuid4())
    owner.execute(
        "INSERT INTO touchstone.cohort (id, version, root, manifest_digest, manifest_path, title,"
        " positives, negatives, patients, contract_digest, locked_by) VALUES ('c','1',%s,%s,'x',"
        "'t',10,10,10,%s,'Sam') ON CONFLICT DO NOTHING", (digest,) * 3,
    )  # fmt: skip
    owner.execute(
        "INSERT INTO touchstone.protocol (digest, id, version, body, attempts, locked_by)"
        " VALUES (%s,'p','1','{}',2,'Sam') ON CONFLICT DO NOTHING", (digest,),
    )  # fmt: skip
    owner.execute(
        "INSERT INTO touchstone.submission (id, organisation, model_name, model_version,"
        " protocol_digest, cohort_id, cohort_version, submitted_by)"
        " VALUES (%s,'sme-a',%s,1,%s,'c','1','Eva')", (name, f"m-{name[:8]}", digest),
    )  # fmt: skip
    worker = replace(facility, record=Record(str(database.worker), size=1))
    with worker.record.transaction() as now:
        row = now.one("submission_by_id", id=name)
    yield Work(worker, row, Watch(worker.record, str(row["id"])))
    worker.record.close()


def test_a_statement_prepared_again_carries_the_same_checkpoint_over_its_own_events(
    work: Work, database: Databases
) -> None:
    log = steps.log_of(work)
    log_some(database, 3)
    make_checkpoint(work.facility)
    assert steps.log_of(work) == log
    checkpoint = verified_checkpoint(
        log.checkpoint.encode(), parse_certificate(log.certificate.encode()), work.facility.root,
        dt.datetime.now(dt.UTC),
    )  # fmt: skip
    own = [row["seq"] for row in rows_of(database) if row["subject"] == work.id]
    assert own
    assert max(own) <= checkpoint.size


def test_nothing_is_prepared_for_signing_over_a_log_that_was_rewritten(
    work: Work, superuser: str
) -> None:
    """The submission waits; its model is not to blame."""
    behind_the_triggers(superuser, "UPDATE touchstone.event SET detail = 'x' WHERE seq = 2")
    with pytest.raises(Unavailable, match="not signed any further"):
        steps.log_of(work)
    assert work.output_of("log") is None
