"""The development cohort: numbers to iterate with, by the Ladder, run after run."""

import contextlib
import itertools
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from registry.pipeline.carry import carry
from registry.settings import Databases
from registry.submissions.lock import lock_protocol
from registry.submissions.review import report_for
from registry.submissions.submit import view
from registry.submissions.withdraw import withdraw
from registry.trust.canonical import canonical
from registry.trust.errors import Conflict, NotFound, Refused
from tests.registry.development_example import (
    OPEN,
    development_example,
    locked,
    read,
    sealed,
    tried,
)
from tests.registry.facility_example import Example, honest
from validators.evidence import Report
from validators.leakage.key_file import open_linking_key
from validators.leakage.link_index import LinkIndex
from validators.leakage.links import links_of
from validators.leakage.pictures import Pictures
from validators.report.disclosure import release
from validators.report.ladder import NOTICE, Ladder, told


@pytest.fixture(scope="module")
def life(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    with development_example(database, tmp_path_factory.mktemp("development")) as made:
        yield made


@pytest.fixture(autouse=True)
def fresh(life: Example) -> None:
    life.fresh()


def whole(life: Example, submission: str) -> Report:
    """The complete report, as the facility's people read it."""
    return Report.model_validate_json(report_for(life.api, life.people["Ada"], submission))


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
            whole(life, submission),
            "development",
            rules.disclosure,
            ladder=Ladder(rules.measures, before),
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


def test_a_patient_in_both_is_found_by_what_was_kept_at_the_sealing(life: Example) -> None:
    sealed(life, "linked", first=9, keys=False)
    index = LinkIndex(life.api.settings.links, open_linking_key(life.api.settings.linking_key))

    def keep(cohort: str, *patients: str) -> None:
        nothing = (None,) * len(patients)
        index.keep(cohort, "1", links_of(index.key, patients, Pictures(nothing, nothing, ())))

    def noted() -> str:
        log = "SELECT detail FROM touchstone.event WHERE kind = 'protocol-locked' ORDER BY seq DESC"
        return str(json.loads(life.sql(log)[0][0])["patients"])

    locked(life, development_cohort={"id": "linked"})
    assert noted() == "not compared: this machine can't find both again"
    keep("nodules", "P 7", "P8", "-")
    keep("linked", "p7", "P9", "-")
    with pytest.raises(Refused, match="1 patients of linked are in nodules too"):
        locked(life, development_cohort={"id": "linked"})
    keep("linked", "P9", "-")
    locked(life, development_cohort={"id": "linked"})
    assert noted() == "no patient in both"


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
