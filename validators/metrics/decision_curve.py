"""The decision curve: net benefit over the thresholds that a protocol declares.

Vickers & Elkin (2006). Beside the model stand its rivals: to act on every case and on none.
"""

from collections.abc import Sequence

from validators.cases import CaseTable
from validators.metrics.binary_clinical import net_benefit_side
from validators.metrics.estimate import shown
from validators.metrics.figure import Figure, Series


def decision_curve(
    table: CaseTable, thresholds: Sequence[float], tail: float
) -> tuple[Figure, ...]:
    """One figure with the model's band at 1 - 2 tail; none without thresholds."""
    if not thresholds:
        return ()
    at = sorted(set(thresholds))
    found = [shown(net_benefit_side(table, t), tail) for t in at]
    share = float(table.positive.mean())
    everybody = [share - (1 - share) * t / (1 - t) for t in at]
    bands = [of.interval for of in found if of.interval is not None]
    model = Series(
        label="model",
        points=tuple((t, of.value or 0.0) for t, of in zip(at, found, strict=True)),
        low=tuple(band.low for band in bands),
        high=tuple(band.high for band in bands),
    )
    rival = Series(label="act on all", points=tuple(zip(at, everybody, strict=True)))
    return (
        Figure(
            name="decision-curve", title="Decision curve", x_label="decision threshold",
            y_label="net benefit a case", series=(model, rival), guide="zero",
            explanation="Above both the dashed line (act on none) and the second line the model "
            "helps at that threshold, at the cohort's own share of positives.",
        ),
    )  # fmt: skip
