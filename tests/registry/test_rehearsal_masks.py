"""A segmentation tried at home: made-up masks, the model's own beside them, and no meaning."""

import csv
from pathlib import Path

import numpy as np
import pytest

from registry.pipeline.rehearsal import Rehearsal, rehearse
from tests.registry.test_pipeline_masks import body_of, thresholds
from tests.validators.masks_made import SHAPE, STRUCTURES, contract_of_masks
from validators.cohort.look_alike import MadeUp, make_look_alike
from validators.cohort.look_alike_folder import open_look_alike, write_look_alike
from validators.cohort.look_alike_masks import made_labels, made_spacing
from validators.protocol.read import parse_protocol
from validators.protocol.schema import Protocol

CASES = 24


def protocol() -> Protocol:
    return parse_protocol(body_of())


def cohort() -> MadeUp:
    return make_look_alike(protocol(), cases=CASES)


def tried(folder: Path, model: bytes, made: MadeUp) -> Rehearsal:
    (folder / "model.onnx").write_bytes(model)
    return rehearse(folder / "model.onnx", protocol(), made, folder / "out")


def test_made_up_masks_mark_every_structure_or_nothing_and_are_the_same_each_time():
    contract = contract_of_masks()
    for case in map(str, range(50)):
        labels = made_labels(contract, case, marked=True)
        assert labels.shape == SHAPE
        assert labels.dtype == np.uint8
        assert set(np.unique(labels)) <= {0, *STRUCTURES.values()}
        assert labels.any()
        assert (labels == made_labels(contract, case, marked=True)).all()
        assert not made_labels(contract, case, marked=False).any()
    assert (
        made_labels(contract, "a", marked=True) != made_labels(contract, "b", marked=True)
    ).any()
    assert made_spacing(contract).tolist() == [1.0, 1.0, 1.0]
    spaced = contract_of_masks(spacing_mm=[2.5, 1.0, 0.5], resample="linear")
    assert made_spacing(spaced).tolist() == [2.5, 1.0, 0.5]


def test_it_comes_to_a_verdict_from_files_that_anybody_can_look_at(tmp_path: Path):
    found = tried(tmp_path, thresholds(), cohort())
    assert [(stage.name, stage.outcome) for stage in found.stages] == [
        ("intake", "fine"), ("run", "fine"), ("repeat", "fine"), ("assess", "fine"),
    ]  # fmt: skip
    assert found.would_run
    assert found.verdict in ("pass", "fail", "insufficient_evidence")
    with (tmp_path / "out" / "predictions.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == found.cases == CASES
    for row in rows:
        truth = np.load(tmp_path / "out" / row["reference_path"])
        answer = np.load(tmp_path / "out" / row["prediction_path"])
        assert truth["mask"].shape == answer["mask"].shape == SHAPE
        assert (truth["spacing"] == answer["spacing"]).all()


def test_a_case_without_a_mask_is_named_and_has_no_file(tmp_path: Path):
    made = cohort()
    sums = [made.inputs(n)["ct"].sum(dtype=np.float64) for n in range(CASES)]
    limit = float(np.sort(sums)[2:4].mean())
    found = tried(tmp_path, thresholds(fails_below=limit), made)
    assert found.failed_by_code == {"output_range": 3}
    failed = {one["case"] for one in found.failed_cases}
    assert len(failed) == 3
    written = {path.name.split(".")[0] for path in (tmp_path / "out" / "masks").glob("*[0-9].npz")}
    assert written == set(made.columns["case"]) - failed


def test_a_folder_of_made_up_cases_gives_the_same_masks(tmp_path: Path):
    made = cohort()
    write_look_alike(made, tmp_path / "dummy", protocol())
    contract = protocol().contract
    assert contract is not None
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = tried(tmp_path / "a", thresholds(), made)
    folder = open_look_alike(tmp_path / "dummy", contract)
    (tmp_path / "b" / "model.onnx").write_bytes(thresholds())
    again = rehearse(tmp_path / "b" / "model.onnx", protocol(), folder, tmp_path / "b" / "out")
    assert first.rules == again.rules
    assert first.verdict == again.verdict


@pytest.mark.parametrize("task", ["regression", "detection"])
def test_what_no_cohort_is_run_by_is_still_refused(task: str):
    from registry.trust.errors import Refused

    other = protocol().model_copy(update={"task": task})
    with pytest.raises(Refused, match="alone"):
        make_look_alike(other)
