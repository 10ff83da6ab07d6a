"""Work on objects in threads, a few ahead of whoever takes the results, in order.

    >>> list(in_order(len, ["a", "bb", "ccc"], at_once=2))
    [1, 2, 3]

Rules
-----
1. Results come in the order of the items. No more than `at_once` are worked on or wait to be taken,
   so memory is theirs and the taker's one. Where results are small, `more` of them may wait: one
   slow item then does not hold up the others.
2. The first item, in order, whose work raises ends it all: its error is raised, nothing after it is
   given out.
3. When the caller leaves off, work that has begun is waited for and no other begins.

Hashing and encrypting let go of the interpreter for buffers of some size, and so do files: threads
use all cores.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from validators.cores import cores

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_MOST = 8


def threads() -> int:
    """One for each core that this process may use; no more than memory is meant for."""
    return min(_MOST, cores())


def in_order(
    work: Callable[[_Item], _Result], items: Iterable[_Item], *, at_once: int, more: int = 0
) -> Iterator[_Result]:
    """Yield work(item) for each item, `at_once` of them ahead."""
    waiting: deque[Future[_Result]] = deque()
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="cohort")
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) == at_once + more:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
