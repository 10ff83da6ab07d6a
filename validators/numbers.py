"""A column of numbers in a table file, checked; a message holds counts, never a value."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.table_file import TableFile, count

MISSING = ("", "na", "n/a", "nan", "null", "none")
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_DECIMAL_COMMA = r"^[+-]?\d*,\d+$"


def numbers(
    file: TableFile, column: str, data: pa.Array, lowest: float, highest: float, hint: str = ""
) -> NDArray[np.float64]:
    """The values of a column, NaN where it is empty; all others are finite and within the range.

    Raises Invalid for what is no number (infinity is none) and for numbers outside the range;
    `hint` then says what to do.
    """
    where = f"{file.path.name}: {column}"
    missing = pc.is_in(pc.utf8_lower(data), pa.array(MISSING))
    number = pc.match_substring_regex(data, _NUMBER)
    if odd := count(pc.invert(pc.or_(missing, number))):
        comma = count(pc.match_substring_regex(data, _DECIMAL_COMMA))
        instead = "; write decimals with a point" if comma else ""
        raise Invalid(f"{where} is not a finite number in {odd} rows{instead}")
    kept = pc.if_else(number, data, pa.scalar(None, pa.string())).cast(pa.float64())
    values: NDArray[np.float64] = kept.to_numpy(zero_copy_only=False).astype(np.float64)
    if outside := int(((values < lowest) | (values > highest)).sum()):
        upper = f" to {highest:g}" if np.isfinite(highest) else " upwards"
        raise Invalid(f"{where} lies outside {lowest:g}{upper} in {outside} rows{hint}")
    return values


def number_in(text: str) -> float | None:
    """The number in a text: NaN where it is empty, None where it is no finite number."""
    if text.strip().lower() in MISSING:
        return float("nan")
    value = float(text) if re.fullmatch(_NUMBER.strip("^$"), text, re.ASCII) else np.inf
    return value if np.isfinite(value) else None


def declared(
    file: TableFile, name: str, values: NDArray[np.float64], failure: NDArray[np.str_]
) -> NDArray[np.float64]:
    """`values`, each there unless its case has a failure code, and then absent; else Invalid."""
    where, absent = f"{file.path.name}: {name}", np.isnan(values)
    if undeclared := int((absent & (failure == "")).sum()):
        raise Invalid(
            f"{where} is empty or NaN in {undeclared} rows; give them a value, or declare the "
            "predictions failed with a code in a column `failure` (they then count as the worst)"
        )
    if both := int((~absent & (failure != "")).sum()):
        raise Invalid(f"{where}: {both} rows have a value and a failure code; keep one of the two")
    return values
