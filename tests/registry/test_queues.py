"""A protocol names its queue; a worker takes the turns of its own; what a run took is recorded."""

import asyncio
import dataclasses
import datetime as dt
from collections.abc import Iterator

import pytest

from registry.pipeline import queue as module
from registry.pipeline.carry import carry
from registry.pipeline.overdue import look_at_overdue
from registry.pipeline.parts import help_out
from registry.pipeline.queue import enqueue, sweep, worker_app
from registry.pipeline.turns import QUEUES, next_turn
from registry.pipeline.where import start_model
from registry.settings import Databases
from registry.submissions.submit import view
from registry.trust.errors import Unavailable
from tests.registry.facility_example import Example, facility_example, honest
from validators.protocol.read import parse_protocol


@pytest.fixture(scope="module")
def life(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    with facility_example(database, tmp_path_factory.mktemp("queues")) as made:
        yield made


@pytest.fixture
def both(life: Example) -> tuple[str, str]:
    """A submission for processors and one for graphics processors, and nothing else."""
    life.fresh()
    life.sql("SET search_path = queue; DELETE FROM procrastinate_jobs")
    first = life.queued(honest(0.7))
    life.fresh_protocol(compute="gpu")
    return first, life.queued(honest(0.7), "Finn")


def tickets(life: Example) -> set[tuple[str, str]]:
    found = life.sql("SELECT queue_name, queueing_lock FROM queue.procrastinate_jobs")
    return {(queue, lock) for queue, lock in found}


def test_a_turn_is_of_the_queues_that_the_worker_takes(
    life: Example, both: tuple[str, str]
) -> None:
    for queue, expected in zip(QUEUES, both, strict=True):
        with next_turn(life.worker, "w", [queue]) as turn:
            assert turn is not None
            assert turn.submission == expected
            with next_turn(life.worker, "v", [queue]) as none:
                assert none is None
    seen = set()
    for _ in both:
        with next_turn(life.worker, "w") as turn:
            assert turn is not None
            seen.add(turn.submission)
    assert seen == set(both), "one that was started for none takes all"


def test_the_sweep_puts_each_in_the_queue_that_its_protocol_names(
    life: Example, both: tuple[str, str]
) -> None:
    enqueue(life.api, both[1], "gpu")

    async def swept() -> int:
        app = worker_app(life.worker)
        async with app.open_async():
            return await sweep(app, life.worker)

    assert asyncio.run(swept()) == 1, "the other one has its ticket"
    assert tickets(life) == {("cpu", both[0]), ("gpu", both[1])}


def test_a_worker_of_one_queue_leaves_the_others_tickets(
    life: Example, both: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    carried: list[str] = []
    monkeypatch.setattr(module, "carry", lambda _, turn, **__: carried.append(turn.submission))
    enqueue(life.api, both[0])
    enqueue(life.api, both[1], "gpu")

    async def worked() -> None:
        app = worker_app(life.worker, ["gpu"])
        async with app.open_async():
            await app.run_worker_async(queues=["gpu"], wait=False, install_signal_handlers=False)

    asyncio.run(worked())
    assert carried == [both[1]]
    assert ("cpu", both[0]) in tickets(life)


def test_a_submission_of_another_queue_is_neither_helped_with_nor_ended(
    life: Example, both: tuple[str, str]
) -> None:
    late = dt.datetime.now(dt.UTC) + dt.timedelta(days=30)
    assert look_at_overdue(life.worker, late, queues=["cpu"]) == [(both[0], "Fail")]
    assert life.state(both[1]) == "queued"
    assert help_out(life.worker, ["cpu"]) == 0
    assert look_at_overdue(life.worker, late, queues=["gpu"]) == [(both[1], "Fail")]


def test_a_protocol_that_says_nothing_of_it_keeps_its_digest(life: Example) -> None:
    body = life.body | {"id": "p-0"}
    plain, said = parse_protocol(body), parse_protocol(body | {"compute": "cpu"})
    assert plain.digest == said.digest
    assert parse_protocol(body | {"compute": "gpu"}).digest != plain.digest


def test_the_facility_sees_what_each_run_took_and_the_submitter_does_not(life: Example) -> None:
    life.fresh()
    submission = life.queued(honest(0.7))
    with life.turn() as turn:
        assert turn is not None
        assert carry(life.worker, turn) == "in_review"
    [used] = view(life.api, life.people["Ada"], submission)["compute"]
    parts = life.sql(
        "SELECT seconds, processor_seconds FROM touchstone.part WHERE submission = %s", submission
    )
    assert (used["run"], used["parts"], used["workers"]) == ("run", len(parts), 1)
    assert used["seconds"] == pytest.approx(sum(wall for wall, _ in parts))
    assert used["processor_seconds"] == pytest.approx(sum(own for _, own in parts))
    assert used["processor_seconds"] > 0
    assert used["lasted"] >= max(wall for wall, _ in parts)
    assert "compute" not in view(life.api, life.people["Eva"], submission)


def test_a_worker_whose_device_is_not_there_blames_nobody_and_runs_nothing_on_the_processor(
    life: Example, both: tuple[str, str]
) -> None:
    """No CUDA here: what was asked for can't be had, and nothing is done in its place."""
    settings = dataclasses.replace(life.worker.settings, device="0")
    worker = dataclasses.replace(life.worker, settings=settings)
    with pytest.raises(Unavailable, match="CUDA") as found:
        start_model(worker)
    assert found.value.code == "provider_unavailable"
    with next_turn(worker, "w", ["gpu"]) as turn:
        assert turn is not None
        with pytest.raises(Unavailable):
            carry(worker, turn)
    assert life.state(both[1]) == "running", "it waits for a worker that can"
    spent = life.sql("SELECT count(*) FROM touchstone.attempt WHERE submission = %s", both[1])
    assert spent == [(0,)]
