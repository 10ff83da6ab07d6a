"""Two stewards lock a cohort; it retires or burns; and what each state lets be done."""

import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from registry.pipeline.carry import carry
from registry.settings import Databases
from registry.submissions import places
from registry.submissions.cohort_life import NewCohortAct, SignedLock, act, check_lock, life, sign
from registry.submissions.lock import lock_protocol, propose_cohort
from registry.submissions.near import near_versions
from registry.trust.canonical import sha256_bytes
from registry.trust.cohort_lock import LOCK_TYPE, LockRecord, checked, new_lock, parse_record
from registry.trust.dsse import add_signature, payload_of, unsigned
from registry.trust.errors import Refused, Tampered, TouchstoneError, Unavailable
from registry.trust.keys import issue, key_id, load_identity
from tests.registry.facility_example import Example, facility_example, honest
from tests.registry.locked import lock_cohort, no_restriction, signature
from tests.registry.role import Role, acting
from validators.cohort.key_store import create_keys
from validators.cohort.manifest import manifest_bytes
from validators.cohort.seal import seal

D1 = "sha256:" + "1" * 64


@pytest.fixture(scope="module")
def example(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    with facility_example(database, tmp_path_factory.mktemp("cohorts")) as made:
        yield made


@pytest.fixture
def name(example: Example, request: pytest.FixtureRequest) -> str:
    """A sealed cohort of its own, which nobody has signed."""
    path, cohort = put(example, request.node.name)
    propose_cohort(example.api, example.people["Sam"], path)
    no_restriction(example.api, example.people, cohort)
    return cohort


def put(example: Example, of: str) -> tuple[str, str]:
    """Seal the example's cases under a name of their own; (manifest path, name)."""
    cohort = "c" + sha256_bytes(of.encode())[7:19]
    home = example.api.settings.home
    keys = create_keys(example.api.settings.cohort_keys, cohort, "1")
    manifest = seal(home / "staged", example.api.store, cohort_id=cohort, version="1", keys=keys)
    path = f"cohorts/{cohort}/1/manifest.json"
    example.api.store.put(path, manifest_bytes(manifest))
    return path, cohort


def signed_by(example: Example, person: str, name: str, **changes: Any) -> dict[str, Any]:
    caller = example.people[person]
    signed = signature(example.api, caller, example.keys[person], name, **changes)
    return sign(example.api, caller, name, "1", signed)


def done(example: Example, name: str, kind: Any, person: str = "Sam", **more: Any) -> Any:
    new = NewCohortAct(kind=kind, reason="as agreed", **more)
    return act(example.api, example.people[person], name, "1", new)


def state(example: Example, name: str) -> str:
    return str(life(example.api, example.people["Aud"], name, "1")["state"])


def row_of(example: Example, name: str) -> dict[str, Any]:
    with example.api.record.transaction(example.people["Sam"]) as now:
        row = now.one("cohort_latest", id=name, version="1")
    return row | {"cohort_id": name, "cohort_version": "1", "cohort_root": row["root"]}


def test_one_steward_seals_and_two_lock(example: Example, name: str) -> None:
    assert state(example, name) == "sealed"
    with pytest.raises(Refused, match=f"no version of the cohort {name}"):
        lock_protocol(example.api, example.people["Sam"], on(example, name))
    with pytest.raises(Unavailable, match="waits for the signatures of two stewards"):
        check_lock(example.worker, row_of(example, name))
    assert signed_by(example, "Sam", name)["state"] == "sealed"
    after = signed_by(example, "Uma", name)
    assert (after["state"], after["signed_by"]) == ("locked", ["Sam", "Uma"])
    lock_protocol(example.api, example.people["Sam"], on(example, name))
    check_lock(example.worker, row_of(example, name))
    record = parse_record(example.api.store.get(places.cohort_lock(name, "1")))
    lock, stewards = checked(record, example.api.root)
    assert lock.root == row_of(example, name)["root"]
    assert {person.person for person in stewards} == {"Sam", "Uma"}
    logged = example.sql(
        "SELECT detail FROM touchstone.event WHERE kind = 'cohort-locked' AND subject = %s",
        f"{name}/1",
    )
    assert [json.loads(detail)["lock"] for (detail,) in logged] == [record.envelope]


def on(example: Example, name: str) -> dict[str, Any]:
    return example.body | {"id": f"p-{name}", "cohort": example.body["cohort"] | {"id": name}}


def test_one_steward_twice_is_one_steward(example: Example, name: str) -> None:
    signed_by(example, "Sam", name)
    assert signed_by(example, "Sam", name)["state"] == "sealed"
    second = issue(load_identity(example.api.settings.home / "root.key"), "Sam", organisation="tef")
    forged = SignedLock(envelope=add_signature(
        unsigned(LOCK_TYPE, payload_of(life(example.api, example.people["Sam"], name, "1")[
            "envelope"])), second))  # fmt: skip
    with pytest.raises(Refused, match="not enrolled for you as a steward"):
        sign(example.api, example.people["Sam"], name, "1", forged)
    assert state(example, name) == "sealed"


def test_nobody_signs_with_anothers_key_or_in_another_role(example: Example, name: str) -> None:
    for caller, key in (("Uma", "Sam"), ("Ada", "Sam"), ("Ann", "Sam")):
        signed = signature(example.api, example.people["Sam"], example.keys[key], name)
        with pytest.raises(Refused):
            sign(example.api, example.people[caller], name, "1", signed)
    assert state(example, name) == "sealed"


@pytest.mark.parametrize(
    "change",
    [{"root": D1}, {"manifest": D1}, {"contract": D1}, {"positives": 1}, {"version": "2"},
     {"cohort": "nodules"}, {"until": dt.date(2031, 1, 1)},
     {"date": dt.datetime(2020, 1, 1, tzinfo=dt.UTC)},
     {"date": dt.datetime(2120, 1, 1, tzinfo=dt.UTC)}],
)  # fmt: skip
def test_a_signature_over_anything_else_is_refused_by_server_and_database(
    example: Example, name: str, change: dict[str, Any]
) -> None:
    with pytest.raises(TouchstoneError):
        signed_by(example, "Sam", name, **change)
    assert state(example, name) == "sealed"


def test_two_statements_of_one_signature_each_lock_nothing(example: Example, name: str) -> None:
    now = dt.datetime.now(dt.UTC)
    signed_by(example, "Sam", name, date=now)
    other = now - dt.timedelta(microseconds=1)
    assert signed_by(example, "Uma", name, date=other)["state"] == "sealed"
    assert signed_by(example, "Sam", name)["state"] == "locked"


def test_the_database_takes_no_lock_without_two_stewards(
    example: Example, name: str, database: Databases
) -> None:
    """Straight to the database: with one signature, twice the same, or a forged one."""
    signed_by(example, "Sam", name)
    envelope = life(example.api, example.people["Sam"], name, "1")["envelope"]
    sam = acting(database, "tef", "steward", "Sam")
    twice = envelope | {"signatures": envelope["signatures"] * 2}
    other = envelope | {
        "signatures": [*envelope["signatures"],
                       {"keyid": key_id(example.keys["Uma"].certificate), "sig": "AAAA"}]
    }  # fmt: skip
    for tried in (envelope, twice, other):
        with pytest.raises(psycopg.errors.RestrictViolation, match="two different stewards"):
            sam.execute(
                "INSERT INTO touchstone.cohort_lock (cohort_id, cohort_version, payload, envelope,"
                " record) VALUES (%s, '1', %s, %s, %s)",
                (
                    name,
                    sha256_bytes(payload_of(tried)),
                    json.dumps(tried),
                    json.dumps({"lock": tried}),
                ),
            )
    with pytest.raises(psycopg.errors.RestrictViolation, match="nobody else's name"):
        sam.execute(
            "INSERT INTO touchstone.cohort_signature (cohort_id, cohort_version, payload, key_id,"
            " person, organisation, envelope) VALUES (%s, '1', %s, %s, 'Uma', 'tef', %s)",
            (name, D1, key_id(example.keys["Uma"].certificate), json.dumps(envelope)),
        )
    assert state(example, name) == "sealed"


def test_whoever_signed_the_lock_decides_on_nothing_run_on_it(example: Example) -> None:
    """Both: the one who sealed, and the one who only signed."""
    example.fresh()
    submission = example.submitted()
    for person, locked in (("Sam", True), ("Uma", True), ("uma", True), ("Ada", False)):
        ((found,),) = example.sql("SELECT touchstone.locked_it(%s::uuid, %s)", submission, person)
        assert found is locked


def test_a_retired_cohort_takes_nothing_new_and_lets_what_runs_end(
    example: Example, name: str
) -> None:
    for person in ("Sam", "Uma"):
        signed_by(example, person, name)
    example.fresh()
    lock_protocol(example.api, example.people["Sam"], on(example, name))
    example.protocol = f"p-{name}"
    running = example.queued(honest(), cohort=name)
    with pytest.raises(Refused, match="may not"):
        done(example, name, "retire", "Ada")
    assert done(example, name, "retire")["state"] == "retired"
    with pytest.raises(Refused, match="retired: it takes no submission"):
        example.submitted(cohort=name)
    with pytest.raises(Refused, match="no version of the cohort"):
        lock_protocol(example.api, example.people["Sam"], on(example, name) | {"id": f"q-{name}"})
    with example.turn() as turn:
        assert carry(example.worker, turn) == "in_review"
    assert example.attempt(running) == "spent"


def test_a_burned_cohort_is_not_opened_even_by_a_run_under_way(example: Example, name: str) -> None:
    for person in ("Sam", "Uma"):
        signed_by(example, person, name)
    example.fresh()
    lock_protocol(example.api, example.people["Sam"], on(example, name))
    example.protocol = f"p-{name}"
    running = example.queued(honest(), cohort=name)
    assert done(example, name, "burn", "Ada")["state"] == "burned"
    with example.turn() as turn:
        assert carry(example.worker, turn) == "technical_failure"
    row = example.row(running)
    assert (row["failure_code"], row["fault"]) == ("cohort_closed", "facility")
    assert example.attempt(running) is None
    for kind in ("retire", "burn"):
        before = example.sql("SELECT count(*) FROM touchstone.cohort_act")
        if kind == "retire":
            with pytest.raises(Refused, match="there is nothing to retire"):
                done(example, name, kind)
        else:
            assert done(example, name, kind)["state"] == "burned"  # said again: nothing new
        assert example.sql("SELECT count(*) FROM touchstone.cohort_act") == before


def test_a_cohort_is_kept_longer_and_never_shorter(example: Example) -> None:
    path, name = put(example, "kept")
    until = dt.date.today() + dt.timedelta(days=900)
    lock_cohort(example.api, example.people, example.keys, path, until)
    with pytest.raises(Refused, match="no earlier one"):
        done(example, name, "keep", until=until)
    longer = until + dt.timedelta(days=1)
    assert done(example, name, "keep", until=longer)["until"] == longer
    with pytest.raises(Refused):
        done(example, name, "keep")


@pytest.mark.parametrize("how", ["one signature", "one signature twice", "unenrolled key",
                                 "another cohort's", "not JSON", "another root"])  # fmt: skip
def test_a_run_refuses_a_lock_record_that_does_not_hold_and_names_it(
    example: Example, how: str
) -> None:
    """Whoever owns database and disk writes any record into both: signatures are what they lack."""
    path, name = put(example, how)
    lock_cohort(example.api, example.people, example.keys, path)
    record = parse_record(example.api.store.get(places.cohort_lock(name, "1")))
    first = record.envelope["signatures"][:1]
    bare = unsigned(LOCK_TYPE, payload_of(record.envelope))
    lock, _ = checked(record, example.api.root)
    root = load_identity(example.api.settings.home / "root.key")
    stranger = issue(root, "Zoe", organisation="tef")
    envelope = {
        "one signature": bare | {"signatures": first},
        "one signature twice": bare | {"signatures": first * 2},
        "unenrolled key": add_signature(bare | {"signatures": first}, stranger),
        "another cohort's": add_signature(add_signature(unsigned(LOCK_TYPE, new_lock(
            lock.model_copy(update={"root": D1}))), example.keys["Sam"]), example.keys["Uma"]),
        "not JSON": record.envelope,
        "another root": record.envelope,
    }[how]  # fmt: skip
    forged = LockRecord(envelope, record.register).as_bytes()
    if how == "unenrolled key":
        register = type(record.register)(
            record.register.founding, record.register.enrolments,
            (*record.register.certificates, stranger.certificate),
        )  # fmt: skip
        forged = LockRecord(envelope, register).as_bytes()
    if how == "not JSON":
        forged = b"{"
    forge(example, name, forged)
    worker = example.worker
    if how == "another root":
        import dataclasses

        from registry.trust.keys import new_root

        worker = dataclasses.replace(worker, root=new_root("tef", demo=True).certificate)
    with pytest.raises(Tampered, match=places.cohort_lock(name, "1")):
        check_lock(worker, row_of(example, name))


def forge(example: Example, name: str, record: bytes) -> None:
    """Put `record` into the database and the store, past every trigger and permission."""
    with psycopg.connect(example.owner) as connection:
        connection.execute("ALTER TABLE touchstone.cohort_lock DISABLE TRIGGER append_only")
        connection.execute(
            "UPDATE touchstone.cohort_lock SET record = %s WHERE cohort_id = %s",
            (record.decode(), name),
        )
        connection.execute("ALTER TABLE touchstone.cohort_lock ENABLE TRIGGER append_only")
    place = example.api.settings.home / "objects" / places.cohort_lock(name, "1")
    place.unlink()
    place.write_bytes(record)


def test_a_record_exchanged_in_the_store_alone_is_named(example: Example) -> None:
    path, name = put(example, "exchanged")
    lock_cohort(example.api, example.people, example.keys, path)
    place = example.api.settings.home / "objects" / places.cohort_lock(name, "1")
    place.chmod(0o600)
    place.write_bytes(place.read_bytes() + b" ")
    with pytest.raises(Tampered, match=r"lock\.json is not the lock"):
        check_lock(example.worker, row_of(example, name))


def test_a_record_that_got_lost_before_it_was_written_is_written_again(example: Example) -> None:
    path, name = put(example, "lost")
    lock_cohort(example.api, example.people, example.keys, path)
    place = example.api.settings.home / "objects" / places.cohort_lock(name, "1")
    whole = place.read_bytes()
    place.unlink()
    check_lock(example.worker, row_of(example, name))
    assert place.read_bytes() == whole


def test_who_seals_and_who_signs_is_told_of_a_version_that_is_near(
    example: Example, name: str
) -> None:
    assert life(example.api, example.people["Sam"], name, "1")["warnings"] == []
    row = row_of(example, name)
    second = row | {"version": "2", "positives": row["positives"] - 3,
                    "negatives": row["negatives"] + 12}  # fmt: skip
    with example.api.record.transaction(example.people["Sam"]) as now:
        (warning,) = near_versions(now, second)
        assert "version 2 has 3 positives fewer than version 1" in warning
        assert near_versions(now, row | {"version": "2"}) == []
        assert near_versions(now, second | {"positives": row["positives"] + 10}) == []
    signed_by(example, "Sam", name)
    signed_by(example, "Uma", name)
    body = on(example, name) | {"disclosure": {"minimum_group": 13}}
    lock_protocol(example.api, example.people["Sam"], body)
    with example.api.record.transaction(example.people["Sam"]) as now:
        assert len(near_versions(now, second)) == 2, "a protocol asks for 13"


def test_a_cohort_locked_by_one_before_stays_locked_and_waits_for_two(
    example: Example, database: Databases
) -> None:
    """A row from before the migration, as it stands in a database that was migrated."""
    path, name = put(example, "of old")
    propose_cohort(example.api, example.people["Sam"], path)
    no_restriction(example.api, example.people, name)
    with psycopg.connect(example.owner) as connection:
        connection.execute("ALTER TABLE touchstone.cohort DISABLE TRIGGER append_only")
        connection.execute(
            "UPDATE touchstone.cohort SET locked_alone = true WHERE id = %s", (name,)
        )
        connection.execute("ALTER TABLE touchstone.cohort ENABLE TRIGGER append_only")
    shown = life(example.api, example.people["Aud"], name, "1")
    assert (shown["state"], shown["locked_alone"]) == ("locked", True)
    example.fresh()
    lock_protocol(example.api, example.people["Sam"], on(example, name))
    example.protocol = f"p-{name}"
    waiting = example.queued(honest(), cohort=name)
    with pytest.raises(Unavailable, match="two stewards"), example.turn() as turn:
        carry(example.worker, turn)
    assert example.state(waiting) == "queued"
    for person in ("Sam", "Uma"):
        shown = signed_by(example, person, name)
    assert not shown["locked_alone"]
    with example.turn() as turn:
        assert carry(example.worker, turn) == "in_review"


def test_the_application_can_not_say_that_a_cohort_was_locked_before(
    example: Example, database: Databases
) -> None:
    sam = acting(database, "tef", "steward", "Sam")
    sam.execute(
        "INSERT INTO touchstone.cohort (id, version, root, manifest_digest, manifest_path, title,"
        " positives, negatives, patients, contract_digest, locked_by, locked_alone)"
        f" VALUES ('sly','1','{D1}','{D1}','x','t',1,1,1,'{D1}','Sam', true)"
    )
    assert state(example, "sly") == "sealed"


def test_acts_and_signatures_are_never_changed(example: Example, database: Databases) -> None:
    for table in ("cohort_signature", "cohort_lock", "cohort_act", "key_release"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            acting(database, "tef", "steward", "Sam").execute(f"DELETE FROM touchstone.{table}")
        with pytest.raises(psycopg.errors.RestrictViolation):
            Role(database.owner).execute(f"TRUNCATE touchstone.{table} CASCADE")
