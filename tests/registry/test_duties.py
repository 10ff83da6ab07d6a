"""A review by real people with real keys: who may decide, on what, and what two at once leave."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from registry.identity import enrolment
from registry.submissions import places, review
from registry.trust.enrolment import enrolled, parse_register
from registry.trust.errors import Conflict, Refused, Tampered, TouchstoneError
from registry.trust.keys import key_id
from tests.registry.house import House
from tests.registry.role import Role, token_of


def sending(
    house: House, person: str, submission: str, signed: review.SignedDecision
) -> Callable[[], Any]:
    """What sends a decision that was signed before."""
    return lambda: review.decide(house.facility, house.callers[person], submission, signed)


def decide(house: House, who: str, submission: str, outcome: str = "certify", **more: Any) -> Any:
    """A person's decision, signed on their side, sent to the server."""
    return sending(house, who, submission, house.signed(who, submission, outcome, **more))()


def pilot(house: House, submission: str) -> int:
    """How many aliases `clinical-pilot` the submission's model has."""
    rows = house.owner.execute(
        "SELECT count(*) FROM mlflow.registered_model_aliases a JOIN touchstone.submission s"
        " ON s.model_name = a.name WHERE s.id = %s AND a.alias = 'clinical-pilot'", (submission,),
    )  # fmt: skip
    return int(rows.fetchone()[0])


def certificates(house: House, submission: str) -> int:
    """How many certificates there are."""
    rows = house.owner.execute(
        "SELECT count(*) FROM touchstone.certificate WHERE submission = %s", (submission,)
    )
    return int(rows.fetchone()[0])


@pytest.mark.parametrize(
    ("verdict", "outcome", "state"),
    [("pass", "certify", "certified"), ("conditional", "conditional", "conditional")],
)
def test_two_assessors_open_the_gate_and_one_does_not(
    house: House, verdict: str, outcome: str, state: str
) -> None:
    submission = house.in_review(verdict)
    assert decide(house, "Ada", submission, outcome)["state"] == "in_review"
    assert (certificates(house, submission), pilot(house, submission)) == (0, 0)
    assert decide(house, "Ben", submission, outcome)["state"] == state
    assert (certificates(house, submission), pilot(house, submission)) == (1, 1)
    data = house.owner.execute(
        "SELECT enrolments FROM touchstone.certificate WHERE submission = %s", (submission,)
    ).fetchone()[0]
    known = enrolled(parse_register(data.encode()), house.root.certificate)
    assert {"Ada", "Ben"} <= {person.person for person in known.values()}


def test_a_rejection_takes_two_as_well(house: House) -> None:
    submission = house.in_review("fail")
    with pytest.raises(psycopg.errors.RestrictViolation, match="two assessors have rejected"):
        house.sql("Ada").execute(
            f"UPDATE touchstone.submission SET state = 'not_certified' WHERE id = '{submission}'"
        )
    assert decide(house, "Ada", submission, "reject")["state"] == "in_review"
    assert decide(house, "Ben", submission, "reject")["state"] == "not_certified"


def test_whoever_locked_the_cohort_does_not_decide_on_it(house: House) -> None:
    """Not as one of two either; not with an assessor's key; not by SQL."""
    submission = house.in_review()
    with pytest.raises(Refused, match="the role steward may not"):
        decide(house, "Sam", submission)
    key = house.owner.execute(
        "SELECT key_id FROM touchstone.signer WHERE person = 'Sam'"
    ).fetchone()[0]
    with pytest.raises(psycopg.errors.RestrictViolation, match="not enrolled for an assessor"):
        house.owner.execute(_row(submission, "Sam", key))
    for table in ("cohort", "protocol"):
        house.superuser(f"UPDATE touchstone.{table} SET locked_by = 'Ada'")
        try:
            with pytest.raises(Refused, match="you locked the cohort or the protocol"):
                decide(house, "Ada", submission)
            key = house.owner.execute(
                "SELECT key_id FROM touchstone.signer WHERE person = 'Ada'"
            ).fetchone()[0]
            with pytest.raises(psycopg.errors.RestrictViolation, match="Ada locked"):
                house.sql("Ada").execute(_row(submission, "Ada", key))
        finally:
            house.superuser(f"UPDATE touchstone.{table} SET locked_by = 'Sam'")


def _row(submission: str, person: str, key: str) -> str:
    return (
        "INSERT INTO touchstone.decision (submission, key_id, person, outcome, reason,"
        " report_digest, envelope, statement_signature)"
        f" SELECT id, '{key}', '{person}', 'certify', 'because', report_digest, '{{}}', '{{}}'"
        f" FROM touchstone.submission WHERE id = '{submission}'"
    )


