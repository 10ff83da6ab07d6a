"""A cohort is used under declared conditions, and under an agreement that is in force, or not."""

import contextlib
import datetime as dt
import itertools
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from registry.pipeline.carry import carry
from registry.settings import Databases
from registry.submissions import use
from registry.submissions.lock import lock_protocol
from registry.submissions.submit import view
from registry.submissions.use import NewAgreement, Statement
from registry.trust.errors import Invalid, NotFound, Refused
from tests.registry.development_example import sealed
from tests.registry.facility_example import Example, facility_example, honest
from tests.registry.role import Role, acting
from validators.cohort.data_use import NO_RESTRICTION, TERMS, check_conditions

TODAY = dt.datetime.now(dt.UTC).date()
DAY = dt.timedelta(days=1)
PATH = (
    "approved",
    "representative_contacted",
    "checking_availability",
    "resource_available",
    "access_conditions_indicated",
    "access_conditions_met",
    "resource_made_available",
)
RESEARCH = ["DUO:0000006", "DUO:0000046"]


@pytest.fixture(scope="module")
def life(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    with facility_example(database, tmp_path_factory.mktemp("use")) as made:
        made.body["cluster"] = None
        yield made


@pytest.fixture(autouse=True)
def fresh(life: Example) -> None:
    """Nothing under way; the cohort under conditions that ask for an agreement."""
    declared(life, [NO_RESTRICTION])
    life.fresh()
    declared(life, RESEARCH)


def declared(life: Example, codes: list[str], until: dt.date | None = None) -> None:
    for person in ("Sam", "Uma") if codes == [NO_RESTRICTION] else ("Sam",):
        said = Statement(codes=codes, until=until)
        use.declare(life.api, life.people[person], "nodules", said)


def asked(life: Example, protocol: str | None = None, *, first: dt.date = TODAY,
          last: dt.date = TODAY + 30 * DAY) -> str:  # fmt: skip
    new = NewAgreement(protocol=protocol or life.protocol, purpose="validation", valid_from=first,
                       valid_until=last)  # fmt: skip
    return str(use.ask(life.api, life.people["Sam"], "nodules", new)["id"])


def moved(life: Example, agreement: str, path: tuple[str, ...] = PATH) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for state in path:
        who = "Uma" if state == use.IN_FORCE else "Sam"  # who asked
        found = use.move(life.api, life.people[who], agreement, state)  # type: ignore[arg-type]
    return found


def refused(life: Example) -> str:
    with pytest.raises(Refused) as found:
        life.submitted()
    assert found.value.code == "no_agreement"
    assert "\n" not in found.value.message
    return found.value.message


def test_without_an_agreement_nothing_is_submitted_and_with_one_it_is(life: Example) -> None:
    assert "no agreement in force" in refused(life)
    agreement = asked(life)
    for state in PATH:
        refused(life)
        found = moved(life, agreement, (state,))
        assert found["usable"] == (state == "resource_made_available")
    assert life.submitted()


def test_a_protocol_is_locked_under_an_agreement_only(life: Example) -> None:
    name = f"p-{uuid.uuid4().hex[:8]}"
    with pytest.raises(Refused) as found:
        lock_protocol(life.api, life.people["Sam"], life.body | {"id": name})
    assert found.value.code == "no_agreement"
    moved(life, asked(life, name))
    assert lock_protocol(life.api, life.people["Sam"], life.body | {"id": name}).id == name
    other = name + "x"
    with pytest.raises(Refused):  # an agreement is for one protocol
        lock_protocol(life.api, life.people["Sam"], life.body | {"id": other})


@pytest.mark.parametrize(
    ("first", "last", "fine"),
    [(TODAY, TODAY, True), (TODAY + DAY, TODAY + 9 * DAY, False),
     (TODAY - 9 * DAY, TODAY - DAY, False)],
)  # fmt: skip
def test_an_agreement_holds_between_its_days(life: Example, first, last, fine) -> None:
    found = moved(life, asked(life, first=first, last=last))
    assert found["usable"] is fine
    if fine:
        assert life.submitted()
    else:
        refused(life)


@pytest.mark.parametrize("end", ["paused", "concluded"])
def test_a_submission_under_way_does_not_begin_when_its_agreement_has_ended(
    life: Example, end: str
) -> None:
    agreement = asked(life)
    moved(life, agreement)
    submission = life.queued(honest())
    moved(life, agreement, (end,))
    with life.turn() as turn:
        assert turn is not None
        assert carry(life.worker, turn) == "technical_failure"
    assert life.attempt(submission) is None
    shown = view(life.api, life.people["Eva"], submission)
    assert shown["failure"]["code"] == "no_agreement"
    assert life.row(submission)["fault"] == "facility"


def test_in_the_moment_before_the_first_shard_the_database_asks_once_more(life: Example) -> None:
    agreement = asked(life)
    moved(life, agreement)
    submission = life.queued(honest())
    row = life.row(submission)
    with life.worker.record.transaction() as now:
        now.do("submission_move", id=submission, state="running", deadline=None)
    moved(life, agreement, ("paused",))
    spend = {"submission": submission, "family": f"sme-a/{life.protocol}", "cohort_id": "nodules",
             "cohort_version": row["cohort_version"]}  # fmt: skip
    with (
        pytest.raises(Refused, match="no agreement in force"),
        life.worker.record.transaction() as now,
    ):
        now.do("attempt_spend", **spend)
    moved(life, agreement, ("resource_made_available",))
    with life.worker.record.transaction() as now:
        now.do("attempt_spend", **spend)
    assert life.attempt(submission) == "spent"


def test_a_new_statement_ends_what_was_agreed_under_the_old_one(life: Example) -> None:
    agreement = asked(life)
    moved(life, agreement)
    declared(life, [*RESEARCH, "DUO:0000021"])
    refused(life)
    half = asked(life)
    moved(life, half, PATH[:-1])
    declared(life, RESEARCH)
    with pytest.raises(Refused, match="other conditions"):
        moved(life, half, PATH[-1:])


def test_no_restriction_needs_no_agreement_and_a_last_day_is_the_last(life: Example) -> None:
    declared(life, [NO_RESTRICTION], until=TODAY)
    assert life.submitted()
    declared(life, [NO_RESTRICTION], until=TODAY - DAY)
    assert "could be used until" in refused(life)


def test_a_cohort_of_which_nothing_is_said_is_not_used(life: Example) -> None:
    sealed(life, "silent", first=3)
    # `sealed` declares as its last act: take the statement away as nobody but the owner could
    life.sql("ALTER TABLE touchstone.cohort_condition DISABLE TRIGGER append_only")
    life.sql("DELETE FROM touchstone.cohort_condition WHERE cohort_id = 'silent'")
    life.sql("ALTER TABLE touchstone.cohort_condition ENABLE TRIGGER append_only")
    shown = use.conditions(life.api, life.people["Eva"], "silent")
    assert (shown["declared"], shown["codes"]) == (False, [])
    with pytest.raises(Refused, match="nobody has declared"):
        lock_protocol(life.api, life.people["Sam"], life.body | {
            "id": "silent-p", "cohort": {"id": "silent"}})  # fmt: skip
    with pytest.raises(Refused, match="declare first"):
        use.ask(life.api, life.people["Sam"], "silent", NewAgreement(
            protocol="x", purpose="why", valid_from=TODAY, valid_until=TODAY))  # fmt: skip


def test_a_cohort_that_the_application_did_not_lock_is_marked(life: Example) -> None:
    life.sql(
        "INSERT INTO touchstone.cohort SELECT 'old', '1', 'sha256:' || repeat('a', 64),"
        " manifest_digest, manifest_path, title, positives, negatives, patients, contract_digest,"
        " locked_by FROM touchstone.cohort WHERE id = 'nodules'"
    )
    shown = use.conditions(life.api, life.people["Eva"], "old")
    assert (shown["declared"], shown["grandfathered"]) == (True, True)


def test_only_arrows_of_the_negotiator_are_taken_and_each_move_is_in_the_log(
    life: Example,
) -> None:
    agreement = asked(life)
    with pytest.raises(Refused, match="what can follow is abandoned, approved"):
        moved(life, agreement, ("resource_made_available",))
    with pytest.raises(psycopg.errors.RestrictViolation, match="can't go from"):
        acting(life.api.databases, "tef", "steward", "Sam").execute(
            "UPDATE touchstone.agreement SET state = 'resource_made_available' WHERE id = %s",
            (agreement,),
        )
    moved(life, agreement)
    events = life.sql(
        "SELECT kind, actor FROM touchstone.event WHERE subject = %s ORDER BY seq", agreement
    )
    states = ("under_review", *PATH)
    assert events == [
        (f"agreement-{s.replace('_', '-')}", "Uma" if s == use.IN_FORCE else "Sam") for s in states
    ]
    found = moved(life, agreement, ("concluded",))
    assert found["next"] == []
    with pytest.raises(Refused, match="at its end"):
        moved(life, agreement, ("paused",))


def test_who_asked_does_not_make_the_cohort_available(life: Example) -> None:
    agreement = asked(life)
    moved(life, agreement, PATH[:-1])
    by_hand = "UPDATE touchstone.agreement SET state = 'resource_made_available' WHERE id = %s"

    def alone() -> None:
        with pytest.raises(Refused, match="Sam asked for this agreement") as found:
            use.move(life.api, life.people["Sam"], agreement, use.IN_FORCE)
        assert found.value.code == "four_eyes"
        for role in (acting(life.api.databases, "tef", "steward", "Sam"),
                     Role(str(life.api.databases.owner))):  # fmt: skip
            with pytest.raises(psycopg.errors.RestrictViolation, match="another steward"):
                role.execute(by_hand, (agreement,))
        refused(life)

    alone()
    moved(life, agreement, PATH[-1:])
    assert life.submitted()
    moved(life, agreement, ("paused",))
    alone()  # and not after a pause that they made themselves
    assert moved(life, agreement, PATH[-1:])["usable"]


def test_no_restriction_counts_once_another_steward_has_said_the_same(life: Example) -> None:
    def said(person: str, **changes: Any) -> bool:
        statement = Statement(**({"codes": [NO_RESTRICTION], "words": "CC BY 3.0"} | changes))
        return bool(use.declare(life.api, life.people[person], "nodules", statement)["settled"])

    assert said("Sam", codes=RESEARCH), "conditions: each use has an agreement of four eyes"
    assert not said("Sam")
    assert "Sam alone said that the cohort nodules 1 has no conditions" in refused(life)
    assert not said("Sam"), "twice is no second person"
    assert not said("Uma", words="CC0"), "another statement"
    assert not said("Sam", words="CC0", until=TODAY + DAY)
    refused(life)
    steward = acting(life.api.databases, "tef", "steward", "sam ")
    for by in (steward, Role(str(life.api.databases.owner))):  # a spelling of Sam; nobody at all
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
            by.execute(
                "INSERT INTO touchstone.cohort_condition (cohort_id, cohort_version, codes, words,"
                " until, settled, organisation, declared_by) VALUES ('nodules', '1',"
                " '{DUO:0000004}', 'CC0', %s, true, 'tef', 'sam ')", (TODAY + DAY,))  # fmt: skip
        refused(life)
    assert said("Uma", words="CC0", until=TODAY + DAY)
    assert life.submitted()


def test_every_state_but_an_end_can_be_left_and_use_follows_one_alone(life: Example) -> None:
    arrows = life.sql("SELECT source, target FROM touchstone.agreement_arrow")
    states = set(itertools.chain(*arrows))
    assert states == set(use.State.__args__)  # type: ignore[attr-defined]
    ends = states - {source for source, _ in arrows}
    assert ends == {"declined", "abandoned", "concluded", "resource_unavailable",
                    "resource_not_made_available"}  # fmt: skip
    assert {s for s, t in arrows if t == use.IN_FORCE} == {"access_conditions_met", "paused"}


@pytest.mark.parametrize("who", ["Eva", "Ada", "Aud", "Ann", "Clara"])
def test_only_stewards_declare_ask_and_move(life: Example, who: str) -> None:
    caller, agreement = life.people[who], asked(life)
    with pytest.raises(Refused):
        use.declare(life.api, caller, "nodules", Statement(codes=[NO_RESTRICTION]))
    with pytest.raises(Refused):
        use.move(life.api, caller, agreement, "approved")
    # and the database by itself
    role = acting(life.api.databases, caller.organisation, caller.role, who)
    statement = (
        "INSERT INTO touchstone.cohort_condition (cohort_id, cohort_version, codes,"
        " organisation, declared_by) VALUES ('nodules', '1', '{DUO:0000004}', %s, %s)"
    )
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        role.execute(statement, (caller.organisation, who))
    role.execute("UPDATE touchstone.agreement SET state = 'approved' WHERE id = %s", (agreement,))
    assert use.agreement(life.api, life.people["Sam"], agreement)["state"] == "under_review"


def test_an_innovator_sees_conditions_and_no_agreement(life: Example) -> None:
    agreement = asked(life)
    shown = use.conditions(life.api, life.people["Eva"], "nodules")
    assert [one["code"] for one in shown["codes"]] == RESEARCH
    for act in (lambda: use.agreement(life.api, life.people["Eva"], agreement),
                lambda: use.agreements(life.api, life.people["Eva"], "nodules")):  # fmt: skip
        with pytest.raises(Refused):
            act()
    with pytest.raises(NotFound):
        use.agreement(life.api, life.people["Sam"], str(uuid.uuid4()))


def test_statements_stay_and_what_an_agreement_binds_too(life: Example) -> None:
    agreement = asked(life)
    owner = Role(str(life.api.databases.owner))
    for statement in (
        "UPDATE touchstone.cohort_condition SET codes = '{DUO:0000004}'",
        "DELETE FROM touchstone.cohort_condition",
        f"UPDATE touchstone.agreement SET valid_until = '2099-01-01' WHERE id = '{agreement}'",
        f"DELETE FROM touchstone.agreement WHERE id = '{agreement}'",
    ):
        with pytest.raises(psycopg.errors.RestrictViolation):
            owner.execute(statement)


def test_the_terms_are_the_23_of_the_ontology():
    assert len(TERMS) == 23
    assert TERMS["DUO:0000018"] == "not for profit, non commercial use only"


@pytest.mark.parametrize(
    ("codes", "words", "until", "message"),
    [
        (["DUO:0000046"], "", None, "exactly one permission is needed, and none"),
        (["DUO:0000006", "DUO:0000042"], "", None, "and DUO:0000006 and DUO:0000042 are given"),
        (["DUO:0000004", "DUO:0000046"], "", None, "stands alone"),
        (["DUO:0000007"], "  ", None, "needs words"),
        (["DUO:0000006", "DUO:0000025"], "", None, "needs its last day"),
        (["DUO:0000005"], "", None, "no data use condition"),
        (["breast"], "", None, "no data use condition 'breast'"),
    ],
)
def test_a_statement_that_does_not_hold_together_is_refused(codes, words, until, message):
    with pytest.raises(Invalid, match=message):
        check_conditions(codes, words, until)


def test_codes_come_once_and_in_order():
    given = ["DUO:0000046", "DUO:0000007", "DUO:0000046"]
    assert check_conditions(given, "breast cancer", None) == ("DUO:0000007", "DUO:0000046")
