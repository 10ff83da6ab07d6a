"""A new version of a protocol, before and after a locked case was opened under the first."""

from collections.abc import Iterator

import pytest

from registry.pipeline.carry import carry
from registry.settings import Databases
from registry.submissions.lock import lock_protocol
from registry.trust.errors import Refused
from tests.registry.facility_example import Example, facility_example, honest

EASED = [{"metric": "sensitivity", "goal": 0.05}, {"metric": "specificity", "goal": 0.1}]


@pytest.fixture(scope="module")
def example(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    with facility_example(database, tmp_path_factory.mktemp("amended")) as made:
        yield made


def test_before_exposure_a_goal_may_be_eased_and_after_it_may_not(example: Example) -> None:
    example.fresh()
    sam, body = example.people["Sam"], example.body | {"id": example.protocol}
    lock_protocol(example.api, sam, body | {"version": "0", "endpoints": EASED})
    body |= {"version": "1.1"}
    lock_protocol(example.api, sam, body)
    submission = example.queued(honest())
    with example.turn() as turn:
        carry(example.worker, turn)
    assert example.attempt(submission) == "spent"
    with pytest.raises(Refused, match=r"goal 0\.05 is looser than 0\.1") as refused:
        lock_protocol(example.api, sam, body | {"version": "2", "endpoints": EASED})
    assert refused.value.code == "looser_after_exposure"
    stricter = [{"metric": "sensitivity", "goal": 0.2}, {"metric": "specificity", "goal": 0.1}]
    locked = lock_protocol(example.api, sam, body | {"version": "3", "endpoints": stricter})
    assert locked.version == "3"
    lock_protocol(example.api, sam, body | {"id": "another-question", "endpoints": EASED})