def test_nobody_sends_what_another_signed(house: House) -> None:
    submission = house.in_review()
    signed = house.signed("Ben", submission)
    with pytest.raises(Refused, match="not enrolled for you"):
        review.decide(house.facility, house.callers["Ada"], submission, signed)
    for changes, words in (
        ({"person": "Ben"}, "another submission, person or organisation"),
        ({"organisation": "tef-2"}, "another submission, person or organisation"),
        ({"report": "sha256:" + "4" * 64}, "another report"),
        ({"statement": "sha256:" + "4" * 64}, "was not signed, or is another one"),
    ):
        with pytest.raises(Refused, match=words):
            decide(house, "Ada", submission, **changes)


def test_a_report_that_changed_in_the_store_voids_every_decision(house: House) -> None:
    for place in (places.report, places.statement):
        submission = house.in_review()
        decide(house, "Ada", submission)
        signed = house.signed("Ben", submission)
        path = house.facility.settings.objects / place(submission)
        path.chmod(0o600)
        path.write_bytes(path.read_bytes() + b" ")
        with pytest.raises(Tampered, match="is not the one"):
            review.decide(house.facility, house.callers["Ben"], submission, signed)
        assert (certificates(house, submission), pilot(house, submission)) == (0, 0)


def test_a_review_that_broke_off_is_finished_by_sending_the_same_decision_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = house.in_review()
    decide(house, "Ada", submission)
    signed = house.signed("Ben", submission)
    caller = house.callers["Ben"]
    with monkeypatch.context() as patch:
        patch.setattr(review, "issue", _break)
        with pytest.raises(KeyboardInterrupt):
            review.decide(house.facility, caller, submission, signed)
    with pytest.raises(Conflict, match="signed a decision on this submission already"):
        decide(house, "Ben", submission)  # another one: its time differs
    shown = review.decide(house.facility, caller, submission, signed)
    assert (shown["state"], shown["decisions"]) == ("certified", 2)


def _break(*_: object) -> None:
    raise KeyboardInterrupt


def at_once(*acts: Callable[[], Any]) -> list[Any]:
    """What each said, or the error it met; a programming fault or a deadlock is raised."""

    def safely(act: Callable[[], Any]) -> Any:
        try:
            return act()
        except TouchstoneError as error:
            return error

    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(safely, acts, timeout=30))


def test_two_decisions_at_once_make_one_certificate(house: House) -> None:
    for _ in range(5):
        submission = house.in_review()
        said = at_once(
            *(
                sending(house, person, submission, house.signed(person, submission))
                for person in ("Ada", "Ben")
            )
        )
        assert not [answer for answer in said if isinstance(answer, TouchstoneError)]
        assert house.row(submission)["state"] == "certified"
        assert (certificates(house, submission), pilot(house, submission)) == (1, 1)


def test_the_same_assessor_twice_at_once_is_one_decision(house: House) -> None:
    for same in (True, False):
        submission = house.in_review()
        first = house.signed("Ada", submission)
        second = first if same else house.signed("Ada", submission, "reject")
        said = at_once(*(sending(house, "Ada", submission, signed) for signed in (first, second)))
        assert [type(answer) for answer in said if isinstance(answer, TouchstoneError)] in (
            [], [Conflict],
        )  # fmt: skip
        rows = house.owner.execute(
            "SELECT count(*) FROM touchstone.decision WHERE submission = %s", (submission,)
        )
        assert rows.fetchone() == (1,)
        assert house.row(submission)["state"] == "in_review"


def test_two_promotions_at_once_make_one_certificate(house: House) -> None:
    submission = house.in_review()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(review, "issue", lambda *_: None)
        for person in ("Ada", "Ben"):
            decide(house, person, submission)
    caller = house.callers["Ada"]
    said = at_once(*[lambda: review.issue(house.facility, caller, submission)] * 4)
    assert said == [None] * 4
    assert (certificates(house, submission), pilot(house, submission)) == (1, 1)


def test_a_decision_races_with_a_revoked_key_and_one_of_them_wins(house: House) -> None:
    for round_ in range(4):
        person = f"Racer {round_}"
        house.enrol(person, "Ada", "Ben")
        house.welcome(person, "assessor")
        submission = house.in_review()
        send = sending(house, person, submission, house.signed(person, submission))
        key = key_id(house.keys[person].certificate)
        at_once(send, revoking(house, key))
        said = at_once(sending(house, "Ada", submission, house.signed("Ada", submission)))[0]
        assert isinstance(said, Refused) or said["state"] == "in_review"
        assert certificates(house, submission) == 0


