"""One row a patient, from a cohort's cases: what declared development data are held against.

    >>> columns = patient_columns(declared, patients, {"age": ages, "sex": sexes})
    >>> evidence = drift_evidence(declared, columns)

Rules
-----
1. A patient is described by the first of its cases, in the order of the cases as they are given:
   that of the sealed cohort (by pseudonym, so that it says nothing), or the rows of a table.
2. Where a histogram was declared the attribute's texts are read as numbers; an empty one, or
   `unknown`, is not recorded. An attribute with any other text is left out: the cohort has it in
   another form, so it counts as absent.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from validators.drift.compare import drift_evidence
from validators.drift.distribution import DevelopmentDistribution, Histogram
from validators.drift.evidence import DriftEvidence
from validators.numbers import number_in
from validators.protocol.schema import Protocol

UNKNOWN = "unknown"


def patient_columns(
    declared: DevelopmentDistribution,
    patients: Sequence[object] | None,
    attributes: Mapping[str, Sequence[str]],
) -> dict[str, NDArray[Any]]:
    """The declared attributes that the cohort has, one row a patient.

    `patients`: one name or code a case; None where each case is a patient of its own.
    """
    columns: dict[str, NDArray[Any]] = {}
    for of in declared.attributes:
        if of.attribute not in attributes:
            continue
        texts = np.array(attributes[of.attribute], dtype=np.str_)
        texts = texts if patients is None else texts[_first_of_each(patients)]
        if not isinstance(of, Histogram):
            columns[of.attribute] = texts
            continue
        numbers = [number_in("" if text == UNKNOWN else text) for text in texts.tolist()]
        if None not in numbers:
            columns[of.attribute] = np.array(numbers, dtype=np.float64)
    return columns


def asked_drift(
    protocol: Protocol, declared: DevelopmentDistribution, columns: Mapping[str, NDArray[Any]]
) -> DriftEvidence | None:
    """The comparison that the protocol asks for; None where it asks for none."""
    if protocol.drift is None:
        return None
    return drift_evidence(
        declared,
        columns,
        minimum_group=protocol.disclosure.minimum_group,
        alpha=protocol.drift.alpha,
        smallest_index=protocol.drift.smallest_index,
    )


def _first_of_each(patients: Sequence[object]) -> NDArray[np.intp]:
    _, first = np.unique(np.array([str(of) for of in patients]), return_index=True)
    return np.sort(first)
