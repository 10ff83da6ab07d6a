"""What is left is visible before submitting; how far a cohort is used, to the facility alone."""

from collections.abc import Iterator

import pytest

from registry.settings import Databases
from registry.submissions.exposure import exposed, left
from registry.trust.errors import NotFound, Refused
from tests.registry.facility_example import Example, facility_example
from tests.registry.test_families import ended, network, spent, verdict


@pytest.fixture(scope="module")
def life(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    with facility_example(database, tmp_path_factory.mktemp("exposure"), attempts=2) as made:
        made.body["cluster"] = None
        yield made


@pytest.fixture(autouse=True)
def fresh(life: Example) -> None:
    life.fresh()


def own(life: Example, who: str = "Eva") -> dict[str, int]:
    return dict(left(life.api, life.people[who], life.protocol)["attempts"])


def test_what_is_left_is_what_submit_would_say(life: Example) -> None:
    assert own(life) == {"allowed": 2, "spent": 0, "under_way": 0, "left": 2}
    first = life.queued(network(1))
    assert own(life) == {"allowed": 2, "spent": 0, "under_way": 1, "left": 1}
    spent(life, first)
    assert own(life) == {"allowed": 2, "spent": 1, "under_way": 0, "left": 1}
    verdict(life, first, "fail")
    second = life.queued(network(2))
    spent(life, second)
    verdict(life, second, "fail")
    assert own(life)["left"] == 0
    with pytest.raises(Refused) as refused:
        life.submitted()
    assert refused.value.code == "attempts_spent"
    assert own(life, "Finn") == {"allowed": 2, "spent": 0, "under_way": 0, "left": 2}


def test_after_a_pass_nothing_is_left_and_it_says_why(life: Example) -> None:
    first = life.queued(network(3))
    spent(life, first)
    verdict(life, first, "pass")
    shown = left(life.api, life.people["Eva"], life.protocol)
    assert shown["attempts"]["left"] == 0
    assert shown["passed"]
    assert "has passed" in shown["advice"]


def test_the_facility_sees_families_organisations_attempts_and_passes(life: Example) -> None:
    before = exposed(life.api, life.people["Sam"], "nodules")
    for who, seed, word in (("Eva", 11, "pass"), ("Finn", 12, "fail")):
        submission = life.queued(network(seed), who)
        spent(life, submission)
        verdict(life, submission, word)
    after = exposed(life.api, life.people["Sam"], "nodules", "1")
    assert after["families"] == before["families"] + 2
    assert after["attempts"] == before["attempts"] + 2
    assert after["passes"] == before["passes"] + 1
    assert after["organisations"] == 2
    # alpha .075 over two attempts, twice
    grown = after["expected_false_passes"] - before["expected_false_passes"]
    assert grown == pytest.approx(2 * 0.075 / 2)
    mine = [row for row in after["by_family"] if row["family"] == f"sme-a/{life.protocol}"]
    assert [(row["attempts"], row["passes"]) for row in mine] == [(1, 1)]


def test_joined_families_are_counted_as_one(life: Example) -> None:
    before = exposed(life.api, life.people["Sam"], "nodules")["families"]
    for who, noise in (("Eva", 0.0), ("Finn", 1e-6)):
        submission = life.queued(network(21, noise), who)
        spent(life, submission)
        verdict(life, submission, "fail")
    assert exposed(life.api, life.people["Sam"], "nodules")["families"] == before + 1


def test_a_pass_that_nobody_was_told_is_not_counted(life: Example) -> None:
    before = exposed(life.api, life.people["Sam"], "nodules")["passes"]
    submission = life.queued(network(31))
    spent(life, submission)
    verdict(life, submission, "pass", state="assessed")
    ended(life, submission)
    assert exposed(life.api, life.people["Sam"], "nodules")["passes"] == before


@pytest.mark.parametrize("who", ["Eva", "Clara", "Ann"])
def test_the_cohorts_exposure_is_for_the_facilitys_reviewers(life: Example, who: str) -> None:
    with pytest.raises(Refused, match=r"may not do exposure\.read"):
        exposed(life.api, life.people[who], "nodules")


def test_a_cohort_that_is_not_there(life: Example) -> None:
    with pytest.raises(NotFound, match="no locked cohort"):
        exposed(life.api, life.people["Sam"], "other")
