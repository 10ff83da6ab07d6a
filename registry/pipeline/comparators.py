"""The predictions of other models, which a protocol compares with, from the runs that made them."""

from registry.audit.reads import note_read
from registry.pipeline.predictions import stored_predictions
from registry.pipeline.work import Work
from registry.submissions.comparators import comparator_runs


def check_comparators(work: Work) -> None:
    """Raise Refused where a comparator has no run; asked before anything is decrypted."""
    _runs(work)


def comparator_predictions(work: Work) -> tuple[dict[str, bytes], dict[str, dict[str, str]]]:
    """(files by the comparator's name, which submission and digest each is)."""
    runs = _runs(work)
    files = {}
    for name, run in runs.items():
        note_read(work.facility, work.row, "predictions-read", comparator=name)
        files[name] = stored_predictions(work.facility, run["submission"], run["predictions"])
    return files, runs


def _runs(work: Work) -> dict[str, dict[str, str]]:
    with work.facility.record.transaction() as now:
        return comparator_runs(now, work.asked, work.row["cohort_id"], work.row["cohort_version"])
