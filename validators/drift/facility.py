"""Evidently's report on raw columns: for the facility's own people, and for nobody else.

    >>> page = evidently_report(expanded(declared), {"age": ages, "sex": sexes})
    >>> facility_place.write_bytes(page.html)

Rules
-----
1. Evidently's HTML and JSON hold single patients' values. They are written to a place of the
   facility alone: never into evidence, a report, a bundle or a log. The type says so: it is no
   part of any model that is released, and its `repr` holds nothing.
2. Nothing here decides. Its page differs from run to run (it holds fresh identifiers), so no digest
   is taken of it.
3. Evidently writes names of categories, which are a model's makers' own words, into scripts of its
   page. So none keeps a sign that begins a tag: `</script>` would end the script, and begin theirs.
4. Evidently is imported inside the function: that takes seconds, and only the facility installs it.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid, Unavailable
from validators.drift.distribution import Categories, DevelopmentDistribution, Histogram

ROWS = 5_000
"""Rows that declared counts are spread over, at most."""
_TAGS = str.maketrans("<>&", "‹›＋")


@dataclass(frozen=True)
class FacilityOnly:
    """A report that shows single patients' values. It must not leave the facility."""

    html: bytes = field(repr=False)
    json: bytes = field(repr=False)


def evidently_report(
    before: Mapping[str, NDArray[Any]], after: Mapping[str, NDArray[Any]]
) -> FacilityOnly:
    """Evidently's drift report (version 0.7) of the columns that both sides have.

    Columns hold numbers, or text for categories. `before`: declared data (`expanded`), or an
    earlier version of the cohort. Raises Unavailable where Evidently is not installed, Invalid
    where the sides share no column or a column is text on one side alone.
    """
    before, after = _harmless(before), _harmless(after)
    names = [name for name in before if name in after]
    if not names:
        raise Invalid("the two sides share no column, so there is nothing to compare")
    numbers = [name for name in names if _is_number(name, before[name], after[name])]
    try:
        evidently = importlib.import_module("evidently")
        presets = importlib.import_module("evidently.presets")
        pandas = importlib.import_module("pandas")
    except ImportError as error:
        raise Unavailable(
            "Evidently is not installed here; install touchstone-tef[drift]"
        ) from error
    definition = evidently.DataDefinition(
        numerical_columns=numbers,
        categorical_columns=[name for name in names if name not in numbers],
    )
    sides = [
        evidently.Dataset.from_pandas(
            pandas.concat({name: pandas.Series(side[name]) for name in names}, axis=1),
            data_definition=definition,
        )
        for side in (after, before)
    ]
    found = evidently.Report([presets.DataDriftPreset()]).run(*sides)
    return FacilityOnly(
        html=found.get_html_str(as_iframe=False).encode(), json=found.json().encode()
    )


def _harmless(columns: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The same without any sign that begins or ends a tag."""

    def plain(value: Any) -> Any:
        return value.translate(_TAGS) if isinstance(value, str) else value

    return {
        plain(name): column
        if column.dtype.kind in "iufb"
        else np.array([plain(value) for value in column.tolist()], dtype=column.dtype)
        for name, column in columns.items()
    }


def expanded(declared: DevelopmentDistribution) -> dict[str, NDArray[Any]]:
    """Columns that have the declared distribution: bins spread evenly, categories repeated.

    At most 5,000 rows; shares are kept to that precision. Columns may differ in length.
    """
    return {of.attribute: _column(of) for of in declared.attributes}


def _column(of: Categories | Histogram) -> NDArray[Any]:
    counts = list(of.counts.values()) if isinstance(of, Categories) else list(of.counts)
    scale = min(1.0, ROWS / sum(counts))
    rows = [round(count * scale) for count in counts]
    if isinstance(of, Categories):
        return np.repeat(np.array(list(of.counts)), rows)
    return np.concatenate(
        [
            left + (right - left) * (np.arange(count) + 0.5) / max(count, 1)
            for left, right, count in zip(of.edges[:-1], of.edges[1:], rows, strict=True)
        ]
    )


def _is_number(name: str, *sides: NDArray[Any]) -> bool:
    kinds = {np.asarray(side).dtype.kind in "fiu" for side in sides}
    if len(kinds) > 1:
        raise Invalid(f"the column {name} holds numbers on one side and text on the other")
    return kinds.pop()
