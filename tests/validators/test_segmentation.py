"""Segmentation: its table, its endpoints, and that withheld predictions never help."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pydantic import ValidationError

from registry.trust.errors import Invalid
from validators.intervals.mean import mean
from validators.metrics import segmentation
from validators.metrics.measure import Undefined
from validators.metrics.segmentation_table import (
    KINDS,
    SegmentationTable,
    read_segmentation,
    segmentation_row,
)
from validators.protocol.tasks import SegmentationSettings, Structure

LIVER = SegmentationSettings(
    structures=(Structure(name="liver", tolerance=2.0),), maximum_distance=50.0
)
TWO = SegmentationSettings(
    structures=(Structure(name="liver", tolerance=2.0), Structure(name="tumour", tolerance=1.0)),
    maximum_distance=50.0, maximum_volume_error=0.5,
)  # fmt: skip
HEADER = "case,patient,dice_liver,nsd_liver,hd95_liver,volume_error_liver"
GATING = [f"{kind}_liver" for kind in KINDS]


def _table(seed: int, n: int = 60, patients: int = 40, failed: int = 0) -> SegmentationTable:
    rng = np.random.default_rng(seed)
    patient = rng.integers(0, patients, n)
    shift = rng.normal(size=patients)[patient]
    values = {
        "dice_liver": rng.beta(9, 1 + 0.2 * shift**2, n),
        "nsd_liver": rng.beta(8, 2, n),
        "hd95_liver": rng.gamma(2, 5, n),
        "volume_error_liver": 0.1 * shift + rng.normal(0, 0.2, n),
    }
    lost = rng.permutation(n)[:failed]
    return SegmentationTable(values=_without(values, lost), patient=patient)


def _without(values: dict[str, Any], lost: Any) -> dict[str, Any]:
    kept = {name: of.copy() for name, of in values.items()}
    for of in kept.values():
        of[lost] = np.nan
    return kept


def _read(
    folder: Path, text: str, settings: SegmentationSettings = LIVER, **columns: str
) -> SegmentationTable:
    path = folder / "table.csv"
    path.write_text(text)
    return read_segmentation(path, settings, (), True, columns)


def _refusal(folder: Path, text: str, settings: SegmentationSettings = LIVER) -> str:
    with pytest.raises(Invalid) as refused:
        _read(folder, text, settings)
    assert "\n" not in refused.value.message
    assert "secret" not in refused.value.message
    return refused.value.message


def test_a_row_of_masks_becomes_a_table() -> None:
    reference = np.zeros((8, 8, 8), bool)
    reference[2:6, 2:6, 2:6] = True
    empty = np.zeros_like(reference)
    row = segmentation_row(
        {"liver": reference, "tumour": reference}, {"liver": reference, "tumour": empty},
        (1.0, 1.0, 2.0), TWO,
    )  # fmt: skip
    assert row == {
        "dice_liver": 1.0, "nsd_liver": 1.0, "hd95_liver": 0.0, "volume_error_liver": 0.0,
        "dice_tumour": 0.0, "nsd_tumour": 0.0, "hd95_tumour": 50.0, "volume_error_tumour": -0.5,
    }  # fmt: skip
    with pytest.raises(Invalid, match="the prediction has no mask of 'tumour'"):
        segmentation_row({"liver": empty, "tumour": empty}, {"liver": empty}, (1.0, 1.0, 1.0), TWO)


def test_a_table_is_read(tmp_path: Path) -> None:
    table = _read(
        tmp_path, f"{HEADER},failure\na,01,0.9,0.8,12,-0.1,\nb,1,,,,,timeout\nc,01,1,1,0,0,\n"
    )
    assert table.n == 3
    assert table.failed.tolist() == [False, True, False]
    assert table.patient is not None
    assert table.patient.tolist() == [0, 1, 0]
    assert table.failed_by_code == {"timeout": 1}
    assert table.values["volume_error_liver"][0] == -0.1
    assert "0.9" not in repr(table)
    assert not table.values["dice_liver"].flags.writeable
    left = table.subset(~table.failed)
    assert (left.n, left.failed_by_code) == (2, {})


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("a,1,0.9,0.8,12,", "volume_error_liver is empty or NaN in 1 rows; give them a value"),
        ("a,1,nan,nan,nan,nan", "dice_liver is empty or NaN in 1 rows"),
        ("a,1,1.9,0.8,12,0", "dice_liver lies outside 0 to 1 in 1 rows"),
        ("a,1,0.9,0.8,-12,0", "hd95_liver lies outside 0 upwards in 1 rows"),
        ("a,1,0.9,0.8,inf,0", "hd95_liver is not a finite number in 1 rows"),
        ("a,1,0.9,secret,12,0", "nsd_liver is not a finite number in 1 rows"),
        ("a,,0.9,0.8,12,0", "patient is empty in 1 rows"),
        ("a,1,0.9,0.8,12,0\na,1,0.9,0.8,12,0", "1 rows repeat a case id"),
    ],
)
def test_a_wrong_table_gets_one_clear_line(tmp_path: Path, rows: str, says: str) -> None:
    assert says in _refusal(tmp_path, f"{HEADER}\n{rows}\n")


def test_values_beside_a_failure_code_and_a_missing_structure(tmp_path: Path) -> None:
    text = f"{HEADER},failure\na,1,0.9,0.8,12,0,timeout\n"
    assert "have a value and a failure code" in _refusal(tmp_path, text)
    text = f"{HEADER}\na,1,0.9,0.8,12,0\n"
    assert "table.csv has no column 'dice_tumour'" in _refusal(tmp_path, text, TWO)
    with pytest.raises(Invalid, match="reads no column 'dice_lung'"):
        _read(tmp_path, text, dice_lung="x")


def _save(path: Path, **arrays: Any) -> None:
    np.savez_compressed(path, **arrays)


def test_mask_files_are_read_and_compared(tmp_path: Path) -> None:
    labels = np.zeros((6, 6, 6), np.uint8)
    labels[1:4, 1:4, 1:4], labels[4, 4, 4] = 1, 2
    spacing = np.array([1.0, 1.0, 2.0])
    _save(tmp_path / "r.npz", mask=labels, spacing=spacing)
    _save(tmp_path / "p.npz", mask=np.where(labels == 2, 0, labels), spacing=spacing)
    text = (
        "case,patient,reference_path,prediction_path,failure\n"
        "a,1,r.npz,p.npz,\nb,2,r.npz,r.npz,\nc,3,r.npz,,timeout\n"
    )
    table = _read(tmp_path, text, TWO)
    assert table.values["dice_liver"][:2].tolist() == [1.0, 1.0]
    assert table.values["dice_tumour"][:2].tolist() == [0.0, 1.0]
    assert table.values["hd95_tumour"][:2].tolist() == [50.0, 0.0]
    assert table.failed.tolist() == [False, False, True]
    all_failed = text.splitlines()[0] + "\nc,3,r.npz,,timeout\n"
    assert _read(tmp_path, all_failed, TWO).failed.all()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("a,1,r.npz,missing.npz,", "prediction_path names in row 1 does not exist"),
        ("a,1,../r.npz,r.npz,", "reference_path names in row 1 does not exist in the table's"),
        ("a,1,/etc/passwd,r.npz,", "does not exist in the table's folder"),
        ("a,1,r.npz,text.npz,", "no NumPy archive"),
        ("a,1,r.npz,objects.npz,", "no NumPy archive"),
        ("a,1,r.npz,cut.npz,", "no NumPy archive"),
        ("a,1,r.npz,no_spacing.npz,", "no NumPy archive"),
        ("a,1,r.npz,floats.npz,", "whole numbers"),
        ("a,1,r.npz,labels.npz,", "labels other than 0 to 1"),
        ("a,1,r.npz,other_spacing.npz,", "masks, r.npz and other_spacing.npz, differ in spacing"),
        ("a,1,r.npz,other_shape.npz,", "masks, r.npz and other_shape.npz, differ in shape"),
        ("a,1,r.npz,,", "prediction_path is empty in 1 rows"),
        ("a,1,r.npz,r.npz,timeout", "have a file and a failure code"),
    ],
)
def test_wrong_mask_files_get_one_clear_line(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "in").mkdir()
    folder = tmp_path / "in"
    mask, spacing = np.ones((4, 4), np.uint8), np.array([1.0, 1.0])
    for where in (tmp_path, folder):
        _save(where / "r.npz", mask=mask, spacing=spacing)
    _save(folder / "no_spacing.npz", mask=mask)
    _save(folder / "floats.npz", mask=mask / 2, spacing=spacing)
    _save(folder / "labels.npz", mask=mask * 2, spacing=spacing)
    _save(folder / "other_spacing.npz", mask=mask, spacing=spacing * 2)
    _save(folder / "other_shape.npz", mask=mask[1:], spacing=spacing)
    _save(folder / "objects.npz", mask=np.array([{}]), spacing=spacing)
    (folder / "text.npz").write_text("secret")
    (folder / "cut.npz").write_bytes((folder / "r.npz").read_bytes()[:200])
    header = "case,patient,reference_path,prediction_path,failure"
    assert says in _refusal(folder, f"{header}\n{line}\n")


def test_the_table_refuses_what_breaks_its_rules() -> None:
    good = _table(1, 5).values
    with pytest.raises(Invalid, match="some of their values only"):
        SegmentationTable(values={**good, "dice_liver": np.array([0.5, 0.5, 0.5, 0.5, np.nan])})
    with pytest.raises(Invalid, match="1 of 5 values of dice_liver are not possible"):
        SegmentationTable(values={**good, "dice_liver": np.array([0.5, 0.5, 0.5, 0.5, 1.5])})
    with pytest.raises(Invalid, match="has 4 rows"):
        SegmentationTable(values={**good, "nsd_liver": np.ones(4)})
    with pytest.raises(Invalid, match="no case"):
        SegmentationTable(values={name: np.zeros(0) for name in good})
    with pytest.raises(Invalid, match="failure code"):
        SegmentationTable(values=good, failed_by_code={"timeout": 1})


def test_two_structures_of_one_name_are_refused() -> None:
    with pytest.raises(ValidationError, match="same name"):
        SegmentationSettings(structures=LIVER.structures * 2, maximum_distance=50.0)


def test_measures_are_named_for_structures_and_know_their_scale() -> None:
    found = segmentation.measures(TWO)
    assert len(found) == 2 * len(segmentation.MEASURES)
    assert (found["hd95_tumour"].high, found["hd95_tumour"].direction) == (50.0, "lower")
    assert (found["volume_error_liver"].low, found["volume_error_liver"].high) == (-0.5, 0.5)
    assert not found["upper_limit_liver"].gates
    assert found["upper_limit_liver"].why_not


def test_values_with_failed_cases_at_the_worst() -> None:
    table = SegmentationTable(
        values={
            "dice_liver": np.array([0.9, 0.7, np.nan]), "nsd_liver": np.array([0.8, 0.6, np.nan]),
            "hd95_liver": np.array([5.0, 80.0, np.nan]),
            "volume_error_liver": np.array([0.2, 3.0, np.nan]),
        }
    )  # fmt: skip
    value = {name: _value(table, name) for name in GATING}
    assert value["dice_liver"] == pytest.approx(1.6 / 3)
    assert value["nsd_liver"] == pytest.approx(1.4 / 3)
    assert value["hd95_liver"] == pytest.approx((5 + 50 + 50) / 3)
    assert value["volume_error_liver"] == pytest.approx((0.2 + 1 + 1) / 3)
    best = {name: _value(table, name, failed_is_right=True) for name in GATING}
    assert best["dice_liver"] == pytest.approx(2.6 / 3)
    assert best["hd95_liver"] == pytest.approx(55 / 3)
    assert best["volume_error_liver"] == pytest.approx(1.2 / 3)


def _value(table: SegmentationTable, metric: str, **options: bool) -> float:
    found = segmentation.side(table, metric, LIVER, **options)
    assert not isinstance(found, Undefined)
    return found.value


@examples(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(1, 20), st.integers(0, 3))
def test_intervals_hold_the_value_within_the_scale(
    seed: int, n: int, patients: int, failed: int
) -> None:
    table = _table(seed, n, patients, min(failed, n))
    for name, measure in segmentation.measures(LIVER).items():
        found = segmentation.side(table, name, LIVER)
        if isinstance(found, Undefined):
            assert name in ("lower_limit_liver", "upper_limit_liver")
            assert found.reason
            continue
        low, high = found.gating(0.025)
        assert measure.low is not None
        assert measure.high is not None
        assert measure.low <= low <= found.value <= high <= measure.high
        assert low < high


@examples(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(0, 2), st.booleans())
def test_a_withheld_prediction_never_helps(
    seed: int, patients: int, failed: int, worst: bool
) -> None:
    table = _table(seed, 30, patients, failed)
    order = np.argsort(table.values["dice_liver"])
    lost = int(order[0 if worst else len(order) // 2])
    fewer = SegmentationTable(values=_without(dict(table.values), lost), patient=table.patient)
    for name in GATING:
        before, after = (segmentation.side(of, name, LIVER) for of in (table, fewer))
        assert not isinstance(before, Undefined)
        assert not isinstance(after, Undefined)
        (low, high), (low_now, high_now) = before.gating(0.025), after.gating(0.025)
        direction = segmentation.measures(LIVER)[name].direction
        if direction in ("higher", "band"):
            assert low_now <= low + 1e-12
        if direction in ("lower", "band"):
            assert high_now >= high - 1e-12


@examples(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_the_order_of_cases_does_not_matter(seed: int) -> None:
    table = _table(seed, failed=2)
    order = np.random.default_rng(seed).permutation(table.n)
    assert table.patient is not None
    other = SegmentationTable(
        values={name: of[order] for name, of in table.values.items()}, patient=table.patient[order]
    )
    for name in segmentation.measures(LIVER):
        first, second = (segmentation.side(of, name, LIVER) for of in (table, other))
        assert type(first) is type(second)
        if not isinstance(first, Undefined) and not isinstance(second, Undefined):
            assert second.gating(0.025) == pytest.approx(first.gating(0.025))


def test_a_case_repeated_for_its_patient_is_no_new_evidence() -> None:
    table = _table(5, 40, 40)
    twice = SegmentationTable(
        values={name: np.tile(of, 2) for name, of in table.values.items()},
        patient=np.tile(np.arange(40), 2),
    )
    once = SegmentationTable(values=table.values, patient=np.arange(40))
    for name in GATING:
        first, second = (segmentation.side(of, name, LIVER) for of in (once, twice))
        assert not isinstance(first, Undefined)
        assert not isinstance(second, Undefined)
        assert second.gating(0.025) == pytest.approx(first.gating(0.025))


def test_the_mean_is_the_bounded_mean_and_the_limits_are_those_of_bland_and_altman() -> None:
    table = _table(8, 80, 50)
    found = segmentation.side(table, "dice_liver", LIVER)
    direct = mean(table.values["dice_liver"], (0.0, 1.0), table.patient)
    assert not isinstance(found, Undefined)
    assert found.gating(0.05) == direct.gating(0.05)
    errors = np.clip(table.values["volume_error_liver"], -1, 1)
    for name, sign in (("lower_limit_liver", -1), ("upper_limit_liver", 1)):
        limit = segmentation.side(table, name, LIVER)
        assert not isinstance(limit, Undefined)
        assert limit.value == pytest.approx(errors.mean() + sign * 1.96 * errors.std(ddof=1), 1e-4)


def test_equal_values_have_an_interval_with_a_width() -> None:
    perfect = {"dice_liver": 1.0, "nsd_liver": 1.0, "hd95_liver": 0.0, "volume_error_liver": 0.0}
    table = SegmentationTable(
        values={name: np.full(100, of) for name, of in perfect.items()}, patient=np.arange(100)
    )
    for name in GATING:
        found = segmentation.side(table, name, LIVER)
        assert not isinstance(found, Undefined)
        low, high = found.gating(0.025)
        assert high - low > 0.03


def test_figures_draw_shares_and_no_single_case() -> None:
    table = _table(3, 50, 20, failed=5)
    drawn = segmentation.figures(table, LIVER)
    assert [of.name for of in drawn] == list(KINDS)
    dice = drawn[0]
    assert not isinstance(dice, segmentation.Matrix)
    points = dice.series[0].points
    assert len(points) == 41
    assert points[0] == (0.0, 0.1)
    assert points[-1] == (1.0, 1.0)
