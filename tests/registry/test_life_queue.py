"""A fair queue: nobody waits for another organisation's many, and nothing is done twice or lost."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from registry.pipeline import queue as module
from registry.pipeline.queue import enqueue, sweep, work, worker_app
from registry.pipeline.turns import Turn
from registry.settings import Databases
from tests.registry.facility_example import Example, facility_example


@pytest.fixture(scope="module")
def life(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    with facility_example(database, tmp_path_factory.mktemp("queue")) as made:
        yield made


@pytest.fixture(autouse=True)
def fresh(life: Example) -> None:
    life.fresh()
    life.sql("SET search_path = queue; DELETE FROM procrastinate_jobs")


def many(life: Example, who: str, count: int) -> list[str]:
    """Submissions of one organisation, past what attempts would allow."""
    made = []
    for number in range(count):
        if number % 5 == 0:
            life.fresh_protocol()
        made.append(life.submitted(who))
    return made


class Served:
    """Stands where the steps are: notes whose turn it is, and ends the submission."""

    def __init__(self, life: Example, expected: int) -> None:
        self.life, self.order, self.expected = life, [], expected
        self.all = threading.Event()

    def __call__(self, _: Any, turn: Turn, **__: Any) -> str:
        row = self.life.row(turn.submission)
        self.order.append((row["organisation"], turn.submission))
        with self.life.worker.record.transaction() as now:
            now.do("submission_failed", id=turn.submission, state=row["state"], code="x",
                   message="x")  # fmt: skip
        if len(self.order) >= self.expected:
            self.all.set()
        return "technical_failure"


async def until_served(life: Example, served: Served, workers: int) -> None:
    """Real worker loops, until everything was served."""
    tasks = [asyncio.create_task(work(life.worker)) for _ in range(workers)]
    assert await asyncio.to_thread(served.all.wait, 60)
    await asyncio.sleep(0.3)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_one_that_submits_many_does_not_delay_anothers_single_one(
    life: Example, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    life.sql("INSERT INTO touchstone.quota VALUES ('sme-a', NULL, 100, NULL, 'Ann')"
             " ON CONFLICT DO NOTHING")  # fmt: skip
    greedy = many(life, "Eva", 25)
    (single,) = many(life, "Finn", 1)
    for submission in [*greedy, single]:
        enqueue(life.api, submission)
    served = Served(life, 26)
    monkeypatch.setattr(module, "carry", served)
    asyncio.run(until_served(life, served, workers))
    order = [submission for _, submission in served.order]
    assert len(order) == len(set(order)) == 26, "each once"
    assert order.index(single) <= workers, order.index(single)
    of_greedy = [submission for submission in order if submission != single]
    if workers == 1:
        assert of_greedy == greedy, "within an organisation, first come first served"


def test_turns_go_round_the_organisations(life: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    for submission in [*many(life, "Eva", 6), *many(life, "Finn", 4)]:
        enqueue(life.api, submission)
    served = Served(life, 10)
    monkeypatch.setattr(module, "carry", served)
    asyncio.run(until_served(life, served, 1))
    organisations = [organisation for organisation, _ in served.order]
    first = organisations[0]
    other = "sme-b" if first == "sme-a" else "sme-a"
    assert organisations[:8] == [first, other] * 4


def test_two_workers_never_take_the_same_submission(life: Example) -> None:
    made = set(many(life, "Eva", 5) + many(life, "Finn", 5))
    together, held = threading.Barrier(10), threading.Barrier(10)

    def one(_: int) -> str:
        together.wait()
        with life.turn() as turn:
            held.wait(20)
            return str(turn.submission)

    with ThreadPoolExecutor(10) as pool:
        assert set(pool.map(one, range(10))) == made


def test_a_ticket_that_was_lost_is_written_again_by_the_sweep(life: Example) -> None:
    many(life, "Eva", 3)

    async def swept() -> tuple[int, int]:
        app = worker_app(life.worker)
        async with app.open_async():
            return await sweep(app, life.worker), await sweep(app, life.worker)

    assert asyncio.run(swept()) == (3, 0)
