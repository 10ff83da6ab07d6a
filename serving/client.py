"""Predictions of a sandboxed model for whole shards, case by case accounted for.

    predictions = predict(sandbox, shards, contract, batch_size=64, order_seed=seed)
    check = repeat(sandbox, shards, contract, predictions, threshold=0.5, order_seed=seed)

Rules
-----
1. The order of cases and the composition of batches are a function of the seed, the shard's
   index, its case ids and the batch size. The same digests give the same batches.
2. Batches never cross shards, and each has exactly `batch_size` rows: the last one of a shard
   is filled with cases of its own, whose answers are thrown away.
3. Nobody sees an answer that was not checked against the contract.
4. A case that can't be answered is recorded by code with the score NaN, never dropped. A batch
   that fails is halved until the case is found, at the same number of rows.
5. A model that crashes, hangs or eats its memory gets a fresh process, a bounded number of
   times; then the run fails with that code.
6. No message and no repr holds a score or a case.
"""

import hashlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from serving.sandbox.failures import ModelFailure
from serving.sandbox.outputs import bad_rows, no_answers, scores_of
from serving.sandbox.process import Sandbox
from validators.contract.schema import Contract

Arrays = Mapping[str, NDArray[Any]]
Rows = NDArray[np.intp]
HALVINGS = 2048
"""Extra calls that a run may spend on finding failing cases inside failing batches."""


class Shard(Protocol):
    """What `validators.cohort.stream` yields: some cases and their inputs, row by row."""

    @property
    def index(self) -> int: ...
    @property
    def cases(self) -> tuple[str, ...]: ...
    @property
    def inputs(self) -> Arrays: ...


@dataclass(frozen=True)
class Answers:
    """One shard's answers, row by row: scores, or maps of labels (uint8), and a code or None."""

    cases: tuple[str, ...] = field(repr=False)
    values: NDArray[Any] = field(repr=False)
    failures: tuple[str | None, ...] = field(repr=False)
    restarts: int = 0


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
    sandbox: Sandbox,
    shards: Iterable[Shard],
    contract: Contract,
    *,
    batch_size: int = 64,
    order_seed: str = "",
    maximum_restarts: int = 16,
    on_progress: Callable[[int], None] | None = None,
) -> Predictions:
    """Run every case of `shards` through the model that is loaded in `sandbox`.

    order_seed: a digest that the run is bound to. on_progress is told the cases done so far.
    Raises ModelFailure when the model keeps crashing, hanging or eating memory; Invalid when a
    shard lacks an input of the contract or its rows don't match its cases.
    """
    started, restarts = time.monotonic(), 0
    cases: list[str] = []
    scores: list[NDArray[np.float64]] = []
    codes: list[str | None] = []
    for answers in answered(
        sandbox, shards, contract, batch_size=batch_size, order_seed=order_seed,
        maximum_restarts=maximum_restarts,
    ):  # fmt: skip
        cases.extend(answers.cases)
        scores.append(answers.values)
        codes.extend(answers.failures)
        restarts = answers.restarts
        if on_progress is not None:
            on_progress(len(cases))
    return Predictions(
        cases=tuple(cases),
        scores=np.concatenate(scores) if scores else np.empty(0),
        failures=tuple(codes),
        restarts=restarts,
        seconds=time.monotonic() - started,
    )


def answered(
    sandbox: Sandbox,
    shards: Iterable[Shard],
    contract: Contract,
    *,
    batch_size: int = 64,
    order_seed: str = "",
    maximum_restarts: int = 16,
) -> Iterator[Answers]:
    """The answers of `predict`, shard by shard; one shard's are in memory."""
    if batch_size < 1:
        raise Invalid("batch_size must be at least 1")
    run = _Run(sandbox, contract, batch_size, maximum_restarts)
    for shard in shards:
        run.begin(_cast(contract, shard), len(shard.cases))
        order = _order(order_seed, shard.index, shard.cases)
        run.answer(_batches(order, batch_size))
        yield Answers(tuple(shard.cases), run.values, tuple(run.codes), run.restarts)


def repeat(
    sandbox: Sandbox,
    shards: Iterable[Shard],
    contract: Contract,
    predictions: Predictions,
    *,
    threshold: float,
    order_seed: str,
    cases: int = 64,
    batch_size: int = 64,
) -> Repeatability:
    """Answer a subset again in a fresh process, in other orders, and compare.

    The subset is the `cases` cases that come first by a hash of the seed, so nobody can choose
    it and the model can't tell. Each is asked alone, which no other case in a batch can colour,
    and then among others in batches of `batch_size`, by a process that has answered before. It
    agrees when no score moved by more than the contract's tolerance and no decision at `threshold`
    changed. `sandbox` is restarted first.
    """
    first = dict(zip(predictions.cases, predictions.scores, strict=True))
    chosen = chosen_cases(first, order_seed, cases)
    sandbox.restart()
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


def chosen_cases(cases: Iterable[str], seed: str, count: int) -> set[str]:
    """Those that are answered again: the first by a hash of the seed."""
    return set(sorted(cases, key=lambda case: _key(seed, "subset", case))[:count])


