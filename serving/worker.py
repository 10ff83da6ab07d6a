"""The certified model at work: one sandboxed process, one call at a time, a short queue before it.

    worker = Worker(verified, limits=SERVING_LIMITS, waiting=16)
    worker.start()                       # load, and replay the golden vectors, in this process
    scores = await worker.score(inputs)  # (n,) float64

Rules
-----
1. A process that has not replayed the golden vectors answers nobody.
2. A call that kills the process gets a 503 and the process is replaced; other calls wait.
3. At most `waiting` requests are held, their bodies included; the next one is turned away.
4. Only the score is answered: it is what was validated.
"""

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import TouchstoneError, Unavailable
from serving.bundle.golden_replay import ReplayResult, replay
from serving.bundle.verify import VerifyResult
from serving.problems import Busy
from serving.sandbox.failures import ModelFailure
from serving.sandbox.limits import Limits, for_model
from serving.sandbox.machine import machine_bytes
from serving.sandbox.outputs import check_outputs
from serving.sandbox.process import Sandbox

logger = logging.getLogger(__name__)

Scores = NDArray[Any]


class Worker:
    """Holds the sandbox; `score` may be called from many requests at once.

    limits: of its process; with more memory where the model is large (`sandbox.limits.for_model`).
    count, taken: places for requests, and those under way. restarts: processes after the first.
    """

    def __init__(
        self,
        verified: VerifyResult,
        *,
        limits: Limits,
        waiting: int,
        start_sandbox: Callable[[Limits], Sandbox] = Sandbox.start,
    ) -> None:
        assert verified.contract is not None
        assert verified.certificate is not None
        self.contract = verified.contract
        self._tolerance = verified.certificate.predicate.golden_tolerance
        self._verified = verified
        self._model_files = verified.model_files()
        size = sum(map(len, self._model_files.values()))
        self._limits = for_model(limits, size, machine_bytes())
        self._start_sandbox = start_sandbox
        self.count, self.taken = waiting, 0
        self.restarts = -1
        self._sandbox: Sandbox | None = None
        self._busy = threading.Event()
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sandbox")

    @property
    def ready(self) -> bool:
        """Whether a process stands that has replayed the golden vectors."""
        return self._sandbox is not None and not self._closed

    @property
    def pid(self) -> int | None:
        """The sandboxed process's id while it stands."""
        return self._sandbox.pid if self._sandbox else None

    def start(self) -> ReplayResult:
        """Start the process, load the model and replay the golden vectors."""
        return self._thread.submit(self._bring_up).result()

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """One of the `waiting` places, held from before a body is read; raises Busy."""
        if self.taken >= self.count:
            raise Busy("too many requests are waiting for the model; try again in a moment")
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    async def score(self, inputs: Mapping[str, NDArray[Any]]) -> Scores:
        """One score (float64) or map of labels a case, checked against the contract.

        Raises ModelFailure when the model fails on these inputs, Unavailable (503) when it took
        the process with it or none stands.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._score, inputs)
        except ModelFailure as failure:
            if not failure.fatal:
                raise
            with contextlib.suppress(RuntimeError):  # shutting down
                self._thread.submit(self._replace)
            raise Unavailable(
                f"{failure.message}; it is being started again", code=failure.code
            ) from failure

    def close(self) -> None:
        """Stop the process, whatever it is doing, and reap it."""
        self._closed = True
        sandbox = self._sandbox
        if self._busy.is_set() and sandbox is not None and sandbox.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(sandbox.pid, signal.SIGKILL)  # the waiting thread buries it
        self._thread.shutdown(wait=True, cancel_futures=True)
        if self._sandbox is not None:
            self._sandbox.close()
            self._sandbox = None

    # -- below: on the one thread that speaks with the process ---------------------------------

    def _score(self, inputs: Mapping[str, NDArray[Any]]) -> Scores:
        if self._sandbox is None:
            self._bring_up()
        sandbox = self._sandbox
        assert sandbox is not None
        cases = len(next(iter(inputs.values())))
        self._busy.set()
        try:
            outputs = sandbox.run(inputs, [self.contract.score])
            check_outputs(self.contract, outputs, cases)
        except ModelFailure as failure:
            if failure.fatal:
                self._sandbox = None
            raise
        finally:
            self._busy.clear()
        values = outputs[self.contract.score]
        return values.reshape(-1).astype(np.float64) if self.contract.reference is None else values

    def _bring_up(self) -> ReplayResult:
        if self._closed:
            raise Unavailable("the server is stopping", code="stopping")
        sandbox = self._start_sandbox(self._limits)
        try:
            sandbox.load(self._model_files)
            result = replay(sandbox, self._verified.files, self.contract, self._tolerance)
        except BaseException:
            sandbox.close()
            raise
        self._sandbox = sandbox
        self.restarts += 1
        return result

    def _replace(self) -> None:
        """A fresh process after one died, should no request have asked for it already."""
        if self._sandbox is not None or self._closed:
            return
        try:
            self._bring_up()
        except TouchstoneError as error:
            logger.error("the model could not be started again: %s", error.code)
