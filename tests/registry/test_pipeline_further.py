"""Runs under perturbation, comparators, readers, weights and hospitals on a locked cohort."""

import dataclasses
import io
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from registry.pipeline import perturbed_runs
from registry.pipeline.carry import carry
from registry.pipeline.work import Work
from registry.settings import Databases
from registry.submissions import places
from registry.submissions.lock import lock_protocol
from registry.submissions.review import report_for, report_page_for
from registry.submissions.submit import view
from registry.trust.errors import Refused, TouchstoneError, Unavailable
from serving.sandbox.limits import Limits
from serving.sandbox.process import Sandbox
from tests.registry.facility_example import Example, described, facility_example, honest
from tests.registry.further_example import (
    NOISE,
    READERS,
    ROUNDING,
    WEIGHTED,
    brittle,
    carried,
    exchange,
    further_attributes,
    report_of,
    step,
)
from tests.registry.test_life_stop import until

BOTH = [NOISE, ROUNDING]
NAMES = ["noise_3_descriptors", "rounding_3_descriptors"]
MODEL = honest(0.1)


@pytest.fixture(scope="module")
def life(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    with facility_example(
        database, tmp_path_factory.mktemp("further"), add=further_attributes
    ) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_left(life: Example) -> None:
    life.fresh()


def events(life: Example, submission: str, kind: str) -> list[dict[str, Any]]:
    rows = life.sql(
        "SELECT detail::jsonb FROM touchstone.event WHERE subject = %s AND kind = %s ORDER BY seq",
        submission, kind,
    )  # fmt: skip
    return [row[0] for row in rows]


def place_of(life: Example, submission: str, run: str) -> str:
    digest = step(life, submission, f"run/{run}")["predictions"]
    return places.perturbed_predictions(submission, run, digest)


def scores_in(life: Example, submission: str, run: str = "") -> Any:
    place = place_of(life, submission, run) if run else places.predictions(submission)
    return pq.read_table(io.BytesIO(life.worker.store.get(place)))


# -- runs under perturbation -----------------------------------------------------------------------


def test_each_perturbation_is_a_run_of_its_own_and_one_attempt(life: Example) -> None:
    life.fresh_protocol(robustness=BOTH, repeatability={"cases": 7})
    submission = life.queued(MODEL)
    seen: list[tuple[int, int]] = []
    with life.turn() as turn:
        state = carry(life.worker, turn, progress=lambda done, total: seen.append((done, total)))
    assert state == "in_review"
    clean = scores_in(life, submission)["score"].to_numpy()
    for name in NAMES:
        changed = scores_in(life, submission, name)
        assert changed["case"].equals(scores_in(life, submission)["case"])
        assert np.isfinite(changed["score"].to_numpy()).all()
        assert np.abs(changed["score"].to_numpy() - clean).max() > 0.001, name
    found = report_of(life, submission)
    assert [of["drops"][0]["n"] for of in found["robustness"]] == [9, 25]
    assert all(of["failed"] == 0 for of in found["robustness"])
    assert found["environment"]["repeatability"]["compared"] == 7
    assert [one for one in seen if one[0] % 25 == 0] == [(25, 75), (50, 75), (75, 75)]
    assert seen == sorted(seen), "progress goes over all runs and never back"
    assert len(events(life, submission, "attempt-spent")) == 1
    reads = [of.get("under") for of in events(life, submission, "cohort-read")]
    assert reads == [None, None, *NAMES], "the run, its repeat, and one reading for each"


def test_the_same_model_meets_the_same_noise_again(life: Example) -> None:
    """Two submissions by one protocol: the noise is a function of what the run is bound to."""
    life.fresh_protocol(robustness=[NOISE])
    twice = [life.queued(honest(0.2)), life.queued(honest(0.2))]
    for submission in twice:
        assert carried(life, submission) == "in_review"
    first, second = (life.worker.store.get(place_of(life, one, NAMES[0])) for one in twice)
    assert first == second


# A worker that is killed in the moment in which it begins its second perturbed run.
KILLED = """
import json, os, signal, sys
from registry.pipeline import perturbed_runs
from registry.pipeline.carry import carry
from registry.pipeline.turns import next_turn
from tests.registry.facility_example import opened
run, begun = perturbed_runs._run, []
def noted(*given):
    begun.append(given)
    if len(begun) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    run(*given)
perturbed_runs._run = noted
with opened(json.loads(sys.argv[1])) as facility, next_turn(facility, "doomed") as turn:
    carry(facility, turn)
"""


def test_a_worker_killed_between_two_perturbed_runs_loses_no_run_and_no_attempt(
    life: Example,
) -> None:
    life.fresh_protocol(robustness=BOTH)
    submission = life.queued(MODEL)
    process = subprocess.run([sys.executable, "-c", KILLED, described(life)], timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert [step(life, submission, f"run/{name}") is not None for name in NAMES] == [True, False]
    first = step(life, submission, f"run/{NAMES[0]}")
    seen: list[tuple[int, int]] = []
    with life.turn() as turn:
        assert turn.died == 1
        state = carry(life.worker, turn, progress=lambda done, total: seen.append((done, total)))
    assert state == "in_review"
    assert step(life, submission, f"run/{NAMES[0]}") == first
    reads = [of.get("under") for of in events(life, submission, "cohort-read")]
    assert reads == [None, None, *NAMES], "no reading of the cohort was done twice"
    assert len(events(life, submission, "attempt-spent")) == 1
    assert min(done for done, _ in seen) > 50, "progress begins where the dead worker was"


def test_a_perturbed_run_s_file_in_the_place_of_another_is_noticed(life: Example) -> None:
    """Better scores from the run itself, slipped in before the assessment."""
    life.fresh_protocol(robustness=BOTH)
    submission = life.queued(MODEL)
    process = subprocess.run([sys.executable, "-c", KILLED, described(life)], timeout=120)
    assert process.returncode == -signal.SIGKILL
    clean = life.worker.store.get(places.predictions(submission))
    before = exchange(life, place_of(life, submission, NAMES[0]), clean)
    assert before != clean
    assert carried(life, submission) == "technical_failure"
    row = life.row(submission)
    assert row["failure_code"] == "tampered"
    assert NAMES[0] in row["failure_message"]
    assert life.attempt(submission) == "returned", "what lies under our lock is ours to keep"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second a call: a model that hangs is found out quickly."""
    limits = dataclasses.replace(Limits(), wall_seconds=0.5)
    monkeypatch.setattr(
        Work, "start_own_sandbox",
        lambda work: Sandbox.start(limits, allow_unsandboxed=work.allow_unsandboxed),
    )  # fmt: skip


@pytest.mark.usefixtures("impatient")
def test_a_model_that_hangs_on_disturbed_inputs_has_collapsed_and_not_failed(
    life: Example,
) -> None:
    rule = NOISE | {"rule": "gating"}
    life.fresh_protocol(robustness=[rule], cluster=None)
    submission = life.queued(brittle())
    assert carried(life, submission) == "in_review"
    assert step(life, submission, f"run/{NAMES[0]}")["collapsed"] == "model_timeout"
    table = scores_in(life, submission, NAMES[0])
    assert set(table["failure"].to_pylist()) == {"model_timeout"}
    assert np.isnan(table["score"].to_numpy()).all()
    found = report_of(life, submission)
    assert found["robustness"][0]["failed"] == 25
    assert found["case_flow"]["failed"] == 0, "the run itself answered every case"
    drop = found["robustness"][0]["drops"][0]
    assert (drop["outcome"], found["verdict"]["overall"]) == ("fail", "fail")


@pytest.mark.usefixtures("impatient")
def test_on_a_host_that_went_bad_a_collapse_is_not_the_models(
    life: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    life.fresh_protocol(robustness=[NOISE])
    submission = life.queued(brittle())
    monkeypatch.setattr(perturbed_runs.canary, "sound", lambda start: False)
    monkeypatch.setattr("registry.pipeline.pool.check_host", lambda work: None)  # it was sound
    with pytest.raises(Unavailable, match="another makes this run again"):
        carried(life, submission)
    assert life.state(submission) == "running"
    assert step(life, submission, f"run/{NAMES[0]}") is None
    monkeypatch.undo()


@pytest.mark.usefixtures("impatient")
def test_a_worker_told_to_stop_in_a_perturbed_run_does_not_call_it_a_collapse(
    life: Example,
) -> None:
    import threading

    life.fresh_protocol(robustness=[NOISE])
    submission = life.queued(brittle())
    asked, raised = threading.Event(), []

    def turn_of_worker() -> None:
        try:
            with life.turn() as turn:
                carry(life.worker, turn, stopping=asked.is_set)
        except TouchstoneError as error:
            raised.append(error)

    thread = threading.Thread(target=turn_of_worker)
    thread.start()
    until(lambda: NAMES[0] in str(events(life, submission, "cohort-read")))
    asked.set()
    thread.join(30)
    assert "is stopping" in str(raised[0])
    assert step(life, submission, f"run/{NAMES[0]}") is None
    assert life.state(submission) == "running"


# -- readers, weights, hospitals -------------------------------------------------------------------


def test_readers_weights_and_hospitals_are_read_from_the_sealed_cohort(life: Example) -> None:
    life.fresh_protocol(
        sampling=WEIGHTED,
        cohort=life.body["cohort"] | {"sites": 6},
        sites={"attribute": "site", "metrics": [{"metric": "auc"}]},
        endpoints=[
            *life.body["endpoints"],
            {"metric": "auc", "comparator": READERS, "rule": "reported"},
            {"metric": "brier", "rule": "reported"},
        ],
    )
    submission = life.queued(MODEL)
    assert carried(life, submission) == "in_review"
    found = report_of(life, submission)
    panel = next(of for of in found["endpoints"] if of["comparison"])
    assert [row["site"] for row in found["sites"][0]["rows"]] == list("abcdef")
    scored = scores_in(life, submission)
    by_case = dict(zip(scored["case"].to_pylist(), scored["score"].to_pylist(), strict=True))
    reference = _reference(life)
    truth = np.array(reference["reference"].to_pylist())
    score = np.array([by_case[case] for case in reference["case"].to_pylist()])
    readers = [[float(of) for of in reference[f"reader_{n}"].to_pylist()] for n in (1, 2, 3)]
    assert panel["comparison"]["readers"] == 3
    assert panel["comparison"]["value"] == pytest.approx(
        np.mean([roc_auc_score(truth, ratings) for ratings in readers])
    )
    weight = np.array([float(of) for of in reference["stands_for"].to_pylist()])
    brier = next(of for of in found["endpoints"] if of["metric"] == "brier")
    expected = float(np.average((score - truth) ** 2, weights=weight))
    assert brier["estimate"] == pytest.approx(expected, rel=1e-9)
    assert brier["estimate"] != pytest.approx(float(np.mean((score - truth) ** 2)), rel=1e-3)


def _reference(life: Example) -> Any:
    from registry.submissions.lock import cohort, load_manifest
    from validators.cohort.key_store import open_keys
    from validators.cohort.stream import read_reference

    row = cohort(life.api, life.people["Sam"], "nodules")
    manifest = load_manifest(life.api, row)
    key = open_keys(life.worker.settings.cohort_keys, manifest).reference()
    return read_reference(manifest, life.worker.store, key)


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        ({"subgroups": [{"attribute": "sex", "margin": 0.2}]}, "attribute_missing", "'sex'"),
        ({"sites": {"attribute": "clinic", "metrics": [{"metric": "auc"}]}},
         "attribute_missing", "'clinic'"),
        ({"sampling": {"design": "enriched", "weights": "mass"}}, "attribute_missing", "'mass'"),
        ({"sampling": {"design": "enriched", "weights": "site"}},
         "attribute_not_numbers", "'site'"),
        ({"sampling": {"design": "enriched", "weights": "reader_4"}},
         "attribute_not_numbers", "in 1 cases"),
        ({"readers": ["reader_1", "reader_2", "reader_9"]}, "attribute_missing", "'reader_9'"),
        ({"readers": ["reader_1", "reader_2", "reader_4"]},
         "attribute_not_numbers", "is not a rating in 1 cases"),
        ({"readers": ["reader_1", "reader_2", "site"]}, "attribute_not_numbers", "'site'"),
        ({"cohort": {"sites": 7}}, "too_few_sites", "needs cases of 7 hospitals"),
        ({"model": None}, "comparator_missing", "by its digest|and its digest"),
        ({"model": "sha256:" + "9" * 64}, "comparator_missing", "submit that model there"),
    ],
)  # fmt: skip
def test_a_protocol_that_the_cohort_can_t_answer_is_refused_when_it_is_locked(
    life: Example, more: dict[str, Any], code: str, says: str
) -> None:
    body = life.body | {"id": "cannot", "endpoints": list(life.body["endpoints"])}
    if "readers" in more:
        panel = {"metric": "auc", "role": "secondary", "comparator": READERS | more}
        body["endpoints"].append(panel)
    elif "model" in more:
        other = {"name": "clinic_model", "kind": "model", "margin": 0.1, **more}
        body["endpoints"].append({"metric": "auc", "comparator": other, "role": "secondary"})
    elif "cohort" in more:
        body |= {"cohort": life.body["cohort"] | more["cohort"],
                 "sites": {"attribute": "site", "metrics": [{"metric": "auc"}]}}  # fmt: skip
    else:
        body |= more
    with pytest.raises(Refused, match=says) as refused:
        lock_protocol(life.api, life.people["Sam"], body)
    assert refused.value.code == code
    assert "\n" not in refused.value.message
    assert life.sql("SELECT FROM touchstone.protocol WHERE id = 'cannot'") == []


# -- another model ---------------------------------------------------------------------------------


def compared_with(digest: str) -> dict[str, Any]:
    return {"metric": "auc", "role": "secondary", "rule": "reported",
            "comparator": {"name": "clinic_model", "kind": "model", "margin": 0.1,
                           "model": digest}}  # fmt: skip


def test_another_model_is_compared_with_by_the_run_that_the_facility_made_of_it(
    life: Example,
) -> None:
    earlier = life.queued(honest(0.15), "Finn")
    digest = life.row(earlier)["model_digest"]
    with pytest.raises(Refused, match="no finished run"):
        life.fresh_protocol(endpoints=[*life.body["endpoints"], compared_with(digest)])
    assert carried(life, earlier) == "in_review"
    life.fresh_protocol(endpoints=[*life.body["endpoints"], compared_with(digest)])
    submission = life.queued(MODEL)
    assert carried(life, submission) == "in_review"
    (comparison,) = [of["comparison"] for of in report_of(life, submission)["endpoints"]
                     if of["comparison"]]  # fmt: skip
    assert comparison["kind"] == "model"
    assert comparison["value"] is not None
    output = step(life, submission, "assess")
    assert output["comparators"]["clinic_model"]["submission"] == earlier
    told = str(view(life.api, life.people["Eva"], submission)) + str(
        life.sql("SELECT detail FROM touchstone.event WHERE subject = %s", submission)
    )
    assert earlier not in told
    assert output["comparators"]["clinic_model"]["predictions"] not in told


def test_a_comparator_s_predictions_that_were_changed_are_noticed(life: Example) -> None:
    earlier = life.queued(honest(0.25), "Finn")
    assert carried(life, earlier) == "in_review"
    digest = life.row(earlier)["model_digest"]
    life.fresh_protocol(endpoints=[*life.body["endpoints"], compared_with(digest)])
    submission = life.queued(MODEL)
    path = places.predictions(earlier)
    data = life.worker.store.get(path)
    exchange(life, path, data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    try:
        assert carried(life, submission) == "technical_failure"
    finally:
        exchange(life, path, data)
    assert life.row(submission)["failure_code"] == "tampered"
    assert life.attempt(submission) == "returned"


# -- what a submitter learns -----------------------------------------------------------------------


def test_before_certification_a_submitter_sees_no_trace_of_it(life: Example) -> None:
    life.fresh_protocol(
        robustness=BOTH, sites={"attribute": "site", "metrics": [{"metric": "auc"}]},
        drift={}, leakage={"ceilings": [{"metric": "auc", "value": 0.0}]},
        endpoints=[*life.body["endpoints"], {"metric": "auc", "goal": 0.6}], cluster=None,
    )  # fmt: skip
    from tests.registry.further_example import DEVELOPMENT

    submission = life.queued(MODEL, declaration={"development": DEVELOPMENT})
    assert carried(life, submission) == "in_review"
    assert life.row(submission)["held_for_review"]
    complete = report_of(life, submission)
    assert complete["robustness"]
    assert complete["drift"]
    assert complete["leakage"]["outcome"] == "held_for_review"
    eva = life.people["Eva"]
    for shown in (view(life.api, eva, submission), report_for(life.api, eva, submission)):
        for word in ("robust", "noise", "site", "drift", "leak", "held", "shift", "perturb"):
            assert word not in str(shown).lower(), word
    with pytest.raises(Refused):
        report_page_for(life.api, eva, submission)
    for details in life.sql(
        "SELECT detail FROM touchstone.event WHERE organisation = 'sme-a' AND subject = %s",
        submission,
    ):
        assert not {"drift", "leak", "held", "drop"} & set(str(details).lower().split('"'))
