"""One shard's cases, answered by one sandboxed model: every case answered or failed by code.

    >>> answers = answer(sandbox, shard, contract, largest=64, order_seed=seed)

Rules
-----
1. What comes out is a function of the model, the shard, the seed and `largest`: not of other
   shards, nor of which process on which host was asked. So shards may be shared out.
2. A batch that fails is halved until the case is found, at the same number of rows; a shard may
   spend HALVINGS extra calls on that, and then the rest of a failed batch fails with its code.
3. A case on which the process died is asked once more, alone, in a fresh one: somebody else may
   have killed it. How often a fresh process was needed, the caller counts.
4. Nobody sees an answer that was not checked against the contract.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serving.batches import Arrays, Rows, Shard, batches, fitting, ordered, rows_a_batch
from serving.calls import Calls
from serving.sandbox.failures import KILLED, ModelFailure
from serving.sandbox.outputs import bad_rows, no_answers, scores_of
from validators.contract.schema import Contract

HALVINGS: Final = 256
Restart = Callable[[ModelFailure], None]


@dataclass(frozen=True)
class Answers:
    """One shard's answers, row by row: scores, or maps of labels (uint8), and a code or None.

    restarts: how often the model needed a fresh process.
    """

    cases: tuple[str, ...] = field(repr=False)
    values: NDArray[Any] = field(repr=False)
    failures: tuple[str | None, ...] = field(repr=False)
    restarts: int = 0


def answer(
    sandbox: Calls,
    shard: Shard,
    contract: Contract,
    *,
    largest: int,
    order_seed: str,
    restart: Restart,
) -> Answers:
    """Ask the model that is loaded in `sandbox` for every case of `shard`.

    largest: the most rows of a batch. restart: gives the sandbox a fresh process, or raises the
    failure where that was too often. Raises Invalid where the shard does not fit the contract.
    """
    inputs, cases = fitting(contract, shard), len(shard.cases)
    run = _Run(sandbox, contract, inputs, cases, rows_a_batch(cases, largest), restart)
    run.answer(batches(ordered(order_seed, shard.index, shard.cases), run.rows))
    return Answers(tuple(shard.cases), run.values, tuple(run.codes), run.restarts)


class _Run:
    """The state of one shard's run: its answers, and what failing may still cost."""

    def __init__(
        self,
        sandbox: Calls,
        contract: Contract,
        inputs: Arrays,
        cases: int,
        rows: int,
        restart: Restart,
    ) -> None:
        self.values = no_answers(contract, cases)
        self.codes: list[str | None] = [None] * cases
        self.rows = rows
        self._sandbox = sandbox
        self._contract = contract
        self._inputs = inputs
        self.restarts = 0
        self._fresh = restart
        self._halvings = HALVINGS
        self._depth = 1
        self._nothing = no_answers(contract, 1)[0]
        self._score = next(t for t in contract.outputs if t.name == contract.score)

    def answer(self, asked: Iterable[Rows]) -> None:
        """Answer all batches of the shard, one being computed while others are handed over."""
        waiting, flying = deque(asked), deque[Rows]()
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

    def _again(self, rows: Rows, *, last: bool = False) -> None:
        """One part of a batch that failed, by itself; `last`: what fails now has failed."""
        try:
            self._begin(rows)
            self._record(rows, self._finish(rows))
        except ModelFailure as failure:
            if failure.fatal:
                self._restart(failure)
            if last:
                self._fail(rows, failure)
            else:
                self._halve(rows, failure)

    def _halve(self, rows: Rows, failure: ModelFailure) -> None:
        if len(rows) == 1 and failure.code in KILLED and self._halvings > 0:
            self._halvings -= 1
            self._again(rows, last=True)
            return
        if len(rows) == 1 or self._halvings <= 0:
            self._fail(rows, failure)
            return
        self._halvings -= 2
        middle = len(rows) // 2
        self._again(rows[:middle])
        self._again(rows[middle:])

    def _fail(self, rows: Rows, failure: ModelFailure) -> None:
        for row in rows:
            self.codes[row] = failure.code
            self.values[row] = self._nothing

    def _restart(self, failure: ModelFailure) -> None:
        self._fresh(failure)
        self.restarts += 1

    def _begin(self, rows: Rows) -> None:
        padded = np.resize(rows, self.rows)
        fits = self._sandbox.fits(self._inputs, padded)
        self._depth = self._sandbox.at_once if fits else 1
        self._sandbox.begin(self._inputs, [self._contract.score], padded)

    def _finish(self, rows: Rows) -> NDArray[Any]:
        outputs = self._sandbox.finish()
        return scores_of(self._contract, outputs, self.rows)[: len(rows)]

    def _record(self, rows: Rows, values: NDArray[Any]) -> None:
        self.values[rows] = values.reshape(len(rows), *self.values.shape[1:])
        for code, bad in bad_rows(self._contract, self._score, values).items():
            for row in rows[bad]:
                self.codes[row] = code
                self.values[row] = self._nothing
