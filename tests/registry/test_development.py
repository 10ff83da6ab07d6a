"""The development cohort: numbers to iterate with, and no way from there to a certificate."""

import contextlib
import itertools
import json
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from registry.pipeline.carry import carry
from registry.settings import Databases
from registry.submissions.lock import lock_protocol
from registry.submissions.review import SignedDecision, decide, documents, report_for
from registry.submissions.submit import view
from registry.submissions.withdraw import withdraw
from registry.trust.canonical import canonical
from registry.trust.errors import Conflict, Invalid, NotFound, Refused, TouchstoneError
from tests.registry.development_example import OPEN, development_example, sealed, tried
from tests.registry.facility_example import Example, honest
from tests.registry.role import Role, acting
from validators.evidence import Report
from validators.report.disclosure import release
from validators.report.ladder import NOTICE, Ladder, told


@pytest.fixture(scope="module")
def life(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    with development_example(database, tmp_path_factory.mktemp("development")) as made:
        yield made


@pytest.fixture(autouse=True)
def fresh(life: Example) -> None:
    life.fresh()


def read(life: Example, submission: str, who: str = "Eva") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(report_for(life.api, life.people[who], submission))
    return found


def whole(life: Example, submission: str) -> Report:
    """The complete report, as the facility's people read it."""
    return Report.model_validate_json(report_for(life.api, life.people["Ada"], submission))


def locked(life: Example, **changes: Any) -> None:
    """Another protocol than the example's."""
    life.protocol = f"p-{uuid.uuid4().hex[:8]}"
    body = life.body | {"id": life.protocol} | changes
    lock_protocol(life.api, life.people["Sam"], {k: v for k, v in body.items() if v is not None})


def test_a_run_ends_as_tried_with_numbers_and_without_an_attempt(life: Example) -> None:
    submission = tried(life, honest())
    shown = view(life.api, life.people["Eva"], submission)
    assert (shown["state"], shown["development"], shown["outcome"]) == ("tried", True, None)
    assert shown["meaning"] == "run on the development cohort; it decides nothing"
    assert shown["trials"] == {"allowed": 20, "spent": 1}
    assert shown["attempts"] == {"allowed": 0, "spent": 0}
    assert shown["deadline"] is None
    assert life.attempt(submission) is None
    told_to_eva = read(life, submission)
    assert told_to_eva["notice"] == NOTICE
    rows = {row["metric"]: row for row in told_to_eva["endpoints"]}
    assert set(rows) == {"sensitivity", "specificity", "auc"}
    assert all(0 <= row["value"] <= 1 and row["step"] > 0 for row in rows.values())
    assert {row["group"] for row in told_to_eva["subgroups"]} == {"thick", "thin"}
    log = "SELECT kind FROM touchstone.event WHERE subject = %s ORDER BY seq"
    kinds = [kind for (kind,) in life.sql(log, submission)]
    assert kinds.count("trial-spent") == 1
    assert kinds[-1] == "submission-tried"
    assert kinds.index("trial-spent") > kinds.index("cohort-read")


def test_the_facility_reads_all_and_the_submitter_no_exact_number(life: Example) -> None:
    submission = tried(life, honest())
    assert whole(life, submission).verdict.overall
    text = json.dumps(read(life, submission))
    for word in ("interval", "outcome", "verdict", "reason", "predictions"):
        assert word not in text
    assert life.row(submission)["certifiable"] is False


def test_a_later_model_is_told_by_the_ladder_and_the_same_again(life: Example) -> None:
    submissions = [tried(life, honest(weight)) for weight in (0.02, 0.1, 0.1, 0.3, 0.001)]
    found = [read(life, submission) for submission in submissions]
    states = [told(document) for document in found]
    for earlier, later in itertools.pairwise(states):
        for key, value in earlier.items():  # each of these is better where it is higher
            assert later[key] >= value
    assert states[1] == states[2], "the same model again tells nothing"
    assert not any(row["improved"] for row in found[2]["endpoints"])
    assert states[-1] != states[0]
    rules = lock_protocol(life.api, life.people["Sam"], life.body | {"id": life.protocol})
    for number, submission in enumerate(submissions):
        (output,) = life.sql("SELECT output FROM touchstone.step WHERE submission = %s"
                             " AND name = 'ladder'", submission)[0]  # fmt: skip
        assert output["turn"] == number + 1
        before = {(a, g, m): value for a, g, m, value in output["before"]}
        assert before == (states[number - 1] if number else {})
        again = release(
            whole(life, submission), "development", rules.disclosure, Ladder(rules.measures, before)
        )
        assert canonical(again) == report_for(life.api, life.people["Eva"], submission)


def test_another_family_begins_at_none(life: Example) -> None:
    tried(life, honest(0.1))
    theirs = read(life, tried(life, honest(0.001), "Finn"), "Finn")
    assert all(row["improved"] for row in theirs["endpoints"])


def test_two_that_end_at_once_are_told_one_after_the_other(life: Example) -> None:
    submissions = [life.queued(honest(weight), **OPEN) for weight in (0.05, 0.1, 0.2)]
    errors: list[BaseException] = []

    def carried() -> None:
        try:
            with life.turn() as turn:
                assert carry(life.worker, turn) == "tried"
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=carried) for _ in submissions]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert not errors
    outputs = sorted(
        (
            life.sql("SELECT output FROM touchstone.step WHERE submission = %s"
                     " AND name = 'ladder'", one)[0][0]
            for one in submissions
        ),
        key=lambda output: output["turn"],
    )  # fmt: skip
    assert [output["turn"] for output in outputs] == [1, 2, 3]
    for earlier, later in itertools.pairwise(outputs):
        before = {(a, g, m): value for a, g, m, value in later["before"]}
        assert before == told(earlier["released"])


