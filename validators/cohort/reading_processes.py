"""Processes in which files of any origin are read: with a limit on memory, and none left over.

Rules
-----
1. A process has a limit on its memory, so that a hostile file costs itself alone.
2. Processes end when the one that started them does, also when that one was killed.
"""

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import connection
from typing import Any

MEMORY = 12 << 30
"""Bytes of address space of one reading process."""


@contextlib.contextmanager
def reading_processes(
    count: int, begin: Callable[..., None] | None = None, *given: Any
) -> Iterator[ProcessPoolExecutor]:
    """A pool of `count` processes, each prepared by `begin(*given)`."""
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload(["validators.cohort.folder"])
    with ProcessPoolExecutor(
        count, context, initializer=_begin, initargs=(begin, *given)
    ) as pool:  # fmt: skip
        try:
            yield pool
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _begin(begin: Callable[..., None] | None, *given: Any) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    with contextlib.suppress(ImportError):
        import gdcm  # type: ignore[import-untyped]

        gdcm.Trace.WarningOff()
        gdcm.Trace.ErrorOff()
    if begin is not None:
        begin(*given)


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
