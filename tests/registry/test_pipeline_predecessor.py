"""A new version against the certified one, from the two runs to the bytes of the report."""

import datetime as dt
import io
import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from onnx import helper, numpy_helper
from sklearn.metrics import roc_auc_score

from registry.audit.log_key import make_log_key
from registry.cli.submissions import _print_predecessor
from registry.pipeline import assessment, certified_run
from registry.pipeline.assessment import task_of
from registry.pipeline.carry import Unforeseen
from registry.pipeline.predecessor import RUN, STEP, fix_predecessor
from registry.pipeline.scoring import score
from registry.pipeline.watch import Watch
from registry.pipeline.work import Work
from registry.settings import Databases
from registry.submissions import certified, places
from registry.submissions.review import report_for, report_page_for
from registry.trust.canonical import sha256_bytes
from registry.trust.errors import NotFound, Unavailable
from registry.trust.keys import load_identity, pem_of, save_identity
from serving.sandbox.failures import MESSAGES, ModelFailure
from serving.sandbox.limits import Limits
from serving.sandbox.process import Sandbox
from tests.registry.by_hand import certify, stop
from tests.registry.facility_example import (
    Example,
    endless,
    facility_example,
    honest,
    model,
    scores,
    weights,
)
from tests.registry.further_example import carried, report_of, step
from tests.registry.locked import lock_cohort, no_restriction
from tests.validators.cohort_example import SHARD
from validators.cohort.ingest import open_staged
from validators.cohort.key_store import create_keys, open_keys
from validators.cohort.manifest import manifest_bytes
from validators.cohort.seal import seal
from validators.cohort.stream import read_reference
from validators.contract.schema import Contract

FIRST, SECOND = honest(0.1), honest(0.13)
ENDPOINTS = [
    {"metric": "sensitivity", "goal": 0.01},
    *({"metric": metric, "role": "secondary", "rule": "reported"}
      for metric in ("specificity", "auc", "brier")),
]  # fmt: skip
LENIENT = {"endpoints": ENDPOINTS, "cluster": None, "threshold": 0.65}


