"""Many hospitals' summaries into one value, with the question that the value answers.

    >>> pooled([north, south], "sensitivity")      # of all cases: large hospitals count more
    >>> averaged([north, south], "sensitivity")    # of hospitals: each counts alike

The two differ wherever hospitals differ in size and in performance. A case drawn from all those
examined meets the first; a hospital drawn from all hospitals meets the second
(`validators.sites.by_site` has its uncertainty).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal, Protocol, Self, TypeVar

from registry.trust.errors import Invalid
from validators.intervals.share import Share
from validators.merging.confusion import Confusion
from validators.metrics.measure import Undefined

Question = Literal["a case drawn from all cases", "a hospital drawn from all hospitals"]
Metric = Literal["sensitivity", "specificity"]


class Mergeable(Protocol):
    """A summary of this room."""

    def merge(self, other: Self, /) -> Self:
        """Both together."""


Summary = TypeVar("Summary", bound=Mergeable)


@dataclass(frozen=True)
class Labelled:
    """A value and what it is the value of; `hospitals` are those that have cases of the class."""

    question: Question
    value: float
    n: int
    hospitals: int


def merged(summaries: Sequence[Summary]) -> Summary:
    """All of them in one; raises Invalid where there is none."""
    if not summaries:
        raise Invalid("there is no summary to merge")
    return reduce(lambda first, second: first.merge(second), summaries)


def pooled(summaries: Sequence[Confusion], metric: Metric) -> Labelled | Undefined:
    """The metric over all cases of all hospitals; each summary must be of one hospital."""
    share = _share(merged(_single(summaries)), metric)
    if isinstance(share, Undefined):
        return share
    having = sum(isinstance(_share(one, metric), Share) for one in summaries)
    return Labelled("a case drawn from all cases", share.value, share.n, having)


def averaged(summaries: Sequence[Confusion], metric: Metric) -> Labelled | Undefined:
    """The mean of the hospitals' own values; each summary must be of one hospital."""
    merged(_single(summaries))  # refuses a hospital that is there twice
    found = [share for one in summaries if isinstance(share := _share(one, metric), Share)]
    if not found:
        return Undefined("no hospital has a case of this class", 0, None)
    mean = sum(share.value for share in found) / len(found)
    n = sum(share.n for share in found)
    return Labelled("a hospital drawn from all hospitals", mean, n, len(found))


def _single(summaries: Sequence[Confusion]) -> Sequence[Confusion]:
    if any(len(one.hospitals) > 1 for one in summaries):
        raise Invalid("a summary of several hospitals is already merged; give single ones")
    return summaries


def _share(summary: Confusion, metric: Metric) -> Share | Undefined:
    side = summary.positives if metric == "sensitivity" else summary.negatives
    return side.share()
