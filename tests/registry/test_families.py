"""A family of models: its attempts count together, one at a time, and stop at the first pass."""

import contextlib
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from registry.identity.caller import Caller
from registry.pipeline import steps
from registry.pipeline.carry import carry
from registry.settings import Databases
from registry.submissions.submit import load, page, view
from registry.trust.errors import Refused, TouchstoneError, Unavailable
from tests.registry.facility_example import Example, facility_example, model, scores
from tests.registry.role import Role, token_of


@pytest.fixture(scope="module")
def life(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    with facility_example(database, tmp_path_factory.mktemp("families"), attempts=2) as made:
        made.body["cluster"] = None  # so few patients would decide nothing
        made.body["subgroups"] = [
            {"attribute": "slice_thickness", "metric": "sensitivity", "margin": 0.3,
             "minimum": 50, "if_insufficient": "conditional"}
        ]  # fmt: skip
        yield made


@pytest.fixture(autouse=True)
def fresh(life: Example) -> None:
    life.fresh()


def network(seed: int = 0, noise: float = 0.0) -> bytes:
    """A small network on the descriptors."""
    random = np.random.default_rng(seed)
    first, last = random.standard_normal((8, 32)), random.standard_normal((32, 1)) * 1e-3
    if noise:
        first = first + noise * np.random.default_rng(99).standard_normal(first.shape)
    return model(
        [
            helper.make_node("MatMul", ["descriptors", "first"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Gemm", ["r", "last", "bias"], ["z"]),
            helper.make_node("Sigmoid", ["z"], ["probability"]),
        ],
        [
            numpy_helper.from_array(first.astype(np.float32), "first"),
            numpy_helper.from_array(last.astype(np.float32), "last"),
            numpy_helper.from_array(np.zeros(1, np.float32), "bias"),
        ],
    )


def reading() -> bytes:
    """Passes, but for a subgroup with too few cases: it weighs lobulation and spiculation."""
    return model(
        scores("probability"),
        [
            numpy_helper.from_array(
                np.array([0, 0, 0, 0, 0, 0.6, 0.6, 0], np.float32).reshape(8, 1), "w"
            ),
            numpy_helper.from_array(np.array([-3.0], np.float32), "b"),
        ],
    )


def carried(life: Example) -> str:
    with life.turn() as turn:
        assert turn is not None
        return carry(life.worker, turn)


def verdict(life: Example, submission: str, verdict: str, state: str = "in_review") -> None:
    """Stands where the assessment is: this verdict, on as far as `state`."""
    worker = Role(life.api.databases.worker)
    more = f", verdict = '{verdict}', report_digest = 'sha256:{'1' * 64}'"
    for target in ("assessed", "in_review"):
        worker.execute(
            f"UPDATE touchstone.submission SET state = '{target}'"
            f"{more if target == 'assessed' else ''} WHERE id = '{submission}'"
        )
        if target == state:
            return


def running(life: Example, submission: str) -> None:
    with life.worker.record.transaction() as now:
        now.do("submission_move", id=submission, state="running", deadline=None)


def spend(life: Example, submission: str) -> None:
    """What happens in the moment before the first locked shard is decrypted."""
    row = life.row(submission)
    with life.worker.record.transaction() as now:
        now.do("attempt_spend", submission=submission,
               family=f"{row['organisation']}/{row['protocol_id']}",
               cohort_id=row["cohort_id"], cohort_version=row["cohort_version"])  # fmt: skip


def spent(life: Example, submission: str) -> None:
    running(life, submission)
    spend(life, submission)


def ended(life: Example, submission: str) -> None:
    """It ends as a technical failure where it is."""
    Role(life.api.databases.worker).execute(
        "UPDATE touchstone.submission SET state = 'technical_failure' WHERE id = %s", (submission,)
    )


def refusal(life: Example, who: str = "Eva") -> str:
    with pytest.raises(Refused) as refused:
        life.submitted(who)
    assert "\n" not in refused.value.message
    return refused.value.code


@pytest.mark.parametrize("passing", ["pass", "conditional"])
def test_after_a_pass_that_was_told_nothing_more_is_submitted(life: Example, passing: str) -> None:
    first = life.queued(network())
    spent(life, first)
    verdict(life, first, passing)
    assert refusal(life) == "family_passed"
    life.submitted("Finn")  # another organisation's family is another matter


@pytest.mark.parametrize("verdict_", ["fail", "insufficient_evidence"])
def test_after_anything_else_the_next_attempt_is_taken(life: Example, verdict_: str) -> None:
    first = life.queued(network())
    spent(life, first)
    verdict(life, first, verdict_)
    second = life.queued(network(1))
    spent(life, second)
    assert life.attempt(second) == "spent"
    assert refusal(life) == "attempts_spent"


def test_a_pass_of_a_run_without_a_sandbox_stops_nothing(life: Example) -> None:
    first = life.queued(network())
    spent(life, first)
    with life.worker.record.transaction() as now:
        now.do("submission_uncertifiable", id=first)
    verdict(life, first, "pass")
    spent(life, life.queued(network(1)))


@pytest.mark.parametrize("computed", ["pass", "fail"])
def test_until_it_is_told_a_verdict_shows_in_nothing(life: Example, computed: str) -> None:
    """The next one is taken in and waits, whatever the verdict: nobody can tell which it is."""
    first, second = life.queued(network()), life.queued(network(1))
    spent(life, first)
    verdict(life, first, computed, "assessed")
    running(life, second)
    with pytest.raises(Unavailable, match="the next waits"):
        spend(life, second)
    assert life.attempt(second) is None
    eva = life.people["Eva"]
    assert view(life.api, eva, first)["outcome"] is None
    assert view(life.api, eva, second)["attempts"] == {"allowed": 2, "spent": 1}


def test_a_submission_that_waits_is_no_workers_turn_and_comes_back_to_it(life: Example) -> None:
    first, second = life.queued(network()), life.queued(network(1))
    spent(life, first)
    with life.turn() as turn:
        assert turn.submission == first, "a worker that died left it; it goes on first"
    verdict(life, first, "fail")
    with life.turn() as turn:
        assert turn.submission == second


def test_what_was_queued_meanwhile_ends_unspent_with_the_same_code(life: Example) -> None:
    first, second = life.queued(network()), life.queued(network(1))
    spent(life, first)
    verdict(life, first, "pass")
    assert carried(life) == "technical_failure"
    row = life.row(second)
    assert (row["failure_code"], row["fault"]) == ("family_passed", "model")
    assert "wait for a new version of the cohort" in row["failure_message"]
    assert life.attempt(second) is None
    reads = life.sql(
        "SELECT kind FROM touchstone.event WHERE subject = %s AND kind = 'cohort-read'", second
    )
    assert reads == []


def test_a_worker_that_died_after_the_check_is_stopped_at_the_shard(life: Example) -> None:
    """It crashed in `running`; the first attempt passed meanwhile; the next worker takes over."""
    first, second = life.queued(network()), life.queued(network(1))
    running(life, second)
    spent(life, first)
    verdict(life, first, "pass")
    assert carried(life) == "technical_failure"
    assert life.row(second)["failure_code"] == "family_passed"
    assert life.attempt(second) is None


def test_a_pass_that_its_submitter_never_learned_of_stops_nobody(life: Example) -> None:
    """Whoever withdrew blindly, or lost it by our fault, can't read the verdict off a refusal."""
    first = life.queued(network())
    spent(life, first)
    verdict(life, first, "pass", "assessed")
    ended(life, first)
    spent(life, life.queued(network(1)))


def test_a_whole_run_that_passes_ends_the_family(life: Example) -> None:
    """Nothing stands in for anything from the queue to the verdict: the pipeline itself.

    This facility's log has no key, so the pass stays `assessed` for a while, untold.
    """
    first, second = life.queued(reading()), life.queued(network(1))
    with pytest.raises(Unavailable, match="log has no key"):
        carried(life)
    assert (life.state(first), life.row(first)["verdict"]) == ("assessed", "conditional")
    for _ in range(3):
        with life.turn() as turn:
            assert turn.submission == first, "the second waits"
    with life.worker.record.transaction() as now:
        now.do("submission_in_review", id=first, statement_digest=None, deadline=None)
    assert carried(life) == "technical_failure"
    assert life.row(second)["failure_code"] == "family_passed"
    assert (life.attempt(first), life.attempt(second)) == ("spent", None)


# Joined families


def test_the_same_weights_of_another_organisation_share_the_attempts(life: Example) -> None:
    first = life.queued(network())
    spent(life, first)
    verdict(life, first, "fail")
    copy = life.queued(network(noise=0.1), "Finn")
    spent(life, copy)
    verdict(life, copy, "fail")
    assert refusal(life, "Eva") == refusal(life, "Finn") == "attempts_spent"
    assert life.row(first)["attempts_spent"] == 2


def test_other_weights_have_attempts_of_their_own(life: Example) -> None:
    spent(life, life.queued(network()))
    other = life.queued(network(1), "Finn")
    spent(life, other)
    assert life.row(other)["attempts_spent"] == 1


def test_a_pass_ends_the_joined_family_too(life: Example) -> None:
    first, copy = life.queued(network()), life.queued(network(), "Finn")
    spent(life, first)
    verdict(life, first, "pass")
    assert carried(life) == "technical_failure"
    assert life.row(copy)["failure_code"] == "family_passed"
    assert refusal(life, "Finn") == "family_passed"


def test_which_of_the_two_was_looked_at_first_is_no_matter(life: Example) -> None:
    """The copy is submitted, and goes through intake, before the original does."""
    original = life.submitted("Eva")
    copy = life.queued(network(), "Finn")
    spent(life, copy)
    verdict(life, copy, "fail")
    assert life.row(original)["attempts_spent"] == 0
    spent(life, second := life.queued(network(), "Eva"))
    assert life.row(second)["attempts_spent"] == 2
    verdict(life, second, "fail")
    third = life.row(original)
    assert third["attempts_spent"] == 2


def test_families_are_joined_by_way_of_a_third(life: Example) -> None:
    life.sql("INSERT INTO touchstone.organisation VALUES ('sme-c', 'sme', 'c')"
             " ON CONFLICT DO NOTHING")  # fmt: skip
    life.people["Gil"] = third_organisation(life)
    one, other = life.queued(network(0)), life.queued(network(1), "Finn")
    spent(life, one)
    verdict(life, one, "fail")
    assert life.row(other)["attempts_spent"] == 0
    ended(life, life.queued(network(0), "Gil"))
    ended(life, life.queued(network(1), "Gil"))
    assert life.row(other)["attempts_spent"] == 1


def third_organisation(life: Example) -> Caller:
    secret = token_of(life.api.databases, "sme-c", "innovator", "Gil")
    return Caller("sme-c", "sme", "innovator", "Gil", "t", hashlib.sha256(secret.encode()).digest())


@pytest.mark.parametrize("round_", range(4))
def test_two_that_spend_at_once_are_one_attempt(life: Example, round_: int) -> None:
    first, copy = life.queued(network()), life.queued(network(), "Finn")
    running(life, first)
    running(life, copy)

    def one(submission: str) -> str:
        try:
            spend(life, submission)
        except TouchstoneError as error:
            return error.code
        return "spent"

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(one, (first, copy))) == ["family_at_work", "spent"]


def test_two_that_submit_at_once_get_what_is_left_and_no_more(life: Example) -> None:
    for who in ("Eva", "Finn"):
        submission = life.queued(network(), who)
        if who == "Eva":
            spent(life, submission)
            verdict(life, submission, "fail")
        else:
            ended(life, submission)

    def one(who: str) -> str:
        try:
            life.submitted(who)
        except TouchstoneError as error:
            return error.code
        return "taken"

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(one, ["Eva", "Finn"] * 3))
    assert answers.count("taken") == 1
    assert answers.count("attempts_spent") == 5


@pytest.mark.parametrize("round_", range(3))
def test_two_intakes_at_once_are_compared_all_the_same(life: Example, round_: int) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda who: life.queued(network(round_), who), ("Eva", "Finn")))
    rows = life.sql(
        "SELECT k.same FROM touchstone.kinship k"
        " JOIN touchstone.submission s ON s.id = k.submission"
        " JOIN touchstone.protocol p ON p.digest = s.protocol_digest WHERE p.id = %s",
        life.protocol,
    )  # fmt: skip
    assert rows == [(True,)]


