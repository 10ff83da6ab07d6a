"""A model's answers on a whole cohort, kept, and whether it gives them again.

Rules
-----
1. Each function returns the file of predictions, how far the answers repeat, and the level of the
   sandbox that gave them; masks are written as they come, so that a shard or two are in memory.
2. The subset is answered again by a fresh process, which `repeat` starts.
"""

from collections.abc import Callable, Iterator

from registry.pipeline.perturbed_runs import BATCH
from registry.pipeline.predicted_masks import MasksFile, stored_masks
from registry.pipeline.predictions import predictions_file
from registry.pipeline.work import Work
from serving.client import Repeatability, Shard, answered, predict, repeat
from serving.masks import batch_of, repeat_masks
from serving.sandbox.process import Sandbox

Answered = tuple[bytes, Repeatability, dict[str, int | bool | str]]
Shards = Callable[[], Iterator[Shard]]


def answer_scores(
    work: Work, sandbox: Sandbox, shards: Shards, seed: str, on_progress: Callable[[int], None]
) -> Answered:
    """One score a case."""
    contract, protocol = work.contract, work.protocol
    predictions = predict(
        sandbox, shards(), contract, batch_size=BATCH, order_seed=seed, on_progress=on_progress
    )
    level = dict(sandbox.level)
    again = repeat(
        sandbox,
        shards(),
        contract,
        predictions,
        threshold=protocol.decided_at or 0.0,  # binary: a segmentation gives masks
        cases=protocol.repeatability.cases,
        order_seed=seed,
        batch_size=BATCH,
    )
    data = predictions_file(predictions.cases, predictions.scores, predictions.failures)
    return data, again, level


def answer_masks(
    work: Work, sandbox: Sandbox, shards: Shards, seed: str, on_progress: Callable[[int], None]
) -> Answered:
    """One map of labels a case."""
    contract, store = work.contract, work.facility.store
    kept = MasksFile(store, work.id)
    for answers in answered(
        sandbox, shards(), contract, batch_size=batch_of(contract), order_seed=seed
    ):
        kept.keep(answers)
        on_progress(len(kept.cases))
    level, listed = dict(sandbox.level), kept.listed()
    again = repeat_masks(
        sandbox,
        shards(),
        contract,
        stored_masks(store, work.id, listed),
        kept.cases,
        order_seed=seed,
        cases=work.protocol.repeatability.cases,
    )
    return listed, again, level
