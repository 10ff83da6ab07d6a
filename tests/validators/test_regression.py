"""Measurements: their table, their endpoints, and that withheld predictions never help."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from registry.trust.errors import Invalid
from validators.metrics import regression
from validators.metrics.figure import Figure
from validators.metrics.measure import Undefined
from validators.metrics.regression_table import RegressionTable, read_regression
from validators.protocol.tasks import RegressionSettings

TAIL = 0.025
DIAMETER = RegressionSettings(unit="mm", lowest=0.0, highest=100.0)
METRICS = list(regression.MEASURES)
LIMITS = ("lower_limit", "upper_limit")


def _table(
    seed: int, n: int = 90, patients: int | None = 45, failed: int = 0, noise: float = 6.0
) -> RegressionTable:
    rng = np.random.default_rng(seed)
    reference = rng.gamma(4, 8, n).clip(0, 100)
    patient = None if patients is None else rng.integers(0, patients, n)
    error = rng.normal(1, noise, n)
    if patient is not None:
        error += rng.normal(0, noise, patients)[patient]
    table = RegressionTable(reference=reference, prediction=reference + error, patient=patient)
    return _without(table, rng.permutation(n)[:failed])


def _without(table: RegressionTable, lost: Any) -> RegressionTable:
    prediction = table.prediction.copy()
    prediction[lost] = np.nan
    return RegressionTable(reference=table.reference, prediction=prediction, patient=table.patient)


def _rows(table: RegressionTable, rows: Any) -> RegressionTable:
    return RegressionTable(
        reference=table.reference[rows], prediction=table.prediction[rows],
        patient=None if table.patient is None else table.patient[rows],
    )  # fmt: skip


def _side(table: RegressionTable, metric: str, **options: Any) -> Any:
    found = regression.side(table, metric, DIAMETER, **options)
    assert not isinstance(found, Undefined), found
    return found


def _read(folder: Path, text: str, *, clustered: bool = False, **columns: str) -> RegressionTable:
    path = folder / "table.csv"
    path.write_text(text)
    return read_regression(path, DIAMETER, (), clustered, columns)


# --- the table


def test_a_table_is_read(tmp_path: Path) -> None:
    table = _read(
        tmp_path,
        "case,patient,reference,size,failure\na,01,12.5,13,\nb,1,-3,,timeout\nc,01,1e1,250,\n",
        clustered=True, prediction="size",
    )  # fmt: skip
    assert table.reference.tolist() == [12.5, -3, 10]
    assert table.prediction[[0, 2]].tolist() == [13, 250]
    assert table.failed.tolist() == [False, True, False]
    assert table.failed_by_code == {"timeout": 1}
    assert table.patient is not None
    assert table.patient.tolist() == [0, 1, 0]
    assert "12.5" not in repr(table)
    assert not table.prediction.flags.writeable
    left = table.subset(~table.failed)
    assert (left.n, left.failed_by_code) == (2, {})


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("a,secret,3,", "reference is not a finite number in 1 rows"),
        ("a,,3,", "reference is empty in 1 rows"),
        ('a,3,"4,5",', "write decimals with a point"),
        ("a,3,inf,", "prediction is not a finite number in 1 rows"),
        ("a,3,1e999,", "prediction is infinite in 1 of 1 cases"),
        ("a,3,,", "prediction is empty or NaN in 1 rows; fill them, or declare"),
        ("a,3,3,timeout", "1 rows have a prediction and a failure code"),
        ("a,3,3,\na,4,4,", "1 rows repeat a case id"),
    ],
)
def test_a_wrong_table_gets_one_clear_line(tmp_path: Path, rows: str, says: str) -> None:
    with pytest.raises(Invalid) as refused:
        _read(tmp_path, f"case,reference,prediction,failure\n{rows}\n")
    assert says in refused.value.message
    assert "\n" not in refused.value.message
    assert "secret" not in refused.value.message


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="has no column 'prediction'"):
        _read(tmp_path, "case,reference,predicted\na,1,1\n")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"reference": [1.0, np.nan]}, "1 of 2 cases have no reference standard"),
        ({"reference": [1.0, np.inf]}, "reference is infinite in 1 of 2 cases"),
        ({"prediction": ["1", "2"]}, "prediction must hold numbers"),
        ({"prediction": [1.0]}, "the column prediction has 1 rows"),
        ({"reference": [], "prediction": []}, "there is no case to score"),
        ({"failed_by_code": {"timeout": 1}}, "1 cases have a failure code, and only 0 failed"),
    ],
)
def test_a_table_checks_itself(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(Invalid, match=says):
        RegressionTable(**{"reference": [1.0, 2.0], "prediction": [1.0, 2.0], **fields})


# --- the endpoints


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("patients", [None, 45])
def test_values_are_scikit_learn_s_and_lin_s(seed: int, patients: int | None) -> None:
    from sklearn import metrics

    table = _table(seed, patients=patients)
    x, y = table.reference, np.clip(table.prediction, 0, 100)
    lin = 2 * np.cov(x, y, ddof=0)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    expected = {
        "mae": metrics.mean_absolute_error(x, y),
        "rmse": metrics.root_mean_squared_error(x, y),
        "bias": float((y - x).mean()),
        "ccc": float(lin),
    }
    for metric, value in expected.items():
        found = _side(table, metric)
        assert found.value == pytest.approx(value, abs=1e-9)
        low, high = found.gating(TAIL)
        assert low < value < high


def test_values_outside_the_range_count_as_its_end() -> None:
    reference = np.tile([10.0, 120.0], 20)
    found = _side(RegressionTable(reference=reference, prediction=np.full(40, 500.0)), "mae")
    assert found.value == pytest.approx((90 + 0) / 2)


def test_a_failed_prediction_is_an_error_as_large_as_the_range() -> None:
    table = _without(_table(1, n=40, patients=None, noise=0.0), np.arange(4))
    assert _side(table, "mae").value == pytest.approx(0.1 * 100 + 0.9 * 1, abs=0.1)
    assert _side(table, "rmse").value == pytest.approx(np.sqrt(0.1 * 100**2 + 0.9), abs=0.1)
    low, high = _side(table, "bias").gating(TAIL)
    assert low < -9
    assert high > 11
    assert _side(table, "lower_limit").value < -50
    assert _side(table, "upper_limit").value > 50


@pytest.mark.parametrize("metric", ["mae", "bias", "ccc", "rmse"])
@examples(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), noise=st.sampled_from([0.0, 5.0, 80.0]))
def test_a_withheld_prediction_never_improves_a_bound(metric: str, seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    table = _table(seed, failed=int(rng.integers(0, 20)), noise=noise)
    fewer = _without(table, rng.permutation(table.n)[: rng.integers(1, 20)])
    direction = regression.MEASURES[metric].direction
    for tail in (0.005, TAIL):
        (low, high), (lower, higher) = (_side(of, metric).gating(tail) for of in (table, fewer))
        if direction in ("higher", "band"):
            assert lower <= low + 1e-9
        if direction in ("lower", "band"):
            assert higher >= high - 1e-9
        value, scale = _side(fewer, metric).value, regression.measures(DIAMETER)[metric]
        assert scale.low is not None
        assert scale.high is not None
        assert scale.low <= lower <= value + 1e-9 <= higher + 2e-9 <= scale.high + 3e-9
        assert higher - lower > 1e-3
    best, best_of_fewer = (_side(of, metric, failed_is_right=True) for of in (table, fewer))
    sign = {"higher": 1, "lower": -1, "band": 0}[direction]
    assert sign * (best_of_fewer.value - best.value) >= -1e-9


@pytest.mark.parametrize("metric", METRICS)
def test_the_order_of_cases_does_not_matter(metric: str) -> None:
    table = _table(3, failed=5)
    rows = np.random.default_rng(0).permutation(table.n)
    found = [_side(of, metric) for of in (table, _rows(table, rows))]
    assert found[0].value == pytest.approx(found[1].value)
    assert found[0].gating(TAIL) == pytest.approx(found[1].gating(TAIL))


@pytest.mark.parametrize("metric", ["mae", "bias", "ccc", "rmse"])
def test_cases_repeated_within_their_patients_add_nothing(metric: str) -> None:
    table = _table(4, failed=5)
    found = [_side(of, metric) for of in (table, _rows(table, np.repeat(np.arange(table.n), 3)))]
    assert found[0].value == pytest.approx(found[1].value)
    assert found[0].gating(TAIL) == pytest.approx(found[1].gating(TAIL))


@pytest.mark.parametrize("metric", METRICS)
def test_the_unit_does_not_matter(metric: str) -> None:
    table, inches = _table(5, failed=3), 1 / 25.4
    other = RegressionTable(
        reference=table.reference * inches, prediction=table.prediction * inches,
        patient=table.patient,
    )  # fmt: skip
    settings = RegressionSettings(unit="in", lowest=0.0, highest=100 * inches)
    theirs = regression.side(other, metric, settings)
    assert not isinstance(theirs, Undefined)
    factor = 1 if metric == "ccc" else inches
    ours = _side(table, metric)
    assert theirs.value == pytest.approx(ours.value * factor)
    assert theirs.gating(TAIL) == pytest.approx(
        tuple(bound * factor for bound in ours.gating(TAIL))
    )


def test_a_bias_turns_with_the_sign_and_a_concordance_does_not() -> None:
    table = _table(6)
    turned = RegressionTable(
        reference=100 - table.reference, prediction=100 - table.prediction, patient=table.patient
    )
    low, high = _side(table, "bias").gating(TAIL)
    assert _side(turned, "bias").gating(TAIL) == pytest.approx((-high, -low))
    assert _side(turned, "ccc").value == pytest.approx(_side(table, "ccc").value)
    assert _side(turned, "lower_limit").value == pytest.approx(-_side(table, "upper_limit").value)


def test_perfect_constant_and_missing_predictions_have_defined_answers() -> None:
    reference = np.linspace(10, 90, 50)
    perfect = RegressionTable(reference=reference, prediction=reference)
    flat = RegressionTable(reference=reference, prediction=np.full(50, 40.0))
    silent = RegressionTable(reference=reference, prediction=np.full(50, np.nan))
    assert _side(perfect, "ccc").value == 1
    assert _side(perfect, "mae").gating(TAIL)[1] == pytest.approx(100 * (1 - TAIL ** (1 / 50)))
    assert _side(flat, "ccc").value == pytest.approx(0, abs=1e-12)
    assert _side(silent, "mae").value == 100
    assert _side(silent, "ccc").value < 0
    for table in (perfect, flat, silent):
        for metric in ("mae", "bias", "ccc", "rmse"):
            low, high = _side(table, metric).gating(TAIL)
            assert high - low > 0.01


def test_a_reference_that_does_not_vary_gives_a_reason() -> None:
    table = RegressionTable(reference=np.full(40, 5.0), prediction=np.linspace(1, 9, 40))
    found = regression.side(table, "ccc", DIAMETER)
    assert isinstance(found, Undefined)
    assert found.reason == "it has no value on these cases"
    assert found.value is None


def test_few_patients_have_values_without_intervals() -> None:
    table = _table(7, n=60, patients=12)
    for metric in ("ccc", "rmse", *LIMITS):
        found = regression.side(table, metric, DIAMETER)
        assert isinstance(found, Undefined)
        assert found.value is not None
        assert "too few to draw from" in found.reason
    one = RegressionTable(reference=[5.0], prediction=[6.0])  # type: ignore[arg-type]
    found = regression.side(one, "lower_limit", DIAMETER)
    assert isinstance(found, Undefined)
    assert found.value is None


def test_what_may_decide() -> None:
    of = regression.measures(DIAMETER)
    assert [name for name, measure in of.items() if measure.gates] == ["mae", "bias", "ccc"]
    assert (of["bias"].low, of["bias"].high, of["bias"].unit) == (-100, 100, "mm")
    assert (of["ccc"].low, of["ccc"].high, of["ccc"].unit) == (-1, 1, "")
    with pytest.raises(ValueError, match="no metric"):
        regression.side(_table(1), "r2", DIAMETER)


def test_figures_show_groups_and_no_single_case() -> None:
    table = _table(8, n=500, patients=200, failed=40)
    agreement, observed = regression.figures(table, DIAMETER)
    assert isinstance(agreement, Figure)
    assert isinstance(observed, Figure)
    assert len(agreement.series[0].points) == 10
    assert [series.label for series in agreement.series[1:]] == [
        "bias", "lower limit", "upper limit",
    ]  # fmt: skip
    kept = table.subset(~table.failed)
    assert agreement.series[1].points[0][1] == pytest.approx(_side(kept, "bias").value)
    assert agreement.series[2].points[0][1] == pytest.approx(_side(kept, "lower_limit").value)
    assert "460 of 500 cases" in observed.explanation
    y = np.array(observed.series[0].points)[:, 1]
    assert y.mean() == pytest.approx(float(np.mean(kept.reference)), abs=0.5)
    single = set(kept.reference.tolist()) | set(kept.prediction.tolist())
    assert not single & {value for point in observed.series[0].points for value in point}


def test_figures_of_equal_or_missing_values() -> None:
    flat = RegressionTable(reference=np.full(40, 5.0), prediction=np.full(40, 6.0))
    drawn = regression.figures(flat, DIAMETER)
    assert isinstance(drawn[1], Figure)
    assert drawn[1].series[0].points == ((6.0, 5.0),)
    silent = RegressionTable(reference=np.full(40, 5.0), prediction=np.full(40, np.nan))
    assert regression.figures(silent, DIAMETER) == ()
