"""Multiclass and ordinal questions: their table, their endpoints, and that silence never helps."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from registry.trust.errors import Invalid
from validators.intervals.auc import area
from validators.intervals.macro_auc import macro_area
from validators.metrics import multiclass
from validators.metrics.figure import Figure, Matrix
from validators.metrics.measure import Undefined
from validators.metrics.multiclass_table import (
    FAILED,
    MulticlassTable,
    decided,
    read_multiclass,
)
from validators.protocol.tasks import ClassSettings

TAIL = 0.025
NAMES = ("benign", "doubtful", "malignant")
THREE = ClassSettings(names=NAMES)
SCORES = "score_benign,score_doubtful,score_malignant"
GATING = [name for name, of in multiclass.measures(THREE).items() if of.gates]


def _table(
    seed: int, n: int = 90, patients: int | None = 45, failed: int = 0, skill: float = 1.5
) -> MulticlassTable:
    rng = np.random.default_rng(seed)
    reference = rng.integers(0, 3, n)
    reference[:3] = 0, 1, 2
    patient = None if patients is None else rng.integers(0, patients, n)
    logits = rng.normal(size=(n, 3))
    if patient is not None:
        logits += rng.normal(size=(patients, 3))[patient]
    logits[np.arange(n), reference] += skill
    share = np.exp(logits)
    table = MulticlassTable(
        names=NAMES, reference=reference, patient=patient,
        prediction=decided(share), probability=share / share.sum(axis=1, keepdims=True),
    )  # fmt: skip
    return _without(table, rng.permutation(n)[:failed])


def _without(table: MulticlassTable, lost: Any) -> MulticlassTable:
    prediction = table.prediction.copy()
    prediction[lost] = FAILED
    probability = None if table.probability is None else table.probability.copy()
    if probability is not None:
        probability[lost] = np.nan
    return MulticlassTable(
        names=table.names, reference=table.reference, prediction=prediction,
        probability=probability, patient=table.patient,
    )  # fmt: skip


def _rows(table: MulticlassTable, rows: Any) -> MulticlassTable:
    return MulticlassTable(
        names=table.names, reference=table.reference[rows], prediction=table.prediction[rows],
        probability=None if table.probability is None else table.probability[rows],
        patient=None if table.patient is None else table.patient[rows],
    )  # fmt: skip


def _side(table: MulticlassTable, metric: str, **options: Any) -> Any:
    found = multiclass.side(table, metric, THREE, **options)
    assert not isinstance(found, Undefined), found
    return found


def _reason(table: MulticlassTable, metric: str) -> str:
    found = multiclass.side(table, metric, THREE)
    assert isinstance(found, Undefined)
    return found.reason


def _read(folder: Path, text: str, *, clustered: bool = False, **columns: str) -> MulticlassTable:
    path = folder / "table.csv"
    path.write_text(text)
    return read_multiclass(path, THREE, (), clustered, columns)


# --- the table


def test_probabilities_decide_where_no_decision_is_given(tmp_path: Path) -> None:
    table = _read(
        tmp_path,
        f"case,patient,reference,{SCORES},failure\na,01,benign,0.5,0.3,0.2,\n"
        "b,1,malignant,,,,timeout\nc,01,doubtful,0.1,0.45,0.45,\n",
        clustered=True,
    )
    assert table.prediction.tolist() == [0, FAILED, 1]
    assert table.reference.tolist() == [0, 2, 1]
    assert table.failed.tolist() == [False, True, False]
    assert table.failed_by_code == {"timeout": 1}
    assert table.patient is not None
    assert table.patient.tolist() == [0, 1, 0]
    assert "0.45" not in repr(table)
    assert not table.prediction.flags.writeable
    left = table.subset(~table.failed)
    assert (left.n, left.failed_by_code) == (2, {})


def test_a_decision_that_is_given_stands(tmp_path: Path) -> None:
    table = _read(tmp_path, f"case,reference,{SCORES},read\na,benign,0.6,0.3,0.1,malignant\n",
                  prediction="read")  # fmt: skip
    assert table.prediction.tolist() == [2]
    assert table.probability is not None


def test_decisions_alone_are_enough_but_rank_no_case(tmp_path: Path) -> None:
    table = _read(tmp_path, "case,reference,prediction\na,benign,benign\nb,malignant,doubtful\n")
    assert table.prediction.tolist() == [0, 1]
    assert table.probability is None
    for metric in ("macro_auc", "auc_benign"):
        assert _reason(table, metric) == (
            "the predictions are decisions without probabilities, so they rank no case"
        )


def test_parquet_is_read_too(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({
            "case": [1, 2], "reference": ["benign", "malignant"], "score_benign": [0.7, None],
            "score_doubtful": [0.2, float("nan")], "score_malignant": [0.1, None],
            "failure": [None, "timeout"],
        }),
        tmp_path / "t.parquet",
    )  # fmt: skip
    table = read_multiclass(tmp_path / "t.parquet", THREE, (), False, {})
    assert table.failed.tolist() == [False, True]


@pytest.mark.parametrize(
    ("header", "rows", "says"),
    [
        (SCORES, "a,benign,0.5,0.3,0.1", "the probabilities do not sum to 1 in 1 rows"),
        (SCORES, "a,benign,1.5,0.3,0.1", "score_benign lies outside 0 to 1 in 1 rows"),
        (SCORES, "a,benign,secret,0.3,0.1", "score_benign is not a finite number in 1 rows"),
        (SCORES, "a,benign,,0.5,0.5", "score_benign is empty or NaN in 1 rows"),
        (SCORES, "a,secret,0.5,0.3,0.2", "reference is no class of the protocol in 1 rows; the "
         "classes are benign, doubtful, malignant"),
        (SCORES, "a,,0.5,0.3,0.2", "reference is empty in 1 rows"),
        (SCORES, "a,benign,0.5,0.3,0.2\na,benign,0.5,0.3,0.2", "1 rows repeat a case id"),
        ("score_benign,score_malignant", "a,benign,0.5,0.5", "no column 'score_doubtful'"),
        ("note", "a,benign,x", "has neither a column 'prediction' nor one probability a class"),
        ("prediction", "a,benign,secret", "prediction is no class of the protocol in 1 rows"),
        ("prediction", "a,benign,", "prediction is empty or NaN in 1 rows"),
        ("prediction,failure", "a,benign,benign,timeout", "1 rows have a prediction and a failure"),
        (f"{SCORES},prediction", "a,benign,0.5,0.3,0.2,", "prediction is empty or NaN in 1 rows"),
        (f"{SCORES},failure", "a,benign,0.5,0.3,0.2,timeout", "1 rows have a prediction and a"),
    ],
)  # fmt: skip
def test_a_wrong_table_gets_one_clear_line(
    tmp_path: Path, header: str, rows: str, says: str
) -> None:
    with pytest.raises(Invalid) as refused:
        _read(tmp_path, f"case,reference,{header}\n{rows}\n")
    assert says in refused.value.message
    assert "\n" not in refused.value.message
    assert "secret" not in refused.value.message


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"reference": [0, 3]}, "reference is none of 3 classes in 1 of 2 cases"),
        ({"reference": [0.5, 1.0]}, "reference must hold whole numbers"),
        ({"prediction": [0, -2]}, "prediction is none of 3 classes in 1 of 2 cases"),
        ({"prediction": [0]}, "the column prediction has 1 rows"),
        ({"reference": [], "prediction": []}, "reference must hold whole numbers"),
        ({"probability": np.full((2, 2), 0.5)}, "must be a table of 2 cases by 3 classes"),
        ({"probability": [[0.5, 0.5, np.nan], [1, 0, 0]]}, "some of their probabilities only"),
        ({"probability": [[0.9, 0.9, -0.8], [1, 0, 0]]}, "a probability outside"),
        ({"probability": [[0.5, 0.2, 0.2], [1, 0, 0]]}, "do not sum to 1 in 1 of 2 cases"),
        ({"probability": [[np.nan] * 3, [1, 0, 0]]}, "1 of 2 cases have a decision or"),
        ({"failed_by_code": {"timeout": 1}}, "1 cases have a failure code, and only 0 failed"),
    ],
)
def test_a_table_checks_itself(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(Invalid, match=says):
        MulticlassTable(**{"names": NAMES, "reference": [0, 1], "prediction": [0, 1], **fields})


# --- the endpoints


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("patients", [None, 45])
def test_values_are_scikit_learn_s(seed: int, patients: int | None) -> None:
    from sklearn import metrics

    table = _table(seed, patients=patients)
    assert table.probability is not None
    expected = {
        "macro_auc": metrics.roc_auc_score(
            table.reference, table.probability, multi_class="ovr", average="macro"
        ),
        "accuracy": metrics.accuracy_score(table.reference, table.prediction),
        "quadratic_kappa": metrics.cohen_kappa_score(
            table.reference, table.prediction, weights="quadratic"
        ),
    }
    recall = metrics.recall_score(table.reference, table.prediction, average=None)
    for code, name in enumerate(NAMES):
        expected[f"sensitivity_{name}"] = recall[code]
        expected[f"auc_{name}"] = metrics.roc_auc_score(
            table.reference == code, table.probability[:, code]
        )
    assert set(expected) == set(multiclass.measures(THREE))
    for metric, value in expected.items():
        assert _side(table, metric).value == pytest.approx(value, abs=1e-12)
    matrix = multiclass.figures(table, THREE)[0]
    assert isinstance(matrix, Matrix)
    theirs = metrics.confusion_matrix(table.reference, table.prediction)
    assert [list(row[:3]) for row in matrix.counts] == theirs.tolist()


def test_the_variance_of_the_mean_auc_counts_that_areas_go_together() -> None:
    table = _table(1, n=300, patients=None)
    assert table.probability is not None
    found = macro_area(table.probability, table.reference)
    rng = np.random.default_rng(0)
    again = []
    for _ in range(400):
        rows = rng.integers(0, 300, 300)
        again.append(macro_area(table.probability[rows], table.reference[rows]).value)
    assert found.standard_error == pytest.approx(float(np.std(again)), rel=0.15)


def test_areas_that_are_all_one_area_have_a_mean_as_certain_as_it() -> None:
    """Two classes seen from both sides: the second area is the first one again."""
    rng = np.random.default_rng(2)
    reference = rng.integers(0, 2, 80)
    score = np.clip(rng.normal(0.5 + 0.1 * reference, 0.15), 0, 1)
    both = macro_area(np.column_stack([1 - score, score]), reference)
    one = area(score, reference == 1, np.arange(80))
    assert both.value == pytest.approx(one.value)
    assert both.variance == pytest.approx(one.variance, rel=0.02)
    assert both.units == pytest.approx(one.units)


@pytest.mark.parametrize("metric", list(multiclass.measures(THREE)))
@examples(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), skill=st.sampled_from([-2.0, 0.0, 1.5, 8.0]))
def test_a_withheld_prediction_never_raises_a_lower_bound(
    metric: str, seed: int, skill: float
) -> None:
    rng = np.random.default_rng(seed)
    table = _table(seed, failed=int(rng.integers(0, 20)), skill=skill)
    fewer = _without(table, rng.permutation(table.n)[: rng.integers(1, 20)])
    for tail in (0.005, TAIL):
        before, after = (_side(of, metric) for of in (table, fewer))
        assert after.value <= before.value + 1e-12
        assert after.gating(tail)[0] <= before.gating(tail)[0] + 1e-9
        best = [_side(of, metric, failed_is_right=True) for of in (table, fewer)]
        assert best[1].value >= best[0].value - 1e-12
        low, high = after.gating(tail)
        scale = multiclass.measures(THREE)[metric]
        assert scale.low is not None
        assert scale.high is not None
        assert scale.low <= low <= after.value + 1e-12 <= high + 2e-12 <= scale.high + 3e-12
        assert high - low > 1e-3


@pytest.mark.parametrize("metric", list(multiclass.measures(THREE)))
def test_the_order_of_cases_does_not_matter(metric: str) -> None:
    table = _table(3, failed=5)
    rows = np.random.default_rng(0).permutation(table.n)
    found = [_side(of, metric) for of in (table, _rows(table, rows))]
    assert found[0].value == pytest.approx(found[1].value)
    assert found[0].gating(TAIL) == pytest.approx(found[1].gating(TAIL))


@pytest.mark.parametrize("metric", ["macro_auc", "quadratic_kappa", "auc_benign", "accuracy"])
def test_cases_repeated_within_their_patients_add_nothing(metric: str) -> None:
    table = _table(4, failed=5)
    twice = _rows(table, np.repeat(np.arange(table.n), 2))
    found = [_side(of, metric) for of in (table, twice)]
    assert found[0].value == pytest.approx(found[1].value)
    assert found[1].gating(TAIL)[0] == pytest.approx(found[0].gating(TAIL)[0], abs=0.02)


def test_only_ranks_matter_to_the_mean_area() -> None:
    table = _table(5)
    assert table.probability is not None
    assert table.patient is not None
    cubes = macro_area(table.probability**3, table.reference, table.patient)
    found = _side(table, "macro_auc")
    assert cubes.value == pytest.approx(found.value)
    assert cubes.gating(TAIL) == pytest.approx(found.gating(TAIL))


def test_a_class_that_no_case_has_gives_a_reason() -> None:
    table = _table(6)
    few = table.subset(table.reference != 1)
    assert _reason(few, "macro_auc") == "no case is doubtful by the reference standard"
    assert _reason(few, "sensitivity_doubtful") == "no case is doubtful by the reference standard"
    assert _reason(few, "auc_doubtful") == "no case is doubtful by the reference standard"
    assert isinstance(_side(few, "quadratic_kappa").value, float)
    alone = table.subset(table.reference == 1)
    assert _reason(alone, "auc_doubtful") == "all cases are doubtful by the reference standard"
    reason = _reason(_rows(alone, np.arange(20)), "quadratic_kappa")
    assert "too few" in reason or "no value" in reason
    assert [of.name for of in multiclass.figures(few, THREE)] == ["confusion"]


def test_few_patients_have_a_kappa_without_an_interval() -> None:
    found = multiclass.side(_table(7, n=60, patients=20), "quadratic_kappa", THREE)
    assert isinstance(found, Undefined)
    assert found.value is not None
    assert "too few to draw from" in found.reason


def test_all_failed_and_all_tied_have_defined_answers() -> None:
    table = _table(8)
    silent = _without(table, np.arange(table.n))
    tied = MulticlassTable(
        names=NAMES, reference=table.reference, prediction=np.zeros(table.n, dtype=np.int64),
        probability=np.full((table.n, 3), 1 / 3), patient=table.patient,
    )  # fmt: skip
    for metric in multiclass.measures(THREE):
        found = _side(silent, metric)
        assert found.value <= 0
        assert found.gating(TAIL)[0] <= 0
        low, high = _side(tied, metric).gating(TAIL)
        assert high - low > 0.01
    assert _side(tied, "macro_auc").value == pytest.approx(0.5)
    assert _side(tied, "quadratic_kappa").value == pytest.approx(0, abs=1e-12)


def test_names_of_metrics() -> None:
    assert "sensitivity_malignant" in GATING
    assert "accuracy" not in GATING
    with pytest.raises(ValueError, match="no metric"):
        multiclass.side(_table(1), "sensitivity_other", THREE)
    with pytest.raises(ValueError, match="other classes"):
        multiclass.side(_table(1), "accuracy", ClassSettings(names=("a", "b", "c")))


def test_figures_show_failures_and_the_mean_curve() -> None:
    table = _table(9, n=400, patients=100, failed=30)
    matrix, curve = multiclass.figures(table, THREE)
    assert isinstance(matrix, Matrix)
    assert matrix.columns[-1] == "failed prediction"
    assert sum(row[-1] for row in matrix.counts) == 30
    assert sum(map(sum, matrix.counts)) == 400
    assert isinstance(curve, Figure)
    x, y = np.array(curve.series[0].points).T
    assert (np.diff(x) > 0).all()
    assert (np.diff(y) >= 0).all()
    assert np.trapezoid(y, x) == pytest.approx(_side(table, "macro_auc").value, abs=0.01)
    low, high = (np.array(side) for side in (curve.series[0].low, curve.series[0].high))
    assert (low <= y + 1e-12).all()
    assert (y <= high + 1e-12).all()
