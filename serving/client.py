"""Predictions of sandboxed models for whole shards, case by case accounted for.

    predictions = predict([sandbox, another], shards, contract, order_seed=seed)
    check = repeat(sandbox, shards, contract, predictions, threshold=0.5, order_seed=seed)

Rules
-----
1. A shard is answered by one sandbox, whichever is free (`serving.answering`); how many there are
   changes nothing of what comes out. Order and batches: `serving.batches`.
2. A case that can't be answered is recorded by code with the score NaN, never dropped.
3. A model that crashes, hangs or eats its memory gets a fresh process, a bounded number of times
   a run; then the run fails with that code.
4. Besides a shard for each sandbox, one that is waiting and one that is being read are in memory.
5. No message and no repr holds a score or a case.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from serving.answering import Answers, answer
from serving.batches import Arrays, Shard, batch_of, mixed
from serving.calls import Calls
from serving.sandbox.failures import KILLED, ModelFailure
from serving.sharing import share
from validators.contract.schema import Contract

MAXIMUM_RESTARTS = 16
TRIES = 3
"""Of starting a process that is killed before its first call."""


@dataclass(frozen=True)
class Predictions:
    """One score a case in the order of the shards; `failures` holds a code or None a case."""

    cases: tuple[str, ...] = field(repr=False)
    scores: NDArray[np.float64] = field(repr=False)
    failures: tuple[str | None, ...] = field(repr=False)
    restarts: int = 0
    seconds: float = 0.0

    @property
    def failed_by_code(self) -> dict[str, int]:
        """How many cases failed, by code."""
        return dict(sorted(Counter(code for code in self.failures if code).items()))


@dataclass(frozen=True)
class Repeatability:
    """The locked subset, answered again by a fresh process: one by one, then in full batches.

    `largest_difference` is over cases that were answered each time; a case that was answered now
    and then counts as a changed decision, as does one whose decision changed either time.
    """

    compared: int
    largest_difference: float
    decisions_changed: int
    agrees: bool


def predict(
    sandboxes: Calls | Sequence[Calls],
    shards: Iterable[Shard],
    contract: Contract,
    *,
    batch_size: int | None = None,
    order_seed: str = "",
    maximum_restarts: int = MAXIMUM_RESTARTS,
    on_progress: Callable[[int], None] | None = None,
) -> Predictions:
    """Run every case of `shards` through the model that is loaded in each of `sandboxes`.

    batch_size: the most cases of a call, where not the contract says so. order_seed: a digest
    that the run is bound to. on_progress is told the cases done so far. Raises ModelFailure when
    the model keeps crashing, hanging or eating memory; Invalid when a shard lacks an input of the
    contract or its rows don't match its cases.
    """
    started = time.monotonic()
    pool = list(sandboxes) if isinstance(sandboxes, Sequence) else [sandboxes]
    restarts = Restarts(maximum_restarts)
    answers: list[Answers] = []
    done = 0
    for of_shard in answered(
        pool, shards, contract, restarts, batch_size=batch_size, order_seed=order_seed
    ):
        answers.append(of_shard)
        done += len(of_shard.cases)
        if on_progress is not None:
            on_progress(done)
    return predictions_of(answers, restarts.given, time.monotonic() - started)


def predictions_of(
    answers: Sequence[Answers], restarts: int = 0, seconds: float = 0.0
) -> Predictions:
    """The scores of several shards together."""
    return Predictions(
        cases=tuple(chain.from_iterable(of.cases for of in answers)),
        scores=np.concatenate([of.values for of in answers]) if answers else np.empty(0),
        failures=tuple(chain.from_iterable(of.failures for of in answers)),
        restarts=restarts,
        seconds=seconds,
    )


def answered(
    pool: Sequence[Calls],
    shards: Iterable[Shard],
    contract: Contract,
    restarts: "Restarts",
    *,
    batch_size: int | None = None,
    order_seed: str = "",
) -> Iterator[Answers]:
    """Each shard's answers, in the order of the shards; see `predict`."""
    largest = batch_of(contract) if batch_size is None else batch_size

    def work(sandbox: Calls, shard: Shard) -> Answers:
        return answer(
            sandbox, shard, contract, largest=largest, order_seed=order_seed,
            restart=lambda failure: restarts.give(sandbox, failure),
        )  # fmt: skip

    return share(pool, shards, work)


