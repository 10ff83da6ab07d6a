"""One model that is loaded: a sandboxed process, the thread that speaks with it, a queue before it.

    model = Resident(digest, files, start_sandbox)
    session = await model.renew()                        # a fresh process, the model loaded
    outputs = await model.run(gather, ["score"])

Rules
-----
1. Calls are answered in the order in which they came; two may be under way in the process.
2. A call that kills the process fails with its code. Those that the process had not answered yet
   are begun again by a fresh one: they are not at fault.
3. `renew` waits for the calls before it, and is nothing for a process that has had no call yet.
4. Whoever waits no longer (a client that left) is skipped.
5. `close` kills the process, whatever it is doing, and reaps it.
"""

import asyncio
import contextlib
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from numpy.typing import NDArray

from registry.trust.errors import Unavailable
from serving.sandbox.failures import ModelFailure
from serving.sandbox.process import Sandbox, SessionInfo

Arrays = Mapping[str, NDArray[Any]]
UNDER_WAY: Final = 2


@dataclass(frozen=True)
class Session:
    """A fresh process with the model loaded: what is recorded as evidence."""

    info: SessionInfo
    level: dict[str, int | bool | str]
    execution: dict[str, int | bool | str]


@dataclass(eq=False)
class _Job:
    """A call; without `gather` a renewal."""

    future: asyncio.Future[Any]
    gather: Callable[[], Arrays] | None = None
    outputs: tuple[str, ...] | None = None
    inputs: Arrays | None = field(default=None, repr=False)


