"""Several sandboxed processes with the same model, one a core: shards are shared out among them.

    >>> with pool(work, files, manifest) as sandboxes:
    ...     predict(sandboxes, shards, contract, order_seed=seed)

Rules
-----
1. Every process is fresh, at the level that the protocol asks for, and watched over.
2. At an inference server there is one, which takes several calls at once: the server keeps one
   process a model, whoever asks. A CUDA device holds one as well.
3. How many there are is a matter of the host alone and changes nothing of what comes out
   (`serving.answering`): each computes on one thread.
4. No more than cores that this process may use, and no more than the cohort has shards.
"""

import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Final

from registry.pipeline.before import check_host, check_level
from registry.pipeline.killed import unless_killed
from registry.pipeline.work import Work
from serving.calls import Model
from validators.cohort.manifest import Manifest
from validators.cores import cores

MOST: Final = 16


@contextmanager
def pool(work: Work, files: dict[str, bytes], manifest: Manifest) -> Iterator[list[Model]]:
    """Sandboxes with the model loaded, for as long as the block lasts; `work.trace` notes it.

    Raises what a host that is not fit raises, before the model is loaded, and ModelFailure where
    the model can't be.
    """
    with ExitStack() as open_:
        sandboxes = []
        for _ in range(_size(work, manifest)):
            sandbox = open_.enter_context(work.start_sandbox())
            check_level(work, sandbox)
            sandboxes.append(sandbox)
        check_host(work)
        work.trace.model_had_a_hand = True
        for sandbox in sandboxes:
            unless_killed(sandbox, partial(sandbox.load, files))
            check_level(work, sandbox)  # a server tells of the process itself only now
        yield sandboxes


def _size(work: Work, manifest: Manifest) -> int:
    if work.facility.settings.inference is not None or work.facility.settings.device is not None:
        return 1
    return min(MOST, cores(), max(1, len(manifest.shards)))


def processor_seconds(models: Sequence[Model]) -> float | None:
    """What this worker and the processes that it started have had of the processors so far.

    None where a model runs at a server, which serves others too.
    """
    alive = [model.processor_seconds for model in models]
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = time.process_time() + ended.ru_utime + ended.ru_stime
    for seconds in alive:
        if seconds is None:
            return None
        total += seconds
    return total
