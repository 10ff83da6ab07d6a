"""The mean of one-vs-rest AUCs, one a class, and its uncertainty.

- Each class alike, however rare it is (macro average; Hand & Till 2001 discuss the alternatives).
- Variance: what a patient contributes to the mean is the mean of what it contributes to the areas
  (Obuchowski 1997, extended to several areas of the same patients), so that the correlation of the
  areas is in it. Cases without patients are patients of one case.
- Interval: as in `validators.intervals.auc`, on the logit scale and stabilised. The independent
  units behind the mean are those of an area whose largest standard error is the mean of the
  largest ones of the classes, mean(units^-1/2)^-2: a rare class weighs, and it does not rule.
- Failed predictions rank last in their own class and first in all others, in every area at once,
  and all is held as a range over what they could be.
"""

import math

import numpy as np
from numpy.typing import NDArray

from validators.intervals.auc import Area, area, size_range
from validators.intervals.influence import Box, Floats


def macro_area(
    probability: Floats,
    reference: NDArray[np.int64],
    patient: NDArray[np.int64] | None = None,
    *,
    failed_is_right: bool = False,
) -> Area:
    """The mean AUC of `probability` ([n, classes], NaN rows where the prediction failed).

    `reference` [n] holds the number of a class, and every class occurs; `patient` codes 0, 1, ….
    """
    n, classes = probability.shape
    code = np.arange(n) if patient is None else patient
    of_class = [area(probability[:, k], reference == k, code) for k in range(classes)]
    worst = best = float(np.mean([of.value for of in of_class]))
    if np.isnan(probability).any():
        best = float(np.mean([
            area(probability[:, k], reference == k, code, failed_is_right=True).value
            for k in range(classes)
        ]))  # fmt: skip
    influence = Box(*(np.zeros(int(code.max()) + 1) for _ in range(2)))
    for of in of_class:
        assert of.influence is not None, "areas of patients have one"
        influence = influence.plus(of.influence.scaled(1 / classes))
    variance = influence.squared().total()
    units = float(np.mean([of.units**-0.5 for of in of_class])) ** -2
    freedom = max(math.floor(units) - 1, 1)
    return Area(
        value=best if failed_is_right else worst,
        n=n,
        clusters=None if patient is None else of_class[0].clusters,
        variance=variance,
        units=units,
        freedom=freedom,
        size=size_range(worst, best, variance, units, freedom + 1),
        influence=influence,
    )
