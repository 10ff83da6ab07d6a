"""The predictions of other models, which a protocol compares with, from the runs that made them."""

from registry.audit.reads import note_read
from registry.pipeline.work import Work
from registry.submissions.comparators import comparator_runs


def check_comparators(work: Work) -> None:
    """Raise Refused where a comparator has no run; asked before anything is decrypted."""
    _runs(work)


def comparator_files(work: Work) -> dict[str, dict[str, str]]:
    """By the comparator's name, which submission's predictions and their digest; their reading is
    noted."""
    runs = _runs(work)
    for name in runs:
        note_read(work.facility, work.row, "predictions-read", comparator=name)
    return runs


def _runs(work: Work) -> dict[str, dict[str, str]]:
    with work.facility.record.transaction() as now:
        return comparator_runs(now, work.asked, work.row["cohort_id"], work.row["cohort_version"])