def test_the_worker_can_not_spend_for_another_family_or_unjoin_one(life: Example) -> None:
    first, copy = life.queued(network()), life.queued(network(), "Finn")
    running(life, first)
    worker = Role(life.api.databases.worker)
    with pytest.raises(Refused, match="own family"), life.worker.record.transaction() as now:
        now.do("attempt_spend", submission=first, family="sme-z/fresh", cohort_id="nodules",
               cohort_version="1")  # fmt: skip
    for statement in ("DELETE FROM touchstone.kinship", "DELETE FROM touchstone.fingerprint",
                      "UPDATE touchstone.kinship SET same = false"):  # fmt: skip
        with pytest.raises(Exception, match="permission denied"):
            worker.execute(statement)
    assert life.row(copy)["alike"][0]["same_family"] is True


def test_who_is_like_whom_is_the_facilitys_to_see(life: Example) -> None:
    first, copy = life.queued(network()), life.queued(network(), "Finn")
    for who in ("Ada", "Sam", "Aud"):
        (seen,) = view(life.api, life.people[who], copy)["alike"]
        assert (seen["submission"], seen["organisation"], seen["share"]) == (first, "sme-a", 1.0)
        assert view(life.api, life.people[who], first)["alike"][0]["submission"] == copy
    finn = life.people["Finn"]
    assert "alike" not in view(life.api, finn, copy)
    assert load(life.api, finn, copy)["alike"] is None
    assert all(row["alike"] is None for row in page(life.api, finn))
    spent(life, first)
    verdict(life, first, "pass")
    carried(life)
    assert "sme-a" not in str(view(life.api, finn, copy)), "not in the refusal either"
    events = life.sql(
        "SELECT organisation, kind FROM touchstone.event WHERE subject = %s"
        " AND kind = 'families-joined'", copy,
    )  # fmt: skip
    assert events == [("tef", "families-joined")]


