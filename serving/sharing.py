"""Share things out to a few workers in threads; what comes out is in the order of what went in.

    >>> for answers in share(sandboxes, shards, lambda sandbox, shard: …):
    ...     keep(answers)

Rules
-----
1. Things are taken from their source in the caller's own thread, one ahead of the workers.
2. The first error ends it: whoever was at work is waited for, nothing more is begun, and the error
   is raised where the results are read. So it does when the reader stops reading.
3. One worker needs no thread, and gets none.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

Worker = TypeVar("Worker")
Thing = TypeVar("Thing")
Result = TypeVar("Result")


def share(
    workers: Sequence[Worker],
    things: Iterable[Thing],
    work: Callable[[Worker, Thing], Result],
) -> Iterator[Result]:
    """Yield `work(worker, thing)` of each thing, in order; each worker does one at a time."""
    if len(workers) == 1:
        for thing in things:
            yield work(workers[0], thing)
        return
    free: SimpleQueue[Worker] = SimpleQueue()
    for worker in workers:
        free.put(worker)

    def with_a_worker(thing: Thing) -> Result:
        worker = free.get()
        try:
            return work(worker, thing)
        finally:
            free.put(worker)

    under_way: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(len(workers), thread_name_prefix="share") as threads:
        try:
            for thing in things:
                under_way.append(threads.submit(with_a_worker, thing))
                del thing
                while len(under_way) > len(workers) or (under_way and under_way[0].done()):
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            threads.shutdown(wait=True, cancel_futures=True)