def test_a_protocol_without_one_refuses_in_one_line(life: Example) -> None:
    locked(life, development_cohort=None)
    with pytest.raises(Refused, match="has no development cohort") as refused:
        life.submitted(**OPEN)
    assert "\n" not in refused.value.message


def test_neither_cohort_is_passed_off_as_the_other(life: Example) -> None:
    with pytest.raises(Refused, match="not for open; that is its development cohort"):
        life.submitted(cohort="open")
    with pytest.raises(Refused, match=r"the development cohort of the protocol .* is open"):
        life.submitted(cohort="nodules", development=True)
    with pytest.raises(NotFound):
        life.submitted(cohort="elsewhere", development=True)
    eva = acting(life.api.databases, "sme-a", "innovator", "Eva")
    add = (
        "INSERT INTO touchstone.submission (id, organisation, model_name, model_version,"
        " protocol_digest, cohort_id, cohort_version, submitted_by, development, certifiable)"
        " SELECT %s, 'sme-a', 'net', 1, digest, %s, '1', 'Eva', %s, true FROM touchstone.protocol"
        " WHERE id = %s"
    )
    for cohort, development, words in (
        ("open", False, "is for development: nothing is decided on it"),
        ("nodules", True, "is not the development cohort of this protocol"),
    ):
        with pytest.raises(psycopg.errors.RestrictViolation, match=words):
            eva.execute(add, (uuid.uuid4(), cohort, development, life.protocol))
    sneaky = uuid.uuid4()
    eva.execute(add, (sneaky, "open", True, life.protocol))
    assert life.row(str(sneaky))["certifiable"] is False, "whatever was asked for"


def test_a_cohort_that_gates_is_for_development_nowhere(life: Example) -> None:
    sealed(life, "third", first=4)
    locked(life, cohort={"id": "third", "positives": 1, "negatives": 1})
    with pytest.raises(Refused, match="gates or is for development, not both"):
        locked(life, development_cohort={"id": "third"})
    with pytest.raises(Refused, match="gates or is for development, not both"):
        locked(life, development_cohort=None,
               cohort={"id": "open", "positives": 1, "negatives": 1})  # fmt: skip
    with pytest.raises(Invalid, match="is the cohort that gates"):
        locked(life, development_cohort={"id": "nodules"})


def test_what_a_protocol_names_is_looked_at_when_it_is_locked(life: Example) -> None:
    with pytest.raises(NotFound, match="no locked cohort 'nowhere'"):
        locked(life, development_cohort={"id": "nowhere"})
    with pytest.raises(Refused, match="fewer than 300 positives or negatives"):
        locked(life, disclosure={"minimum_group": 300})
    sealed(life, "other-contract", first=5)
    life.sql("ALTER TABLE touchstone.cohort DISABLE TRIGGER append_only")
    life.sql("UPDATE touchstone.cohort SET contract_digest = %s WHERE id = 'other-contract'",
             "sha256:" + "5" * 64)  # fmt: skip
    life.sql("ALTER TABLE touchstone.cohort ENABLE TRIGGER append_only")
    with pytest.raises(Refused, match="sealed for another contract"):
        locked(life, development_cohort={"id": "other-contract"})


