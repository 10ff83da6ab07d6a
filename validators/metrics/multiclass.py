"""Endpoints of a multiclass or ordinal question (PI-RADS, BI-RADS).

    >>> found = multiclass.side(table, "sensitivity_pirads_4", settings)
    >>> found.value, found.gating(0.025)

Rules
-----
1. What was decided is a class (`validators.metrics.multiclass_table` says which).
2. A failed or withheld prediction is wrong for each class; ranks last in its own class and first
   in all others; and is the class that makes kappa worst, in every bootstrap replicate
   (`validators.intervals.agreement`).
3. Accuracy depends on how frequent each class is in the cohort, so it is shown and does not
   decide. Kappa does too: a goal for it is a goal on cohorts of this mix of classes.
4. Kappa with quadratic weights means something only where the classes have an order.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from validators.intervals.agreement import concordance, judged
from validators.intervals.auc import area
from validators.intervals.bootstrap import resampled, units_of
from validators.intervals.macro_auc import macro_area
from validators.intervals.share import share
from validators.metrics.figure import Figure, Matrix, Series
from validators.metrics.measure import Measure, Side, Undefined
from validators.metrics.multiclass_table import FAILED, MulticlassTable
from validators.protocol.tasks import ClassSettings

_ROC_STEPS = 100
_OF_CLASS = ("auc", "sensitivity")

MEASURES: Mapping[str, Measure] = {
    of.name: of
    for of in (
        Measure("macro_auc", "Mean one-vs-rest AUC", "higher", 0.0, 1.0, 1.0),
        Measure("auc", "One-vs-rest AUC", "higher", 0.0, 1.0, 1.0),
        Measure("sensitivity", "Sensitivity", "higher", 0.0, 1.0, 1.0),
        Measure("accuracy", "Accuracy", "higher", 0.0, 1.0, 1.0, gates=False,
                why_not="it depends on how frequent each class is in the cohort; the sensitivity "
                        "of each class can decide"),
        Measure("quadratic_kappa", "Kappa, quadratic weights", "higher", -1.0, 1.0, 1.0),
    )
}  # fmt: skip
"""What is measured, by kind; `measures` names those of a single class for the classes asked for."""


def measures(settings: ClassSettings) -> Mapping[str, Measure]:
    """Every metric of a protocol with these settings, by name: `auc_pirads_4` and so on."""
    found = {kind: of for kind, of in MEASURES.items() if kind not in _OF_CLASS}
    for name, (kind, code) in _names(settings).items():
        label = f"{MEASURES[kind].label}, {settings.names[code]}"
        found[name] = replace(MEASURES[kind], name=name, label=label)
    return found


def side(
    table: MulticlassTable,
    metric: str,
    settings: ClassSettings,
    *,
    failed_is_right: bool = False,
) -> Side | Undefined:
    """One metric with its uncertainty. Raises ValueError for a name that `measures` lacks."""
    if table.names != settings.names:
        raise ValueError("the table has other classes than the settings")
    if metric == "macro_auc":
        return _macro_auc(table, failed_is_right=failed_is_right)
    if metric == "accuracy":
        everyone = np.ones(table.n, dtype=np.bool_)
        return _share_right(table, everyone, failed_is_right=failed_is_right)
    if metric == "quadratic_kappa":
        return _kappa(table, failed_is_right=failed_is_right)
    asked = _names(settings).get(metric)
    if asked is None:
        raise ValueError(f"{metric} is no metric of these classes")
    kind, code = asked
    inside = table.reference == code
    if not inside.any() or (kind == "auc" and inside.all()):
        which = "no case is" if not inside.any() else "all cases are"
        return _undefined(table, f"{which} {table.names[code]} by the reference standard")
    if kind == "sensitivity":
        return _share_right(table, inside, failed_is_right=failed_is_right)
    if table.probability is None:
        return _undefined(table, _NO_PROBABILITY)
    return area(
        table.probability[:, code], inside, table.patient, failed_is_right=failed_is_right
    )  # fmt: skip


def figures(table: MulticlassTable, settings: ClassSettings) -> tuple[Figure | Matrix, ...]:
    """The confusion matrix, and the mean one-vs-rest ROC curve where there are probabilities."""
    classes = len(settings.names)
    column = np.where(table.prediction == FAILED, classes, table.prediction)
    flat = np.bincount(table.reference * (classes + 1) + column, minlength=classes * (classes + 1))
    confusion = Matrix(
        name="confusion",
        title="Decisions by reference standard",
        rows=settings.names,
        columns=(*settings.names, "failed prediction"),
        counts=tuple(tuple(row) for row in flat.reshape(classes, classes + 1).tolist()),
        explanation="Rows are the reference standard, columns what was decided; right decisions "
        "are on the diagonal.",
    )
    roc = _macro_roc(table)
    return (confusion,) if roc is None else (confusion, roc)


_NO_PROBABILITY = "the predictions are decisions without probabilities, so they rank no case"


def _names(settings: ClassSettings) -> dict[str, tuple[str, int]]:
    return {
        f"{kind}_{name}": (kind, code)
        for kind in _OF_CLASS
        for code, name in enumerate(settings.names)
    }


def _macro_auc(table: MulticlassTable, *, failed_is_right: bool) -> Side | Undefined:
    if table.probability is None:
        return _undefined(table, _NO_PROBABILITY)
    if absent := _absent(table):
        return _undefined(table, f"no case is {', '.join(absent)} by the reference standard")
    return macro_area(
        table.probability, table.reference, table.patient, failed_is_right=failed_is_right
    )


def _share_right(
    table: MulticlassTable, chosen: NDArray[np.bool_], *, failed_is_right: bool
) -> Side:
    right = table.prediction == table.reference
    return share(
        right[chosen],
        table.failed[chosen],
        None if table.patient is None else table.patient[chosen],
        failed_is_right=failed_is_right,
        clusters=_patients(table),
    )


def _kappa(table: MulticlassTable, *, failed_is_right: bool) -> Side | Undefined:
    last = len(table.names) - 1
    patient = np.arange(table.n) if table.patient is None else table.patient
    statistic = concordance(
        table.reference.astype(np.float64),
        np.where(table.failed, np.nan, table.prediction),
        patient,
        (0.0, float(last)),
        steps=last,
        failed_is_right=failed_is_right,
    )
    patients = _patients(table) or table.n
    found = resampled(
        statistic, np.zeros(patients, dtype=np.int64), n=table.n, clusters=_patients(table),
        scale=(-1.0, 1.0), guard="highest", units=units_of(patient),
    )  # fmt: skip
    if isinstance(found, str):
        value = float(statistic(np.ones((1, patients), dtype=np.int64))[0])
        return _undefined(table, found, None if np.isnan(value) else value)
    return judged(found)


def _macro_roc(table: MulticlassTable) -> Figure | None:
    """Sensitivity at 101 values of 1 - specificity, the mean and the range over the classes."""
    if table.probability is None or _absent(table):
        return None
    grid = np.linspace(0.0, 1.0, _ROC_STEPS + 1)
    curves = np.stack([
        _roc(table.probability[:, code], table.reference == code, grid)
        for code in range(len(table.names))
    ])  # fmt: skip
    line = Series(
        label="mean of the classes",
        points=tuple(zip(grid.tolist(), curves.mean(axis=0).tolist(), strict=True)),
        low=tuple(curves.min(axis=0).tolist()),
        high=tuple(curves.max(axis=0).tolist()),
    )
    return Figure(
        name="macro_roc",
        title="ROC curve, each class against the rest",
        x_label="1 - specificity",
        y_label="Sensitivity",
        series=(line,),
        guide="diagonal",
        x_range=(0.0, 1.0),
        y_range=(0.0, 1.0),
        explanation="The line is the mean over the classes at equal specificity, the band reaches "
        "from the worst class to the best; failed predictions rank at the wrong end.",
    )


def _roc(
    score: NDArray[np.float64], positive: NDArray[np.bool_], grid: NDArray[np.float64]
) -> NDArray[np.float64]:
    ranked = np.where(np.isnan(score), np.where(positive, -1.0, 2.0), score)
    order = np.argsort(-ranked, kind="stable")
    hits, last = positive[order], np.append(np.diff(ranked[order]) != 0, True)
    found = [np.append(0.0, np.cumsum(of)[last] / of.sum()) for of in (~hits, hits)]
    return np.asarray(np.interp(grid, found[0], found[1]), dtype=np.float64)


def _absent(table: MulticlassTable) -> list[str]:
    """Classes that no case has by the reference standard."""
    counts = np.bincount(table.reference, minlength=len(table.names))
    return [name for name, count in zip(table.names, counts, strict=True) if not count]


def _patients(table: MulticlassTable) -> int | None:
    return None if table.patient is None else int(table.patient.max()) + 1


def _undefined(table: MulticlassTable, reason: str, value: float | None = None) -> Undefined:
    return Undefined(reason, table.n, _patients(table), value)
