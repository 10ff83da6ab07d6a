"""The model label of a report that has every part, and of other task types."""

import datetime as dt

import pytest

from tests.validators.evidence_made import everything, report
from tests.validators.test_disclosure_tasks import endpoint, group, made
from validators.evidence import Report
from validators.protocol.schema import Disclosure
from validators.report.disclosure import release
from validators.report.label import WIDTH, model_label
from validators.sites.evidence import WithinSites

ALL = everything(failed_perturbed=15)


def label_of(value: Report, decimals: int = 2) -> str:
    released = release(value, "certified", Disclosure(minimum_group=10, decimals=decimals))
    return model_label(
        released, model="lumen/net 3", conditions=(), not_after=dt.datetime(2027, 1, 1)
    )


@pytest.mark.parametrize("decimals", [1, 2, 3])
def test_with_every_part_it_is_still_one_page_of_eighty_columns(decimals: int) -> None:
    lines = label_of(ALL, decimals).splitlines()
    assert len(lines) <= 70
    assert max(len(line) for line in lines) <= WIDTH


def test_every_part_is_said_in_one_line_each() -> None:
    lines = label_of(ALL).splitlines()
    assert lines[0] == "INVESTIGATIONAL: FOR A CLINICAL PILOT IN ASSISTIVE MODE"
    for begins in (
        "A pilot needs:  approval by an ethics committee",
        "Sampling:       enriched",
        "In between:     scores from 0.45",
        "AUC - clinic model",
        "AUC - the readers",
        "AUC, 6 hospitals",
        "sensitivity: noise, 40 HU",
        "AUC: blur, 0.75 pixels                  -  -                0.2  insufficient",
    ):
        assert sum(line.startswith(begins) for line in lines) == 1, begins
    assert any("Assistive: a clinician sees the result" in line for line in lines)
    assert not any("shadow mode" in line.lower() for line in lines)


def test_parts_that_were_not_asked_for_take_no_line() -> None:
    label = label_of(report())
    assert "SHADOW MODE" in label
    assert "In shadow mode: no result reaches the care of a patient" in label
    for absent in ("AGAINST OTHERS", "IN ANOTHER HOSPITAL", "UNDER DISTURBANCE", "A pilot needs",
                   "Sampling", "In between"):  # fmt: skip
        assert absent not in label


def test_hospitals_that_can_not_be_counted_are_withheld() -> None:
    few = ALL.sites[0].model_copy(update={"across": None})
    label = label_of(ALL.model_copy(update={"sites": (few,)}))
    assert "withheld  -" in label


def test_a_sign_that_reverses_within_hospitals_stands_below_its_group() -> None:
    first = ALL.subgroups[0]
    assert isinstance(first.within_sites, WithinSites)
    rows = tuple(
        first.model_copy(
            update={"within_sites": first.within_sites.model_copy(update={"reversal": reversal})}
        )
        for reversal in ("shown", "none")
    )
    label = label_of(ALL.model_copy(update={"subgroups": rows}))
    assert label.count("! within hospitals the gap has the other sign") == 1


@pytest.mark.parametrize("task", ["segmentation", "detection", "regression", "ordinal"])
def test_other_task_types_have_no_threshold_and_no_positives(task: str) -> None:
    label = label_of(made(task, [endpoint("mae", 300)], [group("a", "mae", 300)]))
    assert "Threshold" not in label
    assert "MEASURED ON 300 CASES\n" in label
    assert "mean absolute error" in label
