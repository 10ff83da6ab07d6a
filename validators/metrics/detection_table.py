"""The table of a detection task: scans, the lesions in them, and a model's candidates.

    >>> table = read_detection(Path("candidates.csv"), settings, ("site",), True, {})

One long file: `case` (the scan), `kind` (scan, lesion or candidate), `patient` (if the protocol
clusters by patient), `lesion` (an id within its scan), `score`, `hit`, the attributes, and, if
there is one, `failure`.

Rules
-----
1. Each scan has one row of kind `scan`, with its patient, its attributes and, if the prediction
   failed, a code in `failure`. A scan whose model found nothing has such a row and no candidate:
   that it ran is said, not guessed.
2. A `lesion` row holds its id. A `candidate` row holds a score in [0, 1], and in `hit` the lesion
   that it hits or repeats, in the same scan, or nothing (`validators.metrics.matching`). Of
   several candidates of one lesion the best score counts; the others count as nothing.
3. A scan with more candidates than the settings allow is a failed prediction
   (`too_many_candidates`). A failed scan has no candidates here.
4. Columns are read-only; messages and `repr` hold no value of a case.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.metrics.case_columns import CaseColumns, column, locked
from validators.numbers import numbers
from validators.protocol.tasks import DetectionSettings
from validators.table import check_cases, check_mapping, failures, groups, patients, read_columns
from validators.table_file import TableFile, open_table

KINDS = ("scan", "lesion", "candidate")
TOO_MANY = "too_many_candidates"


@dataclass(frozen=True, eq=False)
class DetectionTable(CaseColumns):
    """n scans. Raises Invalid for whatever breaks the module's rules."""

    failed: NDArray[np.bool_] = field(repr=False)
    """Which scans have no usable prediction; [n]."""
    lesion_scan: NDArray[np.int64] = field(repr=False)
    """The scan of each lesion; [lesions]."""
    candidate_scan: NDArray[np.int64] = field(repr=False)
    """The scan of each candidate; [candidates]."""
    score: NDArray[np.float64] = field(repr=False)
    """[candidates]"""
    hit: NDArray[np.int64] = field(repr=False)
    """The lesion (its position) that each candidate hits or repeats, or -1; [candidates]."""

    def __post_init__(self) -> None:
        self._set("failed", locked(column("failed", self.failed, self.n).astype(np.bool_)))
        self._check_columns(self.failed)
        for name in ("lesion_scan", "candidate_scan", "hit"):
            self._set(name, locked(_codes(name, getattr(self, name))))
        m = len(self.candidate_scan)
        score = column("score", self.score, m)
        self._set("score", locked(score.astype(np.float64)))
        column("hit", self.hit, m)
        for name, low, high in (
            ("lesion_scan", 0, self.n), ("candidate_scan", 0, self.n),
            ("hit", -1, len(self.lesion_scan)),
        ):  # fmt: skip
            of = getattr(self, name)
            if odd := int(((of < low) | (of >= high)).sum()):
                raise Invalid(f"{odd} rows of {name} name what does not exist")
        if odd := int((~((self.score >= 0) & (self.score <= 1))).sum()):
            raise Invalid(f"{odd} of {m} scores lie outside [0, 1]")
        hits = self.hit >= 0
        elsewhere = self.lesion_scan[self.hit[hits]] != self.candidate_scan[hits]
        if odd := int(elsewhere.sum()):
            raise Invalid(f"{odd} candidates hit a lesion of another scan")
        if odd := int(self.failed[self.candidate_scan].sum()):
            raise Invalid(f"{odd} candidates belong to scans that failed")

    @property
    def n(self) -> int:
        """Number of scans, failed ones included."""
        return len(np.atleast_1d(self.failed))

    @property
    def cluster(self) -> NDArray[np.int64]:
        """The patient of each scan, or the scan itself where scans are independent; [n]."""
        return np.arange(self.n) if self.patient is None else self.patient

    def best_scores(self) -> NDArray[np.float64]:
        """The best score of the candidates of each lesion, -inf where there is none; [lesions]."""
        best = np.full(len(self.lesion_scan), -np.inf)
        hits = self.hit >= 0
        np.maximum.at(best, self.hit[hits], self.score[hits])
        return best

    def subset(self, chosen: NDArray[np.bool_]) -> Self:
        """The chosen scans ([n]), patients recoded; attributes and counts of codes are dropped."""
        scan = np.cumsum(chosen) - 1
        lesions, candidates = chosen[self.lesion_scan], chosen[self.candidate_scan]
        lesion = np.append(np.cumsum(lesions) - 1, -1)  # the last: no lesion
        return type(self)(
            failed=self.failed[chosen],
            lesion_scan=scan[self.lesion_scan[lesions]],
            candidate_scan=scan[self.candidate_scan[candidates]],
            score=self.score[candidates],
            hit=lesion[self.hit[candidates]],
            patient=self._chosen_patients(chosen),
        )


def _codes(name: str, given: Any) -> NDArray[np.int64]:
    values = np.asarray(given)
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
        raise Invalid(f"{name} must be one column of whole numbers")
    return values.astype(np.int64)


