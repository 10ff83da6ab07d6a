"""What every metric gives: a number with its interval, or the reason why there is none."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from validators.evidence import Interval


@dataclass(frozen=True)
class Estimate:
    """`clusters` are the patients behind the `n` cases; `note` says why something is None."""

    value: float | None
    interval: Interval | None
    n: int
    clusters: int | None
    note: str = ""


def number_of_patients(patient: NDArray[np.int64] | None) -> int | None:
    """How many patients occur, or None where cases are independent."""
    return None if patient is None else len(np.unique(patient))