class Resident:
    """Made and awaited on one event loop; `stopped` is told once its thread has ended."""

    def __init__(
        self, digest: str, files: dict[str, bytes], start_sandbox: Callable[[], Sandbox]
    ) -> None:
        self.digest = digest
        self.session: Session | None = None
        self.restarts = -1
        self.used = time.monotonic()
        self._files, self._start_sandbox = files, start_sandbox
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Job] = deque()
        self._under_way: deque[_Job] = deque()
        self._sandbox: Sandbox | None = None
        self._untouched = False
        self._deadline = 0.0
        self._closed = False
        self._pending = 0
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._live, name="resident", daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        """Whether nobody waits for an answer."""
        return self._pending == 0

    async def renew(self) -> Session:
        """A process that has had no call, the model loaded. Raises what `Sandbox.load` does."""
        session: Session = await self._ask(_Job(self._loop.create_future()))
        return session

    async def run(
        self, gather: Callable[[], Arrays], outputs: Sequence[str] | None
    ) -> dict[str, NDArray[Any]]:
        """One call; `gather` gives its inputs, on the model's thread. Raises ModelFailure."""
        wanted = None if outputs is None else tuple(outputs)
        job = _Job(self._loop.create_future(), gather, wanted)
        answer: dict[str, NDArray[Any]] = await self._ask(job)
        return answer

    async def close(self) -> None:
        """End the thread and the process; whoever waits gets Unavailable."""
        self._closed = True  # on the loop, so that no job comes after the thread's end
        os.eventfd_write(self._wake, 1)
        await asyncio.to_thread(self._bury)

    def _bury(self) -> None:
        if self._sandbox is not None:
            self._sandbox.stop()
        self._thread.join()
        os.close(self._wake)

    async def _ask(self, job: _Job) -> Any:
        if self._closed:
            raise Unavailable("the model is being unloaded", code="unloading")
        self._pending += 1
        self.used = time.monotonic()
        self._waiting.append(job)
        os.eventfd_write(self._wake, 1)
        try:
            return await job.future
        finally:
            self._pending -= 1
            self.used = time.monotonic()

    # -- below: on the model's own thread ------------------------------------------------------

    def _live(self) -> None:
        selector = selectors.DefaultSelector()
        selector.register(self._wake, selectors.EVENT_READ)
        try:
            while not self._closed:
                self._listen(selector)
                if not self._closed:
                    self._begin_more()
        finally:
            selector.close()
            if self._sandbox is not None:
                self._sandbox.close()
            stopped = Unavailable("the model was unloaded", code="unloading")
            for job in [*self._under_way, *self._waiting]:
                self._settle(job, stopped)

    def _listen(self, selector: selectors.BaseSelector) -> None:
        """Wait for a new job, an answer, or the deadline of the oldest call."""
        watched = self._sandbox if self._under_way else None
        if watched is not None:
            selector.register(watched, selectors.EVENT_READ)
        left = max(0.0, self._deadline - time.monotonic()) if watched else None
        ready = [key.fileobj for key, _ in selector.select(left)]
        if watched is not None:
            selector.unregister(watched)
        if self._wake in ready:
            os.eventfd_read(self._wake)
        if self._closed:
            return
        if watched is not None and watched in ready:
            self._finish(watched)
        elif watched is not None and time.monotonic() >= self._deadline:
            watched.close()
            self._lost(ModelFailure("model_timeout"))

    def _finish(self, sandbox: Sandbox) -> None:
        try:
            answer = sandbox.finish()
        except ModelFailure as failure:
            self._lost(failure)
            return
        self._settle(self._under_way.popleft(), answer)
        self._deadline = time.monotonic() + sandbox.limits.wall_seconds

    def _lost(self, failure: ModelFailure) -> None:
        """Calls are answered in order: it was the oldest one that failed."""
        self._settle(self._under_way.popleft(), failure)
        if failure.fatal:
            self._sandbox = None
            self._waiting.extendleft(reversed(self._under_way))
            self._under_way.clear()
        elif self._sandbox is not None:
            self._deadline = time.monotonic() + self._sandbox.limits.wall_seconds

    def _begin_more(self) -> None:
        while self._waiting and len(self._under_way) < UNDER_WAY:
            job = self._waiting.popleft()
            if job.future.done():
                continue
            try:
                if not self._begin(job):
                    self._waiting.appendleft(job)
                    return
            except ModelFailure as failure:
                self._lost(failure) if job in self._under_way else self._settle(job, failure)
            except BaseException as error:  # noqa: BLE001
                self._settle(job, error)

    def _begin(self, job: _Job) -> bool:
        """Begin a call, or renew the process; False: not while others are under way."""
        if job.gather is None:
            if self._under_way:
                return False
            if self._sandbox is None or not self._untouched:
                self._start()
            self._settle(job, self.session)
            return True
        if job.inputs is None:
            job.inputs = job.gather()
        if self._sandbox is None:
            self._start()
        sandbox = self._sandbox
        assert sandbox is not None
        both = [job, *self._under_way]
        if self._under_way and not all(sandbox.fits(j.inputs or {}) for j in both):
            return False
        if not self._under_way:
            self._deadline = time.monotonic() + sandbox.limits.wall_seconds
        self._untouched = False
        self._under_way.append(job)
        try:
            sandbox.begin(job.inputs, job.outputs)
        except ModelFailure:
            raise  # of the oldest call
        except BaseException:
            self._under_way.pop()
            raise
        return True

    def _start(self) -> None:
        if self._sandbox is not None:
            self._sandbox.close()
            self._sandbox = None
        sandbox = self._start_sandbox()
        self._sandbox, self._untouched = sandbox, True  # before it loads, so that `close` kills it
        try:
            if self._closed:
                raise Unavailable("the model is being unloaded", code="unloading")
            info = sandbox.load(self._files)
        except BaseException:
            sandbox.close()
            self._sandbox = None
            raise
        self.session = Session(info, dict(sandbox.level), dict(sandbox.execution))
        self.restarts += 1

    def _settle(self, job: _Job, outcome: Any) -> None:
        def settle() -> None:
            if job.future.done():
                return
            if isinstance(outcome, BaseException):
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome)

        with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
            self._loop.call_soon_threadsafe(settle)
