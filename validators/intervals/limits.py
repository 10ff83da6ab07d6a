"""Limits of agreement where patients have several measurements, for the patient bootstrap.

    limit = mean error -+ 1.96 sqrt(variance between patients + variance within them)

Bland & Altman 1986; for several pairs a patient 1999 (section 5.3) and 2007: the two components
of a one-way analysis of variance of the errors by patient, unbalanced. A negative estimate of the
variance between patients counts as none. With one measurement each it is the standard deviation.

The interval of a limit is for reading, not for deciding: where errors grow with the size, the
bound away from zero misses in .21 of cohorts of 30 patients, .14 of 100, .05 of 400
(bench/regression_coverage.py; nominal .025).
"""

import numpy as np
from numpy.typing import NDArray

from validators.intervals.bootstrap import Statistic
from validators.intervals.influence import Floats

WITHIN = 1.959963984540054


def limit_of_agreement(error: Floats, patient: NDArray[np.int64], sign: float) -> Statistic:
    """The lower (sign -1) or upper (1) limit by how often each patient was drawn.

    `error` [n] without NaN, `patient` [n] codes 0, 1, …. NaN for a single patient.
    """
    centre = float(error.mean())
    size = np.bincount(patient).astype(np.float64)
    total = np.bincount(patient, error - centre)
    own = np.bincount(patient, (error - centre) ** 2)
    sums = np.stack([np.ones_like(size), size, size**2, total, total**2 / size, own])

    def statistic(drawn: NDArray[np.int64]) -> Floats:
        patients, n, squares, first, between, second = sums @ drawn.T
        inside = np.maximum(second - between, 0.0) / np.maximum(n - patients, 1.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_square = np.maximum(between - first**2 / n, 0.0) / (patients - 1)
            each = (n - squares / n) / (patients - 1)
            of_patients = np.maximum((mean_square - inside) / each, 0.0)
            return np.asarray(centre + first / n + sign * WITHIN * np.sqrt(of_patients + inside))

    return statistic
