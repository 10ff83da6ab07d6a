"""Each arrow is taken by its own role, with a deadline, and by a person where it needs one."""

import contextlib
from collections.abc import Iterator

import psycopg
import pytest

from registry.settings import Databases
from tests.registry.facility_example import Example, facility_example
from tests.registry.role import Role, acting


@pytest.fixture(scope="module")
def life(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    with facility_example(database, tmp_path_factory.mktemp("arrows")) as made:
        yield made


@pytest.fixture(autouse=True)
def fresh(life: Example) -> None:
    life.fresh()


ARROWS = """
registered     intake               touchstone_worker
intake         queued               touchstone_worker
queued         running              touchstone_worker
running        assessed             touchstone_worker
assessed       in_review            touchstone_worker
assessed       tried                touchstone_worker
registered     technical_failure    touchstone_worker touchstone_app
intake         technical_failure    touchstone_worker touchstone_app
queued         technical_failure    touchstone_worker touchstone_app
running        technical_failure    touchstone_worker touchstone_app
assessed       technical_failure    touchstone_worker touchstone_app
registered     withdrawn            touchstone_app
intake         withdrawn            touchstone_app
queued         withdrawn            touchstone_app
running        withdrawn            touchstone_app
assessed       withdrawn            touchstone_app
in_review      not_certified        touchstone_app
in_review      certified            touchstone_gate
in_review      conditional          touchstone_gate
certified      suspended            touchstone_gate
conditional    suspended            touchstone_gate
certified      expired              touchstone_gate
conditional    expired              touchstone_gate
suspended      certified            touchstone_gate
suspended      conditional          touchstone_gate
suspended      expired              touchstone_gate
suspended      revoked              touchstone_gate
"""


def test_every_arrow_has_these_takers_and_there_is_no_other(life: Example) -> None:
    rows = life.sql("SELECT source, target, takers FROM touchstone.arrow")
    assert {(source, target, tuple(takers)) for source, target, takers in rows} == {
        (source, target, tuple(takers))
        for source, target, *takers in (line.split() for line in ARROWS.strip().splitlines())
    }


def test_a_role_takes_no_arrow_that_is_not_its_own(life: Example) -> None:
    databases = life.api.databases
    roles = {
        "touchstone_worker": [Role(databases.worker)],
        "touchstone_gate": [Role(databases.gate)],
        "touchstone_app": [
            acting(databases, "sme-a", "innovator", "Eva"),
            acting(databases, "tef", "assessor", "Ada"),
            acting(databases, "tef", "steward", "Sam"),
            acting(databases, "tef", "admin", "Ann"),
        ],
    }
    submission = life.submitted("Eva")
    tried = 0
    for source in ("registered", "intake", "queued", "running", "assessed", "in_review"):
        if source != "registered":
            more = ", verdict='fail', report_digest='sha256:" + "1" * 64 + "'"
            roles["touchstone_worker"][0].execute(
                f"UPDATE touchstone.submission SET state = '{source}'"
                f"{more if source == 'assessed' else ''} WHERE id = '{submission}'"
            )
        for line in ARROWS.strip().splitlines():
            begin, target, *takers = line.split()
            for name, members in roles.items():
                if begin != source or name in takers:
                    continue
                for member in members:
                    tried += 1
                    statement = (
                        f"UPDATE touchstone.submission SET state = '{target}'"
                        f" WHERE id = '{submission}'"
                    )
                    with contextlib.suppress(psycopg.errors.RestrictViolation,
                                             psycopg.errors.InsufficientPrivilege):  # fmt: skip
                        assert member.execute(statement).rowcount == 0
        assert life.state(submission) == source
    assert tried > 50


@pytest.mark.parametrize("who", ["Eva", "Ada", "Sam"])
def test_nobody_stops_a_submission_without_saying_so(life: Example, who: str) -> None:
    submission = life.submitted("Eva")
    person = acting(life.api.databases, *{
        "Eva": ("sme-a", "innovator"), "Ada": ("tef", "assessor"), "Sam": ("tef", "steward"),
    }[who], who)  # fmt: skip
    for state in ("withdrawn", "technical_failure"):
        with pytest.raises(psycopg.errors.RestrictViolation, match="by a person, with a reason"):
            person.execute(
                f"UPDATE touchstone.submission SET state = '{state}' WHERE id = '{submission}'"
            )


def test_every_state_that_is_not_final_has_a_deadline(life: Example) -> None:
    submission = life.submitted("Eva")
    worker = Role(life.api.databases.worker)
    for state in ("intake", "queued", "running"):
        worker.execute(
            f"UPDATE touchstone.submission SET state = '{state}', deadline = NULL"
            f" WHERE id = '{submission}'"
        )
        assert life.row(submission)["deadline"] is not None
    with pytest.raises(psycopg.errors.RestrictViolation, match="when the state changes"):
        worker.execute("UPDATE touchstone.submission SET deadline = now() + interval '9 years'"
                       f" WHERE id = '{submission}'")  # fmt: skip
    worker.execute(
        f"UPDATE touchstone.submission SET state = 'technical_failure' WHERE id = '{submission}'"
    )
    assert life.row(submission)["deadline"] is None
