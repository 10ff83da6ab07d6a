"""A model that is held for review: who certifies it says, signed, what was looked at."""

import json
import sys
from typing import Any

import psycopg
import pytest

from registry.cli.submissions import _print_held
from registry.submissions import review
from registry.submissions.submit import view
from registry.trust.errors import Refused
from tests.registry.house import House
from validators.leakage.evidence import leakage_evidence, of_implausible_result

HELD = leakage_evidence((of_implausible_result("auc", 0.97, 0.95, 300),)).model_dump(mode="json")
CLEAR = leakage_evidence((of_implausible_result("auc", 0.93, 0.95, 300),)).model_dump(mode="json")
SAYS = "searched our training list: no patient in common"


def decided(house: House, submission: str, who: str, reason: str, outcome: str = "certify") -> Any:
    return review.decide(
        house.facility, house.callers[who], submission,
        house.signed(who, submission, outcome, reason=reason),
    )  # fmt: skip


@pytest.mark.parametrize("verdict", ["pass", "conditional"])
@pytest.mark.parametrize("reason", ["read it", "looks fine to me", "a        b       c       d  "])
def test_nobody_certifies_it_without_saying_what_was_looked_at(
    house: House, verdict: str, reason: str
) -> None:
    outcome = "certify" if verdict == "pass" else verdict
    submission = house.in_review(verdict, leakage=HELD)
    for who in ("Ada", "Ben"):
        with pytest.raises(Refused, match=r"auc is shown to exceed 0\.95") as refused:
            decided(house, submission, who, reason, outcome)
        assert refused.value.code == "held_for_review"
        assert "\n" not in refused.value.message
    assert house.row(submission)["state"] == "in_review"


def test_both_assessors_must_say_it(house: House) -> None:
    submission = house.in_review(leakage=HELD)
    decided(house, submission, "Ada", SAYS)
    with pytest.raises(Refused, match="what was looked at"):
        decided(house, submission, "Ben", "as Ada said")
    assert house.row(submission)["state"] == "in_review"
    assert decided(house, submission, "Ben", SAYS)["state"] == "certified"


def test_a_rejection_needs_no_more_than_it_did_and_a_clear_search_asks_nothing(
    house: House,
) -> None:
    submission = house.in_review(leakage=HELD)
    for who in ("Ada", "Ben"):
        decided(house, submission, who, "too good", "reject")
    assert house.row(submission)["state"] == "not_certified"
    submission = house.in_review(leakage=CLEAR)
    for who in ("Ada", "Ben"):
        decided(house, submission, who, "read it")
    assert house.row(submission)["state"] == "certified"


def test_what_is_signed_counts_also_when_the_certificate_is_issued(
    house: House,
) -> None:
    """A decision that got into the record without a reason, past every check, certifies nothing."""
    submission = house.in_review(leakage=HELD)
    decided(house, submission, "Ada", SAYS)
    signed = house.signed("Ben", submission, reason="read it")
    key = signed.envelope["signatures"][0]["keyid"]
    house.superuser(
        "INSERT INTO touchstone.decision (submission, key_id, person, outcome, reason,"
        f" report_digest, envelope, statement_signature) SELECT '{submission}', '{key}', 'Ben',"
        f" 'certify', '{SAYS}', report_digest, '{json.dumps(signed.envelope)}',"
        f" '{json.dumps(signed.statement_signature)}' FROM touchstone.submission"
        f" WHERE id = '{submission}'"
    )
    with pytest.raises(Refused) as refused:
        review.issue(house.facility, house.callers["Ada"], submission)
    assert refused.value.code == "held_for_review"
    assert house.row(submission)["state"] == "in_review"


def test_the_database_asks_for_it_too(house: House) -> None:
    submission = house.in_review(leakage=HELD)
    signed = house.signed("Ada", submission)
    row = house.row(submission)
    for reason, refused in (("read it", True), ("x" + " " * 30 + "y", True), (SAYS, False)):
        insert = (
            "INSERT INTO touchstone.decision (submission, key_id, person, outcome, reason,"
            " report_digest, envelope, statement_signature) VALUES"
            f" ('{submission}', '{signed.envelope['signatures'][0]['keyid']}', 'Ada', 'certify',"
            f" '{reason}', '{row['report_digest']}', '{{}}', '{{}}')"
        )
        if refused:
            with pytest.raises(psycopg.errors.RestrictViolation, match="held for review"):
                house.sql("Ada").execute(insert)
        else:
            house.sql("Ada").execute(insert)


@pytest.mark.parametrize("change", ["held_for_review = NULL", "held_for_review = 'less'"])
def test_a_finding_stays_as_it_was_written(house: House, change: str) -> None:
    submission = house.in_review(leakage=HELD)
    for role in (house.worker, house.owner):
        with pytest.raises(psycopg.errors.RestrictViolation, match="written with its verdict"):
            role.execute(f"UPDATE touchstone.submission SET {change} WHERE id = '{submission}'")


def test_assessors_see_it_where_they_read_and_sign_and_its_maker_does_not(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    submission = house.in_review(leakage=HELD)
    assert view(house.facility, house.callers["Ada"], submission)["held_for_review"] == "too good"
    eva = house.welcome("Eva", "innovator", "sme-a")
    assert "held_for_review" not in view(house.facility, eva, submission)
    _print_held({"leakage": HELD})
    _print_held({"leakage": CLEAR})
    _print_held({"leakage": None})
    sys.stdout.flush()
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("held for review: auc is shown to exceed 0.95")
    assert said.count("held") == 1
