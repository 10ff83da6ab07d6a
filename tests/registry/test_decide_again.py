"""A decision that became void: it counts no more, it stays in the record, and it blocks nobody."""

from typing import Any

import psycopg
import pytest

from registry.identity import enrolment
from registry.submissions import places, review
from registry.submissions.submit import view
from registry.trust.canonical import canonical, sha256_bytes
from registry.trust.errors import Conflict, NotFound, Refused, Tampered, TouchstoneError
from registry.trust.keys import key_id
from tests.registry.house import House
from tests.registry.role import Role
from tests.registry.test_duties import certificates, decide, pilot


def overwrite(house: House, place: str, data: bytes) -> str:
    """What whoever owns the store can do; returns the new digest."""
    path = house.facility.settings.objects / place
    path.chmod(0o600)
    path.write_bytes(data)
    return sha256_bytes(data)


def another_report(house: House, submission: str, *, with_statement: bool) -> str:
    """What whoever owns store and database can do: another report in both; returns its digest."""
    data = canonical({"submission": submission, "verdict": {"overall": "pass"}, "better": True})
    report = overwrite(house, places.report(submission), data)
    house.superuser(
        f"UPDATE touchstone.submission SET report_digest = '{report}' WHERE id = '{submission}'"
    )
    if with_statement:
        model = house.row(submission)["model_name"]
        statement = house.statement(submission, model, "pass", report)
        assert statement is not None
        digest = overwrite(house, places.statement(submission), statement)
        house.superuser(
            f"UPDATE touchstone.submission SET statement_digest = '{digest}'"
            f" WHERE id = '{submission}'"
        )
    return report


def revoke(house: House, person: str) -> None:
    """Take the key of a person away, as the administrator."""
    enrolment.revoke(
        house.facility.record, house.admin, key_id(house.keys[person].certificate),
        enrolment.NewRevocation(reason="lost the card"),
    )  # fmt: skip


def kept(house: House, submission: str) -> list[tuple[str, str, bool]]:
    """(person, outcome, void) of every decision in the record, the oldest first."""
    rows = house.owner.execute(
        "SELECT person, outcome, touchstone.is_void(d) FROM touchstone.decision d"
        " WHERE submission = %s ORDER BY number",
        (submission,),
    )
    return [(str(person), outcome, void) for person, outcome, void in rows.fetchall()]


def counts(house: House, submission: str) -> tuple[int, int]:
    """(those that stand, those that are void), as an assessor sees them."""
    shown = view(house.facility, house.callers["Ada"], submission)
    return shown["decisions"], shown["void_decisions"]


def test_another_report_on_record_voids_what_was_decided_and_two_decide_anew(house: House) -> None:
    submission = house.in_review()
    decide(house, "Ada", submission)
    another_report(house, submission, with_statement=True)
    assert counts(house, submission) == (0, 1)
    assert decide(house, "Ben", submission)["state"] == "in_review"  # Ada's does not count
    with pytest.raises(psycopg.errors.RestrictViolation, match="no certificate"):
        Role(house.database.gate).execute(_certificate(submission))
    assert decide(house, "Ada", submission)["state"] == "certified"
    assert kept(house, submission) == [
        ("Ada", "certify", True), ("Ben", "certify", False), ("Ada", "certify", False),
    ]  # fmt: skip
    assert counts(house, submission) == (2, 1)
    [(envelope, first)] = house.owner.execute(
        "SELECT c.envelope, d.statement_signature FROM touchstone.certificate c"
        " JOIN touchstone.decision d USING (submission) WHERE submission = %s"
        " ORDER BY d.number LIMIT 1", (submission,),
    ).fetchall()  # fmt: skip
    assert len(envelope["signatures"]) == 2
    assert first not in envelope["signatures"]
    assert (certificates(house, submission), pilot(house, submission)) == (1, 1)


def test_a_void_decision_is_not_made_good_by_writing_the_new_digest_beside_it(house: House) -> None:
    """Not by a superuser either: what was signed counts, not the row."""
    submission = house.in_review()
    decide(house, "Ada", submission)
    digest = another_report(house, submission, with_statement=False)
    with pytest.raises(Tampered, match="names another report"):
        decide(house, "Ben", submission)
    house.superuser(
        f"UPDATE touchstone.decision SET report_digest = '{digest}'"
        f" WHERE submission = '{submission}'"
    )
    assert kept(house, submission) == [("Ada", "certify", True)]
    with pytest.raises(psycopg.errors.RestrictViolation, match="no certificate"):
        Role(house.database.gate).execute(_certificate(submission))
    with pytest.raises(TouchstoneError):
        review.issue(house.facility, house.callers["Ben"], submission)
    assert (certificates(house, submission), pilot(house, submission)) == (0, 0)
    # The statement is the old report's: nothing can be certified here. Two who reject end it.
    assert decide(house, "Ada", submission, "reject")["state"] == "in_review"
    assert decide(house, "Ben", submission, "reject")["state"] == "not_certified"
    assert kept(house, submission) == [
        ("Ada", "certify", True), ("Ada", "reject", False), ("Ben", "reject", False),
    ]  # fmt: skip