@pytest.fixture(scope="module")
def life(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    home = tmp_path_factory.mktemp("predecessor")
    with facility_example(database, home) as made:
        of, root = made.api.settings, load_identity(home / "root.key")
        of.root_certificate.write_bytes(pem_of(root.certificate))
        save_identity(root, of.keys, "root")
        make_log_key(of)
        yield made


@pytest.fixture(autouse=True)
def nothing_left(life: Example) -> None:
    life.fresh()


@pytest.fixture(scope="module")
def before(life: Example) -> tuple[str, str, str]:
    """A model of which version 1 is certified: its name, its submission, its certificate."""
    name = name_of()
    first = ran(life, FIRST, name, threshold=0.6)
    return name, first, certify(life, first)


def name_of() -> str:
    return f"net-{uuid.uuid4().hex[:8]}"


def prepared_otherwise() -> bytes:
    """The weights of the first model, on readings that are halved before."""
    nodes = [helper.make_node("Mul", ["descriptors", "half"], ["prepared"]), *scores("probability")]
    nodes[1].input[0] = "prepared"
    half = numpy_helper.from_array(np.asarray(0.5, np.float32), "half")
    return model(nodes, [*weights(0.1), half])


def other_version(life: Example) -> None:
    """The same cases, sealed and locked as version 2."""
    home = life.api.settings.home
    keys = create_keys(life.api.settings.cohort_keys, "nodules", "2")
    manifest = seal(open_staged(home / "staged"), life.api.store, cohort_id="nodules", version="2",
                    keys=keys, shard_size=SHARD)  # fmt: skip
    path = "cohorts/nodules/2/manifest.json"
    life.api.store.put(path, manifest_bytes(manifest))
    lock_cohort(life.api, life.people, life.keys, path)
    no_restriction(life.api, life.people, "nodules")


def ran(
    life: Example, net: bytes, name: str, version: int = 1, who: str = "Eva", **rules: Any
) -> str:
    """A version of a model, run and assessed by a protocol of its own."""
    submission = in_line(life, net, name, version, who, **rules)
    assert carried(life, submission) == "in_review"
    return submission


def in_line(
    life: Example, net: bytes, name: str, version: int = 1, who: str = "Eva", **rules: Any
) -> str:
    """A version that waits for its run."""
    life.fresh_protocol(**LENIENT | rules)
    return life.queued(net, who, name=name, version=version)


def by_case(life: Example, submission: str) -> dict[str, float]:
    table = pq.read_table(io.BytesIO(life.worker.store.get(places.predictions(submission))))
    return dict(zip(table["case"].to_pylist(), table["score"].to_pylist(), strict=True))


def truth(life: Example) -> dict[str, int]:
    from registry.submissions.lock import cohort, load_manifest

    manifest = load_manifest(life.api, cohort(life.api, life.people["Sam"], "nodules"))
    key = open_keys(life.worker.settings.cohort_keys, manifest).reference()
    table = read_reference(manifest, life.worker.store, key)
    return dict(zip(table["case"].to_pylist(), table["reference"].to_pylist(), strict=True))


def looked_up(
    life: Example, name: str, version: int, who: str = "Eva", **rules: Any
) -> dict[str, Any] | None:
    """What the assess step of a submission would write down, without a run."""
    life.fresh_protocol(**LENIENT | rules)
    submission = life.submitted(who, name, version=version)
    fix_predecessor(Work(life.worker, life.row(submission), Watch(life.worker.record, submission)))
    found = step(life, submission, STEP)["found"]
    life.sql("UPDATE touchstone.submission SET state = 'technical_failure', deadline = NULL"
             " WHERE id = %s", submission)  # fmt: skip
    return None if found is None else dict(found)


def test_a_new_version_is_held_against_the_certified_one_case_by_case(
    life: Example, before: tuple[str, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    name, first, certificate = before
    assert "predecessor" not in report_of(life, first)
    second = ran(life, SECOND, name, 2)
    found = report_of(life, second)["predecessor"]
    assert found["certified"] == {
        "version": 1, "certificate": certificate, "model": life.row(first)["model_digest"],
        "protocol": life.row(first)["protocol_digest"],
        "predictions": step(life, first, "run")["predictions"],
    }  # fmt: skip
    cases = truth(life)
    y = np.array(list(cases.values())) == 1
    old, new = (np.array([by_case(life, of)[case] for case in cases]) for of in (first, second))
    rows = {row["metric"]: row for row in found["endpoints"]}
    expected = {
        "sensitivity": ((old >= 0.6)[y].mean(), (new >= 0.65)[y].mean()),
        "specificity": ((old < 0.6)[~y].mean(), (new < 0.65)[~y].mean()),
        "auc": (roc_auc_score(y, old), roc_auc_score(y, new)),
        "brier": (((old - y) ** 2).mean(), ((new - y) ** 2).mean()),
    }
    assert list(rows) == list(expected)
    for metric, (was, now) in expected.items():
        row = rows[metric]
        assert row["certified"] == pytest.approx(was, rel=1e-9), metric
        assert row["new"] == pytest.approx(now, rel=1e-9), metric
        assert row["difference"] == pytest.approx(now - was, abs=1e-9), metric
        assert row["interval"]["low"] <= row["difference"] <= row["interval"]["high"]
        assert row["interval"]["level"] == 0.95
    assert {metric: row["n"] for metric, row in rows.items()} == {
        "auc": 25, "sensitivity": y.sum(), "specificity": (~y).sum(), "brier": 25
    }  # fmt: skip
    sides = (new >= 0.65).astype(int) - (old >= 0.6)
    assert found["changed"] == {
        "cases": 25, "to_positive": (sides == 1).sum(), "to_negative": (sides == -1).sum()
    }  # fmt: skip
    assert (sides != 0).any()
    assert {of["metric"]: of["estimate"] for of in report_of(life, first)["endpoints"]} == {
        metric: row["certified"] for metric, row in rows.items()
    }

    read = life.sql("SELECT detail::jsonb FROM touchstone.event WHERE subject = %s AND kind = %s",
                    second, "predictions-read")  # fmt: skip
    assert [of["digest"] for (of,) in read if of.get("certified") == certificate] == [
        found["certified"]["predictions"]
    ]
    page = report_page_for(life.api, life.people["Ada"], second).decode()
    assert "Against the certified version" in page
    _print_predecessor(report_of(life, second))
    _print_predecessor(report_of(life, first))
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("against the certified version 1, new less certified: sensitivity")
    assert said.count("against") == said.count("decides nothing") == 1
    bundled = json.loads(life.worker.store.get(places.bundle(second) + "report.json"))
    assert bundled["predecessor"]["certified"]["certificate"] == certificate
    assert "predictions" not in bundled["predecessor"]["certified"]
    eva = life.people["Eva"]
    assert b"predecessor" not in report_for(life.api, eva, second), "one bit, while it is open"
    assert looked_up(life, name, 3)["certificate"] == certificate
    newest = certify(life, second)
    assert json.loads(report_for(life.api, eva, second))["predecessor"] == bundled["predecessor"]

    assert looked_up(life, name, 3)["certificate"] == newest
    stop(life, second)
    assert looked_up(life, name, 3)["certificate"] == certificate
    assert looked_up(life, name, 3, "Finn") is None, "another organisation's model of that name"
    assert looked_up(life, name_of(), 2) is None


def computed_again(life: Example, submission: str) -> bytes:
    """The report's bytes, from what the submission's steps wrote down."""
    work = Work(life.worker, life.row(submission), Watch(life.worker.record, submission))
    kept = step(life, submission, "assess")
    until = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=5)
    task = task_of(work, kept["perturbed"], kept["comparators"], until)
    return str(score(life.worker.settings, task)["report"]).encode()


def test_what_can_t_be_compared_is_said_in_one_sentence(
    life: Example, before: tuple[str, str, str]
) -> None:
    """The predictions are gone; the inputs are others."""
    name, first, _ = before
    path = life.worker.settings.home / "objects" / places.predictions(first)
    data = path.read_bytes()
    path.unlink()
    gone = looked_up(life, name, 8)
    path.write_bytes(data)
    assert "no longer holds the predictions" in gone["not_compared"]


@pytest.fixture(scope="module")
def moved_on(life: Example, before: tuple[str, str, str]) -> dict[str, Any]:
    """The cohort's second version, which what comes after is run on."""
    other_version(life)
    return {"cohort": life.body["cohort"] | {"version": "2"}}


def test_on_another_cohort_version_the_certified_one_is_run_again(
    life: Example, before: tuple[str, str, str], moved_on: dict[str, Any]
) -> None:
    name, first, certificate = before
    third = ran(life, honest(0.16), name, 9, **moved_on)
    found = report_of(life, third)["predecessor"]
    made = step(life, third, RUN)
    assert made == {"predictions": found["certified"]["predictions"], "not_compared": ""}
    assert found["certified"]["certificate"] == certificate
    data = life.worker.store.get(places.certified_predictions(third, made["predictions"]))
    assert sha256_bytes(data) == made["predictions"]
    table = pq.read_table(io.BytesIO(data))
    again = dict(zip(table["case"].to_pylist(), table["score"].to_pylist(), strict=True))
    assert sorted(again.values()) == pytest.approx(
        sorted(by_case(life, first).values()), abs=1e-6
    ), "the same cases, sealed under other names"
    cases = truth(life)
    y = np.array(list(cases.values())) == 1
    old, new = np.array([again[of] for of in cases]), by_case(life, third)
    now = np.array([new[of] for of in cases])
    rows = {row["metric"]: row for row in found["endpoints"]}
    for metric, was, is_now in (
        ("sensitivity", (old >= 0.6)[y].mean(), (now >= 0.65)[y].mean()),
        ("auc", roc_auc_score(y, old), roc_auc_score(y, now)),
        ("brier", ((old - y) ** 2).mean(), ((now - y) ** 2).mean()),
    ):
        assert rows[metric]["certified"] == pytest.approx(was, rel=1e-9), metric
        assert rows[metric]["difference"] == pytest.approx(is_now - was, abs=1e-9), metric
    assert sha256_bytes(computed_again(life, third)) == life.row(third)["report_digest"]
    events = life.sql("SELECT kind, detail::jsonb FROM touchstone.event WHERE subject = %s", third)
    assert [kind for kind, of in events if of.get("certified") == certificate] == [
        "cohort-read", "predictions-read"
    ]  # fmt: skip
    assert len(life.sql("SELECT 1 FROM touchstone.attempt WHERE submission = %s", third)) == 1


def test_one_that_takes_other_inputs_is_not_run(
    life: Example,
    before: tuple[str, str, str],
    moved_on: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, _, _ = before
    assert looked_up(life, name, 10, **moved_on)["run_here"]  # type: ignore[index]
    own = Work.contract.fget
    assert own is not None

    def of_other_inputs(work: Work) -> Contract:
        contract = own(work)
        renamed = [of.model_copy(update={"name": f"other_{of.name}"}) for of in contract.inputs]
        return contract.model_copy(update={"inputs": tuple(renamed)})

    monkeypatch.setattr(Work, "contract", property(of_other_inputs))
    found = looked_up(life, name, 12, **moved_on)
    assert found is not None
    assert found["not_compared"] == "the certified version takes other inputs than this one"


def hangs(life: Example, first: str) -> dict[Any, Any]:
    own = Work.model_files

    def files(work: Work) -> dict[str, bytes]:
        certified_now = work.row["model_digest"] == life.row(first)["model_digest"]
        return {"model.onnx": endless()} if certified_now else own(work)

    def impatient(work: Work) -> Sandbox:
        return Sandbox.start(replace(Limits(), wall_seconds=0.5),
                             allow_unsandboxed=work.allow_unsandboxed)  # fmt: skip

    return {(Work, "model_files"): files, (Work, "start_own_sandbox"): impatient}


def passes_intake_no_more(life: Example, first: str) -> dict[Any, Any]:
    def refuses(description: Any, contract: Any) -> None:
        raise ModelFailure("operator_refused")

    return {(certified_run, "decide"): refuses}


def late(life: Example, first: str) -> dict[Any, Any]:
    return {(certified_run, "MARGIN"): dt.timedelta(days=4)}


def late_on_the_way(life: Example, first: str) -> dict[Any, Any]:
    own, looks = certified_run._in_time, count()

    def in_time(work: Work) -> None:
        if next(looks) == 2:  # after the first shard was begun
            raise certified_run._CanNotBeCompared(certified_run.NO_TIME)
        own(work)

    return {(certified_run, "_in_time"): in_time}


@pytest.mark.parametrize(
    ("way", "said"),
    [
        (passes_intake_no_more, "operator that is not accepted"),
        pytest.param(hangs, MESSAGES["model_timeout"], marks=pytest.mark.slow),
        pytest.param(late, certified_run.NO_TIME, marks=pytest.mark.slow),
        pytest.param(late_on_the_way, certified_run.NO_TIME, marks=pytest.mark.slow),
    ],
)
def test_whatever_the_certified_one_does_is_a_sentence_and_the_new_one_gets_its_verdict(
    life: Example,
    before: tuple[str, str, str],
    moved_on: dict[str, Any],
    way: Callable[[Example, str], dict[Any, Any]],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, first, _ = before
    expected = life.row(ran(life, SECOND, name_of(), **moved_on))["verdict"]  # nothing before it
    for (where, what), by in way(life, first).items():
        monkeypatch.setattr(where, what, by)
    second = ran(life, SECOND, name, 20 + len(said), **moved_on)
    monkeypatch.undo()
    found = report_of(life, second)["predecessor"]
    assert said in found["not_compared"]
    assert found["not_compared"] == step(life, second, RUN)["not_compared"]
    assert (found["endpoints"], found["certified"]["predictions"]) == ([], None)
    assert life.row(second)["verdict"] == expected
    assert sha256_bytes(computed_again(life, second)) == life.row(second)["report_digest"]


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ([Unavailable("the host went away")], ""),
        pytest.param([Unavailable("the host went away")] * 2, certified_run.NOT_ENDED,
                     marks=pytest.mark.slow),
        pytest.param([KeyError("nobody foresaw")], certified_run.LOST, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_turn_that_is_lost_lets_it_begin_once_more_and_not_for_ever(
    life: Example,
    before: tuple[str, str, str],
    moved_on: dict[str, Any],
    errors: list[Exception],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, _, _ = before
    whole, made = certified_run._answers, []
    second = in_line(life, SECOND, name, 100 + len(said), **moved_on)
    for error in errors:

        def then_lost(*given: Any, error: Exception = error) -> bytes:
            made.append(whole(*given))
            raise error

        monkeypatch.setattr(certified_run, "_answers", then_lost)
        with pytest.raises((Unavailable, Unforeseen)):
            carried(life, second)
    monkeypatch.undo()
    assert carried(life, second) == "in_review"
    kept = step(life, second, RUN)
    assert kept["not_compared"] == said
    assert kept["predictions"] == (None if said else sha256_bytes(made[0]))


def test_a_change_of_the_threshold_or_of_what_prepares_the_inputs_is_not_covered_by_the_old_one(
    life: Example, before: tuple[str, str, str]
) -> None:
    """The same version by another threshold; then another node before the same weights."""
    name, first, certificate = before
    clara = life.people["Clara"]
    pulled = certified.listing(life.api, clara, name)
    moved = ran(life, FIRST, name, threshold=0.7, cohort=life.body["cohort"] | {"version": "1"})
    assert life.row(moved)["model_digest"] == life.row(first)["model_digest"]
    found = report_of(life, moved)["predecessor"]
    assert found["certified"]["certificate"] == certificate
    assert found["threshold"] == 0.6
    assert (found["changed"]["to_positive"], found["changed"]["to_negative"] > 0) == (0, True)
    assert {row["metric"]: row["difference"] for row in found["endpoints"]}["auc"] == 0.0
    life.fresh_protocol(**LENIENT)
    prepared = life.queued(prepared_otherwise(), name=name, version=5)
    assert life.row(prepared)["model_digest"] != life.row(first)["model_digest"]
    for submission, state in ((moved, "in_review"), (prepared, "queued")):
        assert life.state(submission) == state
        assert not life.sql("SELECT FROM touchstone.certificate WHERE submission = %s", submission)
    assert certified.listing(life.api, clara, name) == pulled, "the old files, and nothing else"


def test_which_it_was_is_kept_over_a_crash_and_over_the_end_of_its_certificate(
    life: Example, before: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one: it revokes the module's certificate."""
    name, first, certificate = before
    life.fresh_protocol(**LENIENT, cohort=life.body["cohort"] | {"version": "1"})
    second = life.queued(SECOND, name=name, version=6)
    scored: list[bytes] = []
    whole = assessment.score_apart

    def and_then_die(*given: Any) -> Any:
        scored.append(whole(*given).report)
        raise Unavailable("the host went away")

    monkeypatch.setattr(assessment, "score_apart", and_then_die)
    with pytest.raises(Unavailable, match="went away"):
        carried(life, second)
    monkeypatch.undo()
    kept = step(life, second, STEP)
    assert kept["found"]["certificate"] == certificate
    for who in ("Ada", "Ben"):
        stop(life, first, who, "revoke")
    assert carried(life, second) == "in_review"
    assert life.worker.store.get(places.report(second)) == scored[0]
    assert report_of(life, second)["predecessor"]["certified"]["certificate"] == certificate
    assert step(life, second, STEP) == kept
    assert sha256_bytes(computed_again(life, second)) == life.row(second)["report_digest"]
    assert looked_up(life, name, 7) is None, "revoked: nothing to be compared with"
    with pytest.raises(NotFound):
        certified.listing(life.api, life.people["Clara"], name)
