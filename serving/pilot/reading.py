"""A pilot's log and outcomes as columns, through DuckDB.

    >>> pilot = read_pilot(state, certified)
    >>> len(pilot.answers.moment), pilot.cases.n

Rules
-----
1. Each row counts once by its `id`: a killed merge may have left it in two files.
2. Only answers under the given certificate are read. A new version of a model is a new pilot.
3. Of a case's answers the first counts, so that asking again until it fits changes nothing. Volumes
   and times count every answer.
4. DuckDB runs in memory, loads no extension and knows no network. Names of files and folders are
   names: no pattern, and no column (`case=9/`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Unavailable
from serving.pilot.certified import Certified
from serving.pilot.day_files import files
from serving.pilot.log import PREDICTIONS, prediction_schema
from serving.pilot.outcomes import OUTCOMES, outcome_schema

Floats = NDArray[np.float64]
_TRIES = 5

_ANSWERS = """
WITH p AS (SELECT DISTINCT ON (id) * FROM read_parquet($predictions)
           WHERE certificate = $certificate),
o AS (SELECT DISTINCT ON (id) * FROM read_parquet($outcomes)),
about AS (SELECT "case", arg_max(patient, (moment, id)) AS told FROM o GROUP BY "case")
SELECT epoch_us(moment) AS "moment", seconds, failure <> '' AS failed,
    coalesce(scores[$score], 'nan'::DOUBLE) AS score,
    coalesce(patient, "case", id) AS unit,
    coalesce(told, patient, "case", id) AS patient, inputs
FROM p LEFT JOIN about USING ("case") ORDER BY moment, id
"""
_CASES = """
WITH p AS (SELECT DISTINCT ON (id) * FROM read_parquet($predictions)
           WHERE certificate = $certificate AND "case" IS NOT NULL),
first AS (SELECT DISTINCT ON ("case") * FROM p ORDER BY "case", moment, id),
o AS (SELECT DISTINCT ON (id) * FROM read_parquet($outcomes)),
known AS (SELECT "case", min(moment) AS arrived, arg_min(reference, (moment, id)) AS earliest,
    arg_max(reference, (moment, id)) AS latest FROM o WHERE reference IS NOT NULL GROUP BY "case"),
about AS (SELECT "case", arg_max(patient, (moment, id)) AS patient FROM o GROUP BY "case"),
groups AS (SELECT DISTINCT ON ("case") "case", attributes FROM o
           WHERE cardinality(attributes) > 0 ORDER BY "case", moment DESC, id)
SELECT epoch_us(first.moment) AS "moment", coalesce(epoch_us(arrived), -1) AS arrived,
    coalesce(earliest, -1) AS earliest, coalesce(latest, -1) AS latest,
    coalesce(first.scores[$score], 'nan'::DOUBLE) AS score,
    coalesce(about.patient, first.patient, first."case") AS patient, attributes