def test_a_case_that_lies_in_both_is_found_where_the_keys_are(life: Example) -> None:
    sealed(life, "overlap", first=1)  # scans 1, 26, 51 …: the locked cohort's are among them
    with pytest.raises(Refused, match="cases of overlap have the inputs of cases of nodules"):
        locked(life, development_cohort={"id": "overlap"})
    sealed(life, "keyless", first=7, keys=False)
    locked(life, development_cohort={"id": "keyless"})
    log = "SELECT detail FROM touchstone.event WHERE kind = 'protocol-locked' ORDER BY seq DESC"
    noted = [json.loads(detail) for (detail,) in life.sql(log)]
    assert noted[0]["inputs"] == "not compared: this machine holds no keys"
    assert any(detail.get("inputs") == "no input in both" for detail in noted)


def test_the_trials_of_a_family_are_limited(life: Example) -> None:
    locked(life, development_cohort={"id": "open", "trials": 2})
    tried(life, honest(0.1))
    waiting = life.queued(honest(0.2), **OPEN)
    with pytest.raises(Refused, match="all 2 trials of sme-a on the cohort open 1") as refused:
        life.submitted(**OPEN)
    assert refused.value.code == "trials_spent"
    life.submitted("Finn", **OPEN)
    life.submitted()  # the locked cohort is another matter
    worker = Role(life.api.databases.worker)
    worker.execute("INSERT INTO touchstone.trial (submission) VALUES (%s)", (waiting,))
    life.sql("ALTER TABLE touchstone.submission DISABLE TRIGGER trial")
    try:
        digest = life.row(waiting)["protocol_digest"]
        third = str(uuid.uuid4())
        life.sql(
            "INSERT INTO touchstone.submission (id, organisation, model_name, model_version,"
            " protocol_digest, cohort_id, cohort_version, submitted_by, development, certifiable)"
            " VALUES (%s, 'sme-a', 'third', 1, %s, 'open', '1', 'Eva', true, false)",
            third, digest,
        )  # fmt: skip
    finally:
        life.sql("ALTER TABLE touchstone.submission ENABLE TRIGGER trial")
    with pytest.raises(psycopg.errors.CheckViolation, match="all 2 trials"):
        worker.execute("INSERT INTO touchstone.trial (submission) VALUES (%s)", (third,))
    for statement in ("DELETE FROM touchstone.trial", "TRUNCATE touchstone.trial",
                      "UPDATE touchstone.trial SET family = 'x/y'"):  # fmt: skip
        with pytest.raises(psycopg.errors.RestrictViolation):
            life.sql(statement)


def test_what_never_came_to_a_case_costs_no_trial(life: Example) -> None:
    submission = life.queued(honest(), **OPEN)
    shown = withdraw(life.api, life.people["Eva"], submission, "not this one")
    assert (shown["state"], shown["trials"]["spent"]) == ("withdrawn", 0)