def chosen_cases(cases: Iterable[str], seed: str, count: int) -> set[str]:
    """Those that are answered again: the first by a hash of the seed."""
    return set(sorted(cases, key=lambda case: mixed(seed, "subset", case))[:count])


def repeat(
    sandbox: Calls,
    shards: Iterable[Shard],
    contract: Contract,
    predictions: Predictions,
    *,
    threshold: float,
    order_seed: str,
    cases: int = 64,
    batch_size: int | None = None,
) -> Repeatability:
    """Answer a subset again in a fresh process, in other orders, and compare.

    The subset is the `cases` cases that come first by a hash of the seed, so nobody can choose
    it and the model can't tell. Each is asked alone, which no other case in a batch can colour,
    and then among others in full batches, by a process that has answered before. `shards` may leave
    out those that hold none of them (`chosen_cases`). It agrees when no score moved by more than
    the contract's tolerance and no decision at `threshold`
    changed. `sandbox` is restarted first.
    """
    first = dict(zip(predictions.cases, predictions.scores, strict=True))
    chosen = chosen_cases(first, order_seed, cases)
    begin_anew(sandbox)
    largest, changed, compared = 0.0, 0, 0
    for part in subset(shards, chosen):
        before = np.array([first[case] for case in part.cases])
        differ = np.zeros(len(before), dtype=bool)
        for size, name in ((1, "again"), (batch_size, "together")):
            again = predict(
                sandbox, [part], contract, batch_size=size, order_seed=f"{name} {order_seed}"
            ).scores
            both = np.isfinite(before) & np.isfinite(again)
            largest = max(largest, *np.abs(before[both] - again[both]), 0.0)
            differ |= both & ((before >= threshold) != (again >= threshold))
            differ |= np.isfinite(before) != np.isfinite(again)
        compared += len(before)
        changed += int(differ.sum())
    return Repeatability(
        compared=compared,
        largest_difference=float(largest),
        decisions_changed=changed,
        agrees=largest <= contract.tolerance and changed == 0,
    )


class Restarts:
    """How many fresh processes a run was given, over all its sandboxes."""

    def __init__(self, most: int = MAXIMUM_RESTARTS, given: int = 0) -> None:
        self.given = given
        self._most = most
        self._lock = threading.Lock()

    def give(self, sandbox: Calls, failure: ModelFailure) -> None:
        """Start the sandbox's process anew; raises the failure where that was too often.

        One that is killed while it loads the model is followed by another, which counts too.
        """
        while True:
            with self._lock:
                if self.given >= self._most:
                    raise failure
                self.given += 1
            try:
                sandbox.restart()
            except ModelFailure as again:
                if again.code not in KILLED:
                    raise
                failure = again
            else:
                return


def begin_anew(sandbox: Calls) -> None:
    """A fresh process, the model loaded, before the first call. Raises ModelFailure."""
    Restarts(TRIES).give(sandbox, ModelFailure("model_crashed"))


@dataclass(frozen=True)
class _Part:
    index: int
    cases: tuple[str, ...]
    inputs: Arrays


def subset(shards: Iterable[Shard], chosen: set[str]) -> Iterator[Shard]:
    """The chosen cases of the shards; a shard without one is passed over."""
    for shard in shards:
        rows = [row for row, case in enumerate(shard.cases) if case in chosen]
        if rows:
            yield _Part(
                shard.index,
                tuple(shard.cases[row] for row in rows),
                {name: array[rows] for name, array in shard.inputs.items()},
            )