def _certificate(submission: str) -> str:
    return (
        "INSERT INTO touchstone.certificate (submission, organisation, model_name, model_version,"
        " envelope, signers, not_after) SELECT id, organisation, model_name, model_version, '{}',"
        f" '', now() + interval '1 day' FROM touchstone.submission WHERE id = '{submission}'"
    )


def test_whoever_lost_a_key_decides_again_with_the_next_one(house: House) -> None:
    submission = house.in_review()
    house.enrol("Cleo", "Ada", "Ben")
    house.welcome("Cleo", "assessor")
    decide(house, "Cleo", submission)
    revoke(house, "Cleo")
    assert counts(house, submission) == (0, 1)
    del house.keys["Cleo"]
    house.enrol("Cleo", "Ada", "Ben")
    house.welcome("Cleo", "assessor")
    assert decide(house, "Cleo", submission)["state"] == "in_review"
    assert counts(house, submission) == (1, 1)
    assert decide(house, "Ada", submission)["state"] == "certified"
    assert kept(house, submission) == [
        ("Cleo", "certify", True), ("Cleo", "certify", False), ("Ada", "certify", False),
    ]  # fmt: skip
    revoke(house, "Cleo")  # what is certified stands, and so does what it was decided by
    assert counts(house, submission) == (2, 1)


def test_a_void_rejection_and_one_that_stands_are_not_two(house: House) -> None:
    submission = house.in_review("fail")
    house.enrol("Dan", "Ada", "Ben")
    house.welcome("Dan", "assessor")
    decide(house, "Dan", submission, "reject")
    revoke(house, "Dan")
    assert decide(house, "Ada", submission, "reject")["state"] == "in_review"
    with pytest.raises(psycopg.errors.RestrictViolation, match="two assessors have rejected"):
        house.sql("Ada").execute(
            f"UPDATE touchstone.submission SET state = 'not_certified' WHERE id = '{submission}'"
        )
    assert decide(house, "Ben", submission, "reject")["state"] == "not_certified"


def test_nobody_has_two_decisions_that_stand(house: House) -> None:
    """Not with two keys, and not by SQL."""
    submission = house.in_review()
    decide(house, "Ada", submission)
    with pytest.raises(Conflict, match="signed a decision on this submission already"):
        decide(house, "Ada", submission, "reject")
    first = house.keys.pop("Ada")
    try:
        house.enrol("Ada", "Ben", "Sam")
        second = key_id(house.keys["Ada"].certificate)
        with pytest.raises(Conflict, match="signed a decision on this submission already"):
            decide(house, "Ada", submission)
    finally:
        house.keys["Ada"] = first
    with pytest.raises(psycopg.errors.UniqueViolation, match="has decided"):
        house.sql("Ada").execute(
            "INSERT INTO touchstone.decision (submission, key_id, person, outcome, reason,"
            " report_digest, envelope, statement_signature)"
            f" SELECT id, '{second}', 'Ada', 'certify', 'because', report_digest, '{{}}', '{{}}'"
            f" FROM touchstone.submission WHERE id = '{submission}'"
        )


def test_a_void_decision_is_never_changed_or_removed(house: House) -> None:
    submission = house.in_review()
    decide(house, "Ada", submission)
    another_report(house, submission, with_statement=False)
    for statement in (
        f"DELETE FROM touchstone.decision WHERE submission = '{submission}'",
        f"UPDATE touchstone.decision SET reason = 'x' WHERE submission = '{submission}'",
    ):
        with pytest.raises(psycopg.errors.RestrictViolation, match="never changed or removed"):
            house.owner.execute(statement)
    assert kept(house, submission) == [("Ada", "certify", True)]


@pytest.mark.parametrize("gone", [False, True])
def test_a_review_whose_report_the_store_lost_ends_by_two_who_reject(
    house: House, gone: bool
) -> None:
    """What stands on record is the digest; a rejection opens nothing and needs no more."""
    submission = house.in_review()
    decide(house, "Ada", submission)
    signed = house.signed("Ben", submission)
    if gone:
        (house.facility.settings.objects / places.report(submission)).unlink()
    else:
        overwrite(house, places.report(submission), b"{}")
    expected: Any = NotFound if gone else Tampered
    with pytest.raises(expected):
        review.decide(house.facility, house.callers["Ben"], submission, signed)
    with pytest.raises(Refused, match="another report"):
        decide(house, "Ben", submission, "reject", report="sha256:" + "4" * 64)
    assert decide(house, "Ben", submission, "reject")["state"] == "in_review"
    third = f"Eli {gone}"  # Ada's decision stands; she can't take it back
    house.enrol(third, "Ada", "Ben")
    house.welcome(third, "assessor")
    assert decide(house, third, submission, "reject")["state"] == "not_certified"
    assert (certificates(house, submission), pilot(house, submission)) == (0, 0)