class _Run:
    """The state of one run: one shard's answers at a time, and what failing may still cost."""

    def __init__(
        self, sandbox: Sandbox, contract: Contract, batch_size: int, maximum_restarts: int
    ) -> None:
        self.restarts = 0
        self.values: NDArray[Any] = no_answers(contract, 0)
        self.codes: list[str | None] = []
        self._sandbox = sandbox
        self._contract = contract
        self._rows = batch_size
        self._maximum_restarts = maximum_restarts
        self._halvings = HALVINGS
        self._depth = 1
        self._inputs: Arrays = {}
        self._nothing = no_answers(contract, 1)[0]
        self._score = next(t for t in contract.outputs if t.name == contract.score)

    def begin(self, inputs: Arrays, cases: int) -> None:
        self._inputs = inputs
        self.values = no_answers(self._contract, cases)
        self.codes = [None] * cases

    def answer(self, batches: Iterable[Rows]) -> None:
        """Answer all batches of the shard, one being computed while the next is handed over."""
        waiting, flying = deque(batches), deque[Rows]()
        troubled: list[tuple[Rows, ModelFailure]] = []
        while waiting or flying:
            try:
                while waiting and len(flying) < self._depth:
                    flying.append(waiting[0])
                    self._begin(waiting.popleft())
                values = self._finish(flying[0])
                self._record(flying.popleft(), values)
            except ModelFailure as failure:
                # Calls are answered in order: it was the oldest one that failed.
                troubled.append((flying.popleft(), failure))
                if failure.fatal:
                    waiting.extendleft(reversed(flying))
                    flying.clear()
                    self._restart(failure)
        for rows, cause in troubled:
            self._halve(rows, cause)

    def _again(self, rows: Rows) -> None:
        """One part of a batch that failed, by itself."""
        try:
            self._begin(rows)
            self._record(rows, self._finish(rows))
        except ModelFailure as failure:
            if failure.fatal:
                self._restart(failure)
            self._halve(rows, failure)

    def _halve(self, rows: Rows, failure: ModelFailure) -> None:
        if len(rows) == 1 or self._halvings <= 0:
            for row in rows:
                self.codes[row] = failure.code
                self.values[row] = self._nothing
            return
        self._halvings -= 2
        middle = len(rows) // 2
        self._again(rows[:middle])
        self._again(rows[middle:])

    def _restart(self, failure: ModelFailure) -> None:
        if self.restarts >= self._maximum_restarts:
            raise failure
        self.restarts += 1
        self._sandbox.restart()

    def _begin(self, rows: Rows) -> None:
        padded = np.resize(rows, self._rows)
        feeds = {name: array[padded] for name, array in self._inputs.items()}
        self._depth = 2 if self._sandbox.fits(feeds) else 1
        self._sandbox.begin(feeds, [self._contract.score])

    def _finish(self, rows: Rows) -> NDArray[Any]:
        outputs = self._sandbox.finish()
        return scores_of(self._contract, outputs, self._rows)[: len(rows)]

    def _record(self, rows: Rows, values: NDArray[Any]) -> None:
        self.values[rows] = values.reshape(len(rows), *self.values.shape[1:])
        for code, bad in bad_rows(self._contract, self._score, values).items():
            for row in rows[bad]:
                self.codes[row] = code
                self.values[row] = self._nothing


def _cast(contract: Contract, shard: Shard) -> dict[str, NDArray[Any]]:
    """The contract's inputs of a shard, in the contract's types; shapes are checked."""
    inputs = {}
    for tensor in contract.inputs:
        if tensor.name not in shard.inputs:
            raise Invalid(
                f"shard {shard.index} has no input {tensor.name!r}, which the contract asks for: "
                "cohort and contract don't belong together",
                code="shard_unfit",
            )
        array = shard.inputs[tensor.name]
        if array.shape != (len(shard.cases), *tensor.shape):
            raise Invalid(
                f"input {tensor.name!r} of shard {shard.index} has shape {list(array.shape)}, "
                f"expected {[len(shard.cases), *tensor.shape]}",
                code="shard_unfit",
            )
        if not np.can_cast(array.dtype, tensor.dtype, "same_kind"):
            raise Invalid(
                f"input {tensor.name!r} of shard {shard.index} is {array.dtype}, which can't "
                f"become {tensor.dtype} without losing its meaning",
                code="shard_unfit",
            )
        inputs[tensor.name] = array.astype(tensor.dtype, copy=False)
    return inputs


def _key(*parts: object) -> bytes:
    return hashlib.sha256("\0".join(str(part) for part in parts).encode()).digest()


def _order(seed: str, index: int, cases: Sequence[str]) -> Rows:
    """A permutation that anybody can recompute: Philox's raw stream is fixed for good."""
    key = int.from_bytes(_key(seed, index, *cases)[:16], "big")
    return np.argsort(np.random.Philox(key=key).random_raw(len(cases)), kind="stable")


def _batches(order: Rows, size: int) -> Iterator[Rows]:
    for start in range(0, len(order), size):
        yield order[start : start + size]


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