def test_a_run_is_resumed_where_a_worker_left_it(
    life: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = life.queued(honest(), **OPEN)
    from registry.pipeline import steps

    def dies(work: Any) -> None:
        raise MemoryError

    monkeypatch.setitem(steps.STEPS, "assessed", dies)
    with contextlib.suppress(Exception), life.turn() as turn:
        carry(life.worker, turn)
    assert life.state(submission) == "assessed"
    with pytest.raises(Conflict, match="assessed"):
        read(life, submission)
    monkeypatch.undo()
    with life.turn() as turn:
        assert carry(life.worker, turn) == "tried"
    assert life.row(submission)["trials_spent"] == 1


def test_another_organisation_reads_nothing_of_it(life: Example) -> None:
    submission = tried(life, honest())
    for who in ("Finn", "Clara"):
        with pytest.raises((NotFound, Refused)):
            read(life, submission, who)
    databases = life.api.databases
    for role in (
        acting(databases, "sme-b", "innovator", "Finn"),
        acting(databases, "clinic", "clinician", "Clara"),
        Role(databases.app),
        Role(databases.gate),
        Role(databases.mlflow),
    ):
        for table in ("step", "trial"):
            with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
                asked = f"SELECT * FROM touchstone.{table} WHERE submission = %s"
                assert role.execute(asked, (submission,)).fetchall() == []
    eva = acting(databases, "sme-a", "innovator", "Eva")
    names = {name for (name,) in eva.execute("SELECT name FROM touchstone.step").fetchall()}
    assert names == {"ladder"}, "of the steps of her own runs the ladder's alone"


def test_nothing_certifies_it(life: Example) -> None:
    submission = tried(life, honest())
    row = life.row(submission)
    ada = life.people["Ada"]
    assert documents(life.api, ada, submission).statement is None
    with pytest.raises(TouchstoneError):
        decide(life.api, ada, submission, SignedDecision(envelope={}))
    databases = life.api.databases
    roles = [
        Role(databases.worker), Role(databases.gate), Role(databases.owner),
        acting(databases, "tef", "assessor", "Ada"), acting(databases, "sme-a", "innovator", "Eva"),
    ]  # fmt: skip
    refused = (psycopg.errors.IntegrityError, psycopg.errors.InsufficientPrivilege)
    for state in ("in_review", "certified", "conditional", "not_certified", "assessed"):
        for role in roles:
            with contextlib.suppress(*refused):
                changed = role.execute(
                    "UPDATE touchstone.submission SET state = %s WHERE id = %s",
                    (state, submission),
                )
                assert changed.rowcount == 0
    for change in ("certifiable = true", "development = false",
                   f"statement_digest = 'sha256:{'1' * 64}'"):  # fmt: skip
        with pytest.raises(refused):
            roles[2].execute(
                f"UPDATE touchstone.submission SET {change} WHERE id = %s", (submission,)
            )
    (key,) = life.sql("SELECT key_id FROM touchstone.signer WHERE person = 'Ada'")[0]
    with pytest.raises(psycopg.errors.RestrictViolation, match="needs a submission in review"):
        roles[2].execute(
            "INSERT INTO touchstone.decision (submission, key_id, person, outcome, reason,"
            " report_digest, envelope, statement_signature)"
            " VALUES (%s, %s, 'Ada', 'certify', 'because', %s, '{}', '{}')",
            (submission, key, row["report_digest"]),
        )
    for role in (roles[1], roles[2]):
        with pytest.raises(refused):
            role.execute(
                "INSERT INTO touchstone.certificate (submission, organisation, model_name,"
                " model_version, envelope, signers, not_after)"
                " VALUES (%s, 'sme-a', %s, 1, '{}', 'pem', now() + interval '1 day')",
                (submission, row["model_name"]),
            )
    assert life.state(submission) == "tried"


def test_even_without_triggers_the_table_takes_no_development_run_into_review(
    life: Example,
) -> None:
    submission = life.queued(honest(), **OPEN)
    life.sql("ALTER TABLE touchstone.submission DISABLE TRIGGER USER")
    try:
        for change in ("state = 'in_review'", "certifiable = true", "state = 'certified'"):
            with pytest.raises(psycopg.errors.CheckViolation):
                life.sql(f"UPDATE touchstone.submission SET {change} WHERE id = %s", submission)
    finally:
        life.sql("ALTER TABLE touchstone.submission ENABLE TRIGGER USER")


def test_a_trial_takes_no_attempt_and_an_attempt_no_trial(life: Example) -> None:
    submission = life.queued(honest(), **OPEN)
    other = life.queued(honest())
    worker = Role(life.api.databases.worker)
    with pytest.raises(psycopg.errors.RestrictViolation, match="spends no attempt"):
        worker.execute(
            "INSERT INTO touchstone.attempt (submission, family, cohort_id, cohort_version)"
            " VALUES (%s, 'sme-a/x', 'open', '1')", (submission,),
        )  # fmt: skip
    with pytest.raises(psycopg.errors.RestrictViolation, match="no trial"):
        worker.execute("INSERT INTO touchstone.trial (submission) VALUES (%s)", (other,))
    for run, match in ((other, "tried on the development cohort"), (submission, "is climbed")):
        worker.execute("UPDATE touchstone.submission SET state = 'running' WHERE id = %s", (run,))
        worker.execute(
            "UPDATE touchstone.submission SET state = 'assessed', verdict = 'fail',"
            " report_digest = %s WHERE id = %s", ("sha256:" + "1" * 64, run),
        )  # fmt: skip
        with pytest.raises(psycopg.errors.IntegrityError, match=match):
            worker.execute("UPDATE touchstone.submission SET state = 'tried' WHERE id = %s", (run,))
    with pytest.raises(psycopg.errors.RestrictViolation, match="decides nothing"):
        worker.execute(
            "UPDATE touchstone.submission SET state = 'in_review' WHERE id = %s", (submission,)
        )


def test_the_gate_is_as_far_away_after_a_trial_as_before(life: Example) -> None:
    tried(life, honest())
    attempt = life.queued(honest())
    shown = view(life.api, life.people["Eva"], attempt)
    assert shown["attempts"] == {"allowed": 6, "spent": 0}
    assert shown["trials"] is None
    with life.turn() as turn:
        assert carry(life.worker, turn) == "in_review"
    released = read(life, attempt)
    assert set(released) == {"schema_id", "protocol_id", "protocol_version", "model", "outcome"}
    assert life.attempt(attempt) == "spent"
