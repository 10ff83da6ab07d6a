"""Ranked hits and false positives, counted in every bootstrap replicate at once.

From the highest score down, each distinct score is one operating point: the hits and the false
positives at or above it. A replicate weights patients by how often they were drawn, so its curve
needs the same sorting and other sums only.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_BLOCK = 2_000_000
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Ranking:
    """Entries from the highest score down; `hits` and `false` say how many each stands for."""

    patient: NDArray[np.int64] = field(repr=False)
    hits: Floats = field(repr=False)
    false: Floats = field(repr=False)
    last: NDArray[np.int64] = field(repr=False)
    """The position of the last entry of each distinct score; [points]."""
    lesions: Floats = field(repr=False)
    """[patients]"""
    scans: Floats = field(repr=False)
    """[patients]"""

    def curves(self, drawn: NDArray[np.int64]) -> Iterator[tuple[Floats, Floats, Floats, Floats]]:
        """Blocks of replicates: hits and false positives at each point ([some, points]), then the
        number of lesions and of scans ([some]). `drawn` is [replicates, patients].
        """
        rows = max(1, _BLOCK // max(len(self.patient), 1))
        for start in range(0, len(drawn), rows):
            block = drawn[start : start + rows].astype(np.float64)
            weight = block[:, self.patient]
            hits = np.cumsum(weight * self.hits, axis=1)[:, self.last]
            false = np.cumsum(weight * self.false, axis=1)[:, self.last]
            yield hits, false, block @ self.lesions, block @ self.scans


def ranking(
    score: Floats, patient: NDArray[np.int64], hits: Floats, false: Floats,
    lesions: Floats, scans: Floats,
) -> Ranking:  # fmt: skip
    """Sorts the entries; all arguments but the last two are [entries]."""
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.diff(score[order]) != 0, True) if len(score) else np.zeros(0, bool)
    return Ranking(patient[order], hits[order], false[order], np.flatnonzero(ends), lesions, scans)


def sensitivity_at(ranked: Ranking, drawn: NDArray[np.int64], rates: Floats) -> Floats:
    """Share of lesions hit at the lowest score with at most each rate of false positives a scan.

    [replicates, rates]; NaN in a replicate without lesions. No interpolation: an operating point
    that no threshold gives is not credited (free-response ROC, Bunch et al. 1977).
    """
    blocks = []
    for hits, false, lesions, scans in ranked.curves(drawn):
        with_none = np.concatenate([np.zeros((len(hits), 1)), hits], axis=1)
        found = np.empty((len(hits), len(rates)))
        for column, rate in enumerate(rates):
            allowed = false <= (rate * scans * (1 + _ROUNDING))[:, None]
            found[:, column] = np.take_along_axis(
                with_none, allowed.sum(axis=1, keepdims=True), axis=1
            )[:, 0]
        blocks.append(_per_lesion(found, lesions[:, None]))
    return np.concatenate(blocks)


def average_precision(ranked: Ranking, drawn: NDArray[np.int64]) -> Floats:
    """The sum over operating points of the gain in sensitivity times the precision; [replicates].

    Lesions that no candidate hits are never found: the sum is over all lesions (picai-eval's
    definition; that of scikit-learn where each lesion is hit). NaN without lesions.
    """
    blocks = []
    for hits, false, lesions, _ in ranked.curves(drawn):
        gain = np.diff(hits, axis=1, prepend=0.0)
        called = hits + false
        precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
        blocks.append(_per_lesion((gain * precision).sum(axis=1), lesions))
    return np.concatenate(blocks)


def _per_lesion(found: Floats, lesions: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(lesions > 0, found / np.where(lesions > 0, lesions, 1), np.nan))