FROM first LEFT JOIN known USING ("case") LEFT JOIN about USING ("case")
LEFT JOIN groups USING ("case") ORDER BY arrived, first.moment, first.id
"""


@dataclass(frozen=True, eq=False)
class Answers:
    """Every answer in the order of time.

    moment in microseconds since 1970; score NaN where there is none; inputs NaN where not told.
    `unit` is the patient as known when the answer was given, else the case: what is tested in the
    order of time must not change afterwards. `patient` is as outcomes told since.
    """

    moment: NDArray[np.int64]
    seconds: Floats
    failed: NDArray[np.bool_]
    score: Floats
    unit: NDArray[np.str_]
    patient: NDArray[np.str_]
    inputs: dict[str, Floats]


@dataclass(frozen=True, eq=False)
class Cases:
    """One row a case with an id, ordered by when its outcome came; -1 where there is none yet.

    `earliest` and `latest` are its first and its last outcome, `arrived` the moment of the first.
    """

    moment: NDArray[np.int64]
    arrived: NDArray[np.int64]
    earliest: NDArray[np.int8]
    latest: NDArray[np.int8]
    score: Floats
    patient: NDArray[np.str_]
    attributes: dict[str, NDArray[np.str_]]

    @property
    def n(self) -> int:
        """Number of cases."""
        return len(self.moment)


@dataclass(frozen=True, eq=False)
class Pilot:
    """All that was seen of one certified model here."""

    answers: Answers
    cases: Cases


def read_pilot(state: Path, certified: Certified) -> Pilot:
    """The pilot of a certificate. Raises Unavailable where DuckDB is missing or files go away."""
    try:
        import duckdb
    except ImportError as error:
        raise Unavailable(
            "watching a pilot needs DuckDB: pip install 'touchstone-tef[monitor]'"
        ) from error
    score = certified.summary.score
    named = {"score": "" if score is None else score.name, "certificate": certified.certificate}
    for _ in range(_TRIES):
        try:
            answers, cases = _asked(duckdb, state, named)
        except duckdb.IOException:
            continue  # a past day was merged meanwhile
        except duckdb.Error:
            break  # its message quotes the file
        return Pilot(_answers(answers), _cases(cases, tuple(certified.summary.attributes)))
    raise Unavailable(
        f"the files below {state} can't be read: one is damaged, or none of ours; move it away"
    )


def _asked(duckdb: Any, state: Path, named: dict[str, str]) -> tuple[Any, Any]:
    silent = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false",
              "threads": "2"}  # fmt: skip
    with duckdb.connect(":memory:", config=silent) as now:
        predictions = _source(now, "predictions", files(state / PREDICTIONS), prediction_schema())
        outcomes = _source(now, "outcomes", files(state / OUTCOMES), outcome_schema())

        def ask(text: str) -> Any:
            text = text.replace("read_parquet($predictions)", predictions)
            text = text.replace("read_parquet($outcomes)", outcomes)
            return now.sql(text, params=named).to_arrow_table()

        return ask(_ANSWERS), ask(_CASES)


def _source(now: Any, name: str, found: Sequence[Path], schema: Any) -> str:
    """A view over the files, or an empty table where there is none."""
    if not found:
        now.register(name, schema.empty_table())
        return name
    listed = ", ".join(map(_quoted, found))
    return f"read_parquet([{listed}], hive_partitioning=false)"


def _quoted(path: Path) -> str:
    """The path as a text that names this file alone, whatever signs of a pattern it holds."""
    plain = "".join(f"[{sign}]" if sign in "*?[" else sign for sign in str(path))
    return "'" + plain.replace("'", "''") + "'"


def _answers(table: Any) -> Answers:
    inputs = [dict(of or ()) for of in table["inputs"].to_pylist()]
    names = sorted({name for of in inputs for name in of})
    return Answers(
        moment=_column(table, "moment", np.int64),
        seconds=_column(table, "seconds", np.float64),
        failed=_column(table, "failed", np.bool_),
        score=_column(table, "score", np.float64),
        unit=_column(table, "unit", np.str_),
        patient=_column(table, "patient", np.str_),
        inputs={name: np.array([of.get(name, np.nan) for of in inputs]) for name in names},
    )


def _cases(table: Any, attributes: Sequence[str]) -> Cases:
    told = [dict(of or ()) for of in table["attributes"].to_pylist()]
    return Cases(
        moment=_column(table, "moment", np.int64),
        arrived=_column(table, "arrived", np.int64),
        earliest=_column(table, "earliest", np.int8),
        latest=_column(table, "latest", np.int8),
        score=_column(table, "score", np.float64),
        patient=_column(table, "patient", np.str_),
        attributes={
            name: np.array([of.get(name, "") for of in told], dtype=np.str_) for name in attributes
        },
    )


def _column(table: Any, name: str, kind: Any) -> NDArray[Any]:
    return np.array(table[name].to_pylist(), dtype=kind)