def test_an_application_without_the_facilitys_token_asks_of_its_own_family_only(
    life: Example,
) -> None:
    spent(life, life.queued(network()))
    place = {"protocol": life.protocol, "cohort_id": "nodules", "cohort_version": "1"}
    for who, taken in (("Eva", 1), ("Finn", 0), ("Ada", 1)):
        with life.api.record.transaction(life.people[who]) as now:
            assert now.one("family_standing", organisation="sme-a", **place)["taken"] == taken


# Intake itself


def test_intake_compares_in_the_moment_in_which_it_accepts(
    life: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash before the commit leaves nothing; the next worker compares again."""
    life.queued(network())
    copy = life.submitted("Finn")
    directory = life.worker.settings.home / f"model-{copy}"
    directory.mkdir()
    (directory / "model.onnx").write_bytes(network(noise=0.05))
    monkeypatch.setattr(steps, "model_directory", lambda *_: Given(directory))
    noted = steps.note_weights

    def crash(*given: Any) -> None:
        noted(*given)
        raise Unavailable("the machine lost power")

    monkeypatch.setattr(steps, "note_weights", crash)
    turn_of(life, copy)
    assert life.state(copy) == "intake"
    assert life.row(copy)["alike"] is None
    monkeypatch.setattr(steps, "note_weights", noted)
    monkeypatch.setitem(steps.STEPS, "queued", stop_here)
    turn_of(life, copy)
    assert life.row(copy)["alike"][0]["same_family"] is True


class Given:
    """A registered model's directory, as MLflow's artifacts give it."""

    def __init__(self, directory: Any) -> None:
        self.directory = directory

    def __enter__(self) -> Any:
        return self.directory

    def __exit__(self, *_: object) -> None:
        return None


def stop_here(_: Any) -> None:
    raise Unavailable("far enough")


def turn_of(life: Example, submission: str) -> None:
    """Turns until one was at this submission."""
    for _ in range(6):
        with contextlib.suppress(Unavailable), life.turn() as turn:
            if turn.submission == submission:
                carry(life.worker, turn)
        if turn.submission == submission:
            return
    raise AssertionError("it was never its turn")