def revoking(house: House, key: str) -> Callable[[], Any]:
    """What takes a key away."""
    new = enrolment.NewRevocation(reason="lost the card")
    return lambda: enrolment.revoke(house.facility.record, house.admin, key, new)


def test_a_decision_after_the_submission_left_review_is_refused(house: House) -> None:
    submission = house.in_review()
    signed = house.signed("Ada", submission)
    house.superuser(
        f"UPDATE touchstone.submission SET state = 'withdrawn' WHERE id = '{submission}'"
    )
    with pytest.raises(Refused, match="this one is withdrawn"):
        review.decide(house.facility, house.callers["Ada"], submission, signed)
    assert house.row(submission)["state"] == "withdrawn"


def test_a_withdrawal_at_the_moment_of_a_certificate_leaves_one_of_the_two(house: House) -> None:
    submission = house.in_review()
    decide(house, "Ada", submission)
    signed = house.signed("Ben", submission)
    said = at_once(
        lambda: review.decide(house.facility, house.callers["Ben"], submission, signed),
        lambda: house.superuser(
            "UPDATE touchstone.submission SET state = 'withdrawn'"
            f" WHERE id = '{submission}' AND state = 'in_review'"
        ),
    )
    state = house.row(submission)["state"]
    assert (state, certificates(house, submission)) in (("certified", 1), ("withdrawn", 0)), said


def test_conditional_is_a_verdict_only_where_the_locked_protocol_lets_it_be(house: House) -> None:
    strict = "sha256:" + "5" * 64
    house.owner.execute(
        "INSERT INTO touchstone.protocol (digest, id, version, body, attempts, locked_by) VALUES"
        f" ('{strict}', 'strict', '1', '{{\"endpoints\": [{{\"rule\": \"reported\","
        ' "if_insufficient": "conditional"}]}\', 2, \'Sam\')'
    )
    name = house.in_review()
    house.superuser(
        f"UPDATE touchstone.submission SET state = 'running', verdict = NULL, report_digest = NULL,"
        f" protocol_digest = '{strict}' WHERE id = '{name}'"
    )
    with pytest.raises(psycopg.errors.RestrictViolation, match="lets no rule be conditional"):
        house.worker.execute(
            "UPDATE touchstone.submission SET state = 'assessed', verdict = 'conditional',"
            f" report_digest = '{strict}' WHERE id = '{name}'"
        )


def test_an_auditor_reads_all_and_writes_nothing_in_the_database_either(house: House) -> None:
    submission = house.in_review()
    auditor = Role(house.database.app, token_of(house.database, "tef", "auditor", "Aud"))
    assert auditor.execute("SELECT id FROM touchstone.submission").fetchall()
    assert auditor.execute("SELECT key_id FROM touchstone.signer").fetchall()
    tables = house.owner.execute(
        "SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'touchstone'::regnamespace"
        " AND c.relkind = 'r'"
    ).fetchall()
    own_tokens = "token"  # whoever holds a token may end it
    for (table,) in tables:
        columns = [name for (name,) in house.owner.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = ('touchstone.' || %s)::regclass"
            " AND attnum > 0 AND NOT attisdropped", (table,),
        ).fetchall()]  # fmt: skip
        for statement in (
            f"DELETE FROM touchstone.{table}",
            f"TRUNCATE touchstone.{table}",
            f"INSERT INTO touchstone.{table} OVERRIDING SYSTEM VALUE"
            f" SELECT * FROM touchstone.{table} LIMIT 1",
            *(f"UPDATE touchstone.{table} SET {column} = {column}" for column in columns),
        ):
            if table == own_tokens and statement.startswith("UPDATE"):
                continue
            try:
                assert auditor.execute(statement).rowcount == 0, statement
            except psycopg.errors.InsufficientPrivilege:
                continue
            except (psycopg.errors.RestrictViolation, psycopg.errors.GeneratedAlways):
                continue  # a rule, or a number that nobody chooses
    assert house.row(submission)["state"] == "in_review"


def test_an_administrator_reads_no_report_in_the_database_either(house: House) -> None:
    submission = house.in_review()
    secret = Path(house.facility.settings.admin_token).read_text().strip()
    admin = Role(house.database.app, secret)
    for table in ("submission", "decision", "step", "certificate"):
        assert admin.execute(f"SELECT count(*) FROM touchstone.{table}").fetchone() == (0,)
    for act in (review.report_for, review.report_page_for, review.documents):
        with pytest.raises(Refused):
            act(house.facility, house.admin, submission)