def read_detection(
    path: Path,
    settings: DetectionSettings,
    attributes: tuple[str, ...],
    clustered: bool,
    columns: Mapping[str, str],
) -> DetectionTable:
    """The scans of a table (CSV or Parquet), checked.

    Raises Invalid, in one line that says what to do, for anything that breaks the rules above.
    """
    needed = ["case", *(["patient"] if clustered else []), "kind", "lesion", "score", "hit",
              *attributes]  # fmt: skip
    check_mapping(columns, [*needed, "patient", "failure"])
    file = open_table(path)
    wanted, data = read_columns(file, needed, columns)
    where = {kind: _rows(data["kind"], kind) for kind in KINDS}
    rows = {kind: {name: of.filter(pa.array(where[kind])) for name, of in data.items()}
            for kind in KINDS}  # fmt: skip
    if other := len(data["kind"]) - sum(int(of.sum()) for of in where.values()):
        raise Invalid(
            f"{file.path.name}: {wanted['kind']} is none of scan, lesion, candidate in {other} rows"
        )
    scans = rows["scan"]
    if not len(scans["case"]):
        raise Invalid(f"{file.path.name} has no row of kind scan; each scan needs one")
    check_cases(file, scans["case"])
    failure = failures(file, scans.get("failure"), len(scans["case"]))
    number = {case: at for at, case in enumerate(scans["case"].to_pylist())}
    lesion_scan, candidate_scan = (_scan(file, kind, rows[kind], number, scans.get("patient"))
                                   for kind in KINDS[1:])  # fmt: skip
    hit = _hits(file, rows, lesion_scan, candidate_scan)
    score = _scores(file, wanted["score"], rows["candidate"]["score"])
    if both := int((failure[candidate_scan] != "").sum()):
        raise Invalid(
            f"{file.path.name}: {both} candidates belong to scans with a failure code; keep one of "
            "the two"
        )
    counted = np.bincount(candidate_scan, minlength=len(number))
    failure = np.where(counted > settings.maximum_candidates, TOO_MANY, failure)
    kept = failure[candidate_scan] == ""
    return DetectionTable(
        failed=failure != "",
        lesion_scan=lesion_scan,
        candidate_scan=candidate_scan[kept],
        score=score[kept],
        hit=hit[kept],
        patient=patients(file, wanted["patient"], scans["patient"]) if clustered else None,
        attributes={name: groups(file, wanted[name], scans[name]) for name in attributes},
        failed_by_code=dict(sorted(Counter(failure[failure != ""].tolist()).items())),
    )


def _rows(kinds: pa.Array, kind: str) -> NDArray[np.bool_]:
    return np.array([of.lower() == kind for of in kinds.to_pylist()], dtype=np.bool_)


def _scan(
    file: TableFile, kind: str, rows: Mapping[str, pa.Array], number: Mapping[str, int],
    patient: pa.Array | None,
) -> NDArray[np.int64]:  # fmt: skip
    """The position of the scan that each row belongs to."""
    scan = np.array([number.get(case, -1) for case in rows["case"].to_pylist()], dtype=np.int64)
    if alone := int((scan < 0).sum()):
        raise Invalid(
            f"{file.path.name}: {alone} rows of kind {kind} belong to a scan without a row of kind "
            "scan; each scan needs one"
        )
    if patient is not None:
        of_scan, given = patient.to_pylist(), rows["patient"].to_pylist()
        differ = sum(name not in ("", of_scan[at]) for at, name in zip(scan, given, strict=True))
        if differ:
            raise Invalid(
                f"{file.path.name}: {differ} rows of kind {kind} name another patient than the row "
                "of their scan"
            )
    codes = rows["failure"].to_pylist() if "failure" in rows else []
    if coded := sum(code != "" for code in codes):
        raise Invalid(
            f"{file.path.name}: {coded} rows of kind {kind} have a failure code; it belongs in the "
            "row of the scan"
        )
    return scan


def _hits(
    file: TableFile, rows: Mapping[str, Mapping[str, pa.Array]], lesion_scan: NDArray[np.int64],
    candidate_scan: NDArray[np.int64],
) -> NDArray[np.int64]:  # fmt: skip
    lesions = rows["lesion"]["lesion"].to_pylist()
    if empty := sum(name == "" for name in lesions):
        raise Invalid(f"{file.path.name}: lesion is empty in {empty} rows of kind lesion")
    position = {of: at for at, of in enumerate(zip(lesion_scan.tolist(), lesions, strict=True))}
    if twice := len(lesions) - len(position):
        raise Invalid(f"{file.path.name}: {twice} rows repeat a lesion of the same scan")
    named = list(zip(candidate_scan.tolist(), rows["candidate"]["hit"].to_pylist(), strict=True))
    if unknown := sum(of[1] != "" and of not in position for of in named):
        raise Invalid(
            f"{file.path.name}: hit names no lesion of its scan in {unknown} rows; leave it empty "
            "for a false positive"
        )
    return np.array([position.get(of, -1) for of in named], dtype=np.int64)


def _scores(file: TableFile, name: str, data: pa.Array) -> NDArray[np.float64]:
    score = numbers(file, name, data, 0.0, 1.0)
    if missing := int(np.isnan(score).sum()):
        raise Invalid(
            f"{file.path.name}: {name} is empty or NaN in {missing} rows of kind candidate; give "
            "each candidate a score"
        )
    return score
