"""A table of predictions from a file, one row a case, into a CaseTable.

    >>> table = read_table(Path("predictions.csv"), protocol, {"score": "adae_score"})

Columns: `case`, `patient` (if the protocol clusters by patient), `reference`, `score`, one for
each attribute that the protocol's subgroup rules or sites name, one for each comparator or reader
and for the sampling weights, if the protocol has any; and, where they are there, `failure` and the
scores under each perturbation, by its name (`noise_3_image`). `columns` maps these names to the
file's own.

Rules
-----
1. CSV (UTF-8; comma, semicolon or tab; a header line) or Parquet, told apart by content, not name.
2. Nothing is guessed. A score that is empty or NaN is an error, unless its row says in `failure`
   why there is none (a short code such as `timeout`). Such a case is a failed prediction: it
   counts as wrong, as the protocol says. pandas writes NaN as an empty cell, so both are one.
3. The reference standard is 0 or 1, or true or false; it is never missing.
4. An empty attribute is the group `unknown`: those cases are a group too.
5. Other columns are not read.
6. A message names the file, the column and how many rows; it never holds a value of a row.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.cases import CaseTable
from validators.numbers import MISSING, declared, numbers
from validators.protocol.schema import Protocol
from validators.table_file import TableFile, count, open_table

UNKNOWN = "unknown"
MAXIMUM_GROUPS = 50
MAXIMUM_CODES = 20
_CODE = r"^[a-z][a-z0-9_]{0,39}$"
_REFERENCE = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}


def read_table(path: Path, protocol: Protocol, columns: Mapping[str, str]) -> CaseTable:
    """The cases of a table, checked.

    Raises Invalid, in one line that says what to do, for anything that breaks the rules above:
    no such file, not CSV or Parquet, a column missing, duplicate cases, missing or impossible
    scores or references, one class only, an attribute that is no grouping.
    """
    attributes = asked_attributes(protocol)
    weights = protocol.sampling.weights if protocol.sampling else None
    needed = ["case", "reference", "score", *attributes, *protocol.further_columns]
    needed += [weights] if weights else []
    if protocol.cluster == "patient":
        needed.insert(1, "patient")
    optional = ["failure", *(of.name for of in protocol.perturbations)]
    check_mapping(columns, [*needed, "patient", *optional])
    file = open_table(path)
    wanted, data = read_columns(file, needed, columns, optional)
    check_cases(file, data["case"])
    reference = _reference(file, wanted["reference"], data["reference"])
    failure = failures(file, data.get("failure"), len(reference))
    score = _scores(file, wanted["score"], data["score"])
    declared(file, wanted["score"], score, failure)
    return CaseTable(
        reference=reference,
        score=score,
        patient=patients(file, wanted["patient"], data["patient"]) if "patient" in data else None,
        attributes={name: groups(file, wanted[name], data[name]) for name in attributes},
        failed_by_code=dict(sorted(Counter(failure[failure != ""].tolist()).items())),
        further=_further(file, protocol, wanted, data),
        weight=numbers(file, wanted[weights], data[weights], 0.0, np.inf) if weights else None,
    )


def asked_attributes(protocol: Protocol) -> tuple[str, ...]:
    """Every attribute that the protocol looks at, each once, in its order."""
    named = [name for rule in protocol.subgroups for name in rule.attributes]
    named += [protocol.sites.attribute] if protocol.sites else []
    return tuple(dict.fromkeys(named))


def read_columns(
    file: TableFile, needed: Sequence[str], columns: Mapping[str, str],
    optional: Sequence[str] = ("failure",),
) -> tuple[dict[str, str], dict[str, pa.Array]]:  # fmt: skip
    """({name: column of the file}, {name: its text}) of what is needed, and of what is optional
    and there or named in `columns`. Raises Invalid for a column that the file lacks."""
    there = [name for name in optional if name in columns or name in file.names]
    wanted = {name: columns.get(name, name) for name in (*needed, *there)}
    for name, column in wanted.items():
        if column not in file.names:
            raise Invalid(_no_column(file, name, column, name in columns))
    return wanted, file.read(wanted)


def check_mapping(columns: Mapping[str, str], known: Sequence[str]) -> None:
    for name in columns:
        if name not in known:
            raise Invalid(
                f"--column {name}=…: this protocol reads no column {name!r}"
                f"{_nearest(name, known)}; it reads {', '.join(dict.fromkeys(known))}"
            )


def _no_column(file: TableFile, name: str, column: str, mapped: bool) -> str:
    nearest = get_close_matches(column, file.names, n=1, cutoff=0.6)
    instead = nearest[0] if nearest else "COLUMN"
    line = f"{file.path.name} has no column {column!r}"
    if mapped:
        line += f", which --column {name}={column} names"
    line += f" (nearest: {nearest[0]!r})" if nearest else f"; it has {_listed(file.names)}"
    return f"{line}; name the right one with --column {name}={instead}"


def _nearest(name: str, known: Sequence[str]) -> str:
    nearest = get_close_matches(name, known, n=1, cutoff=0.6)
    return f" (did you mean {nearest[0]!r}?)" if nearest else ""


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:12])
    return shown + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def check_cases(file: TableFile, column: pa.Array) -> None:
    if empty := count(pc.equal(column, "")):
        raise Invalid(f"{file.path.name}: {empty} rows have no case id; give each case its own")
    if twice := len(column) - int(pc.count_distinct(column).as_py()):
        raise Invalid(
            f"{file.path.name}: {twice} rows repeat a case id of another row; keep one row a case"
        )


def _reference(file: TableFile, column: str, data: pa.Array) -> NDArray[np.int8]:
    lower = pc.utf8_lower(data)
    if empty := count(pc.is_in(lower, pa.array(MISSING))):
        raise Invalid(
            f"{file.path.name}: {column} is empty in {empty} rows; a case without a reference "
            "standard can't be scored, so leave those rows out and say so"
        )
    position = pc.index_in(lower, pa.array(list(_REFERENCE)))
    if position.null_count:
        raise Invalid(
            f"{file.path.name}: {column} is neither 0 or 1 nor true or false in "
            f"{position.null_count} rows; 1 means that the disease is present"
        )
    values = np.array(list(_REFERENCE.values()), dtype=np.int8)
    reference: NDArray[np.int8] = values[position.to_numpy(zero_copy_only=False)]
    positives = int(reference.sum())
    if positives in (0, len(reference)):
        side = "positive (1)" if positives else "negative (0)"
        raise Invalid(
            f"{file.path.name}: all {len(reference)} cases are {side} in {column}; cases of both "
            "classes are needed"
        )
    return reference


def failures(file: TableFile, data: pa.Array | None, n: int) -> NDArray[Any]:
    if data is None:
        return np.full(n, "")
    odd = pc.and_(pc.not_equal(data, ""), pc.invert(pc.match_substring_regex(data, _CODE)))
    if odd_rows := count(odd):
        raise Invalid(
            f"{file.path.name}: failure is no short code in {odd_rows} rows; use words such as "
            "timeout or not_readable (small letters, digits, _), empty where there is a score"
        )
    codes = np.asarray(data.to_pylist(), dtype=str)
    if len(set(codes.tolist()) - {""}) > MAXIMUM_CODES:
        raise Invalid(f"{file.path.name}: failure has more than {MAXIMUM_CODES} different codes")
    return codes


def _scores(file: TableFile, column: str, data: pa.Array) -> NDArray[np.float64]:
    hint = (
        "; a score is the probability that the reference is positive (put logits through a "
        "sigmoid first)"
    )
    return numbers(file, column, data, 0.0, 1.0, hint)


def _further(
    file: TableFile, protocol: Protocol, wanted: Mapping[str, str], data: Mapping[str, pa.Array]
) -> dict[str, NDArray[np.float64]]:
    """Other models' scores, readers' ratings, and the model's own under each perturbation."""
    models = {
        endpoint.comparator.name
        for endpoint in protocol.endpoints
        if endpoint.comparator and endpoint.comparator.kind == "model"
    }
    scores = models | {of.name for of in protocol.perturbations}
    names = [*protocol.further_columns, *(of.name for of in protocol.perturbations)]
    return {
        name: _scores(file, wanted[name], data[name])
        if name in scores
        else numbers(file, wanted[name], data[name], -np.inf, np.inf)
        for name in names
        if name in data
    }


def patients(file: TableFile, column: str, data: pa.Array) -> NDArray[np.int64]:
    if empty := count(pc.equal(data, "")):
        raise Invalid(
            f"{file.path.name}: {column} is empty in {empty} rows; the protocol clusters by "
            "patient, so each case needs its patient"
        )
    _, codes = np.unique(np.asarray(data.to_pylist(), dtype=str), return_inverse=True)
    return codes.astype(np.int64)


def groups(file: TableFile, column: str, data: pa.Array) -> NDArray[np.str_]:
    groups = pc.if_else(pc.equal(data, ""), UNKNOWN, data)
    if (different := int(pc.count_distinct(groups).as_py())) > MAXIMUM_GROUPS:
        raise Invalid(
            f"{file.path.name}: {column} has {different} different values, too many for groups "
            f"(at most {MAXIMUM_GROUPS}); make a column of bands and name it with --column"
        )
    return np.asarray(groups.to_pylist(), dtype=str)
