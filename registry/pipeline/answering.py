"""What is kept of a model's answers, and whether it gives them again: scores, or maps of labels.

Rules
-----
1. A part's file says what came of each of its cases; a map of labels lies beside it as an object of
   its own, under its digest, and the file names it. So one digest binds all answers of a part.
2. The files of all parts, put together in the order of the cohort, are the run's file.
3. The subset is answered again by a fresh process, which `repeat` starts, and only shards that hold
   some of it are read again.
"""

from collections.abc import Iterable, Sequence

from registry.audit.reads import note_read
from registry.pipeline.predicted_masks import joined_lists, listed, stored_masks
from registry.pipeline.predictions import answers_in, cases_of, predictions_file
from registry.pipeline.run import Run, shards_with
from registry.pipeline.work import Work
from serving.answering import Answers
from serving.calls import Model
from serving.client import Predictions, Repeatability, chosen_cases, repeat
from serving.masks import repeat_masks


def file_of(work: Work, answers: Sequence[Answers]) -> bytes:
    """The file of some shards' answers; maps of labels are stored."""
    if work.contract.reference is not None:
        return listed(work.facility.store, work.id, answers)
    return predictions_file(
        [case for of in answers for case in of.cases],
        [score for of in answers for score in of.values],
        [failure for of in answers for failure in of.failures],
    )


def joined(work: Work, files: Iterable[bytes]) -> bytes:
    """The file of a run, of the files of its parts in the cohort's order."""
    if work.contract.reference is not None:
        return joined_lists(files)
    return predictions_file(*answers_in(files))


def again(run: Run, sandbox: Model, data: bytes) -> Repeatability:
    """Whether the model gives a subset of the answers in the run's file again."""
    work, cases = run.work, cases_of(data)
    asked = work.protocol.repeatability.cases
    chosen = chosen_cases(cases, run.seed, asked)
    note_read(work.facility, work.row, "cohort-read", part="inputs")
    shards = run.shards(shards_with(run.manifest, cases, chosen))
    if work.contract.reference is not None:
        kept = stored_masks(work.facility.store, work.id, data)
        return repeat_masks(
            sandbox, shards, work.contract, kept, cases, order_seed=run.seed, cases=asked
        )
    return repeat(
        sandbox,
        shards,
        work.contract,
        Predictions(*answers_in([data])),
        threshold=work.protocol.decided_at or 0.0,  # binary: a segmentation gives masks
        cases=asked,
        order_seed=run.seed,
    )
