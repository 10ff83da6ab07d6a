"""What leaves of comparisons, hospitals, perturbed runs, drift and the certified version before.

Rules: `disclosure`.
"""

from collections.abc import Mapping
from typing import Any

from validators.comparators.predecessor_evidence import PredecessorEvidence, VersionDifference
from validators.evidence import Comparison, SubgroupEvidence
from validators.report.rounding import nearest, outward
from validators.report.withheld import Hidden
from validators.robustness.evidence import DropEvidence, RobustnessEvidence
from validators.sites.evidence import SitesEvidence

FEWEST_HOSPITALS = 5


def comparison_released(found: Comparison, decimals: int, *, hide: bool) -> dict[str, Any]:
    """The difference from a comparator; what the comparator reached stays."""
    return {
        "name": found.name,
        "kind": found.kind,
        "margin": found.margin,
        "difference": None if hide else nearest(found.difference, decimals),
        "interval": None if hide else outward(found.interval, decimals),
    }


def within_released(found: SubgroupEvidence, decimals: int) -> dict[str, Any] | None:
    """A shown group's gap within hospitals and whether its sign reverses."""
    if found.within_sites is None:
        return None
    of = found.within_sites
    return {"gap": nearest(of.gap, decimals), "reversal": of.reversal}


def sites_released(found: SitesEvidence, hidden: Hidden, decimals: int) -> dict[str, Any]:
    """What hospitals share, where each of at least five can be counted; else the outcome alone."""
    of = found.across
    counts = [
        count
        for row in found.rows
        for count in (row.n, row.positives, row.negatives)
        if count is not None
    ]
    shown = (
        of is not None
        and of.sites >= FEWEST_HOSPITALS
        and min(counts) >= hidden.k
        and not hidden.hides_metric(found.metric)
    )
    numbers = (
        {
            "hospitals": of.sites,
            "mean": nearest(of.mean, decimals),
            "interval": outward(of.interval, decimals),
            "prediction": outward(of.prediction, decimals),
        }
        if of is not None and shown
        else {"hospitals": None, "mean": None, "interval": None, "prediction": None}
    )
    return {
        "metric": found.metric,
        **numbers,
        "floor": found.floor,
        "rule": found.rule,
        "outcome": found.outcome,
    }


def run_released(run: RobustnessEvidence, hidden: Hidden, decimals: int) -> dict[str, Any]:
    """What was done to the inputs and what it cost."""
    few = hidden.few_failed or hidden.few(run.failed)
    of = run.perturbation
    return {
        "perturbation": of.name,
        "kind": of.kind,
        "modality": of.modality,
        "severity": of.severity,
        "tensor": of.tensor,
        "amount": run.amount,
        "unit": run.unit,
        "failed": None if hidden.few(run.failed) or hidden.classes else run.failed,
        "drops": [_drop(drop, hidden, decimals, few=few) for drop in run.drops],
    }


def _drop(found: DropEvidence, hidden: Hidden, decimals: int, *, few: bool) -> dict[str, Any]:
    hide = hidden.hides_metric(found.metric)
    return {
        "metric": found.metric,
        "drop": None if hide else nearest(found.drop, decimals),
        "interval": None if hide or few else outward(found.interval, decimals),
        "maximum_drop": found.maximum_drop,
        "rule": found.rule,
        "outcome": found.outcome,
    }


def drift_released(hidden: Hidden) -> list[dict[str, Any]]:
    """One bit of each attribute all of whose cells can be counted; the others are not named.

    Whoever declared the data knows its counts. The bit says on which side of a limit the index of
    all cells lies: no count follows from it.
    """
    if hidden.report.drift is None or hidden.classes:
        return []
    return [
        {"attribute": of.attribute, "shifted": of.shifted}
        for of in hidden.report.drift.attributes
        if of.shifted is not None
        and of.cohort >= hidden.k
        and all(cell.cohort >= hidden.k for cell in of.cells)
    ]


def predecessor_released(
    found: PredecessorEvidence, cases: Mapping[str, Any], hidden: Hidden, decimals: int
) -> dict[str, Any]:
    """The new version against the certified one: both values, their difference, changed sides.

    `cases` are the report's own as released: both versions were run on all of them. Where the
    certified version failed on a case the difference goes: it counts failures otherwise than the
    values do, so the three would tell how many of a class failed. Each count of changed sides
    follows from the other by what the rates say, so few in one direction withhold both.
    """
    named = {of.metric: of for of in reversed(hidden.report.endpoints)}
    compared = not found.not_compared
    return {
        "certified": found.certified.model_dump(mode="json", exclude={"predictions"}),
        "not_compared": found.not_compared,
        "threshold": found.threshold,
        "cases": cases["n"] if compared else None,
        "patients": cases["patients"] if compared else None,
        "endpoints": [
            _difference(of, found, hidden, decimals, hide=hidden.hides_endpoint(named[of.metric]))
            for of in found.endpoints
        ],
        "changed": _changed(found, hidden),
        "statement": found.statement,
    }


def _difference(
    found: VersionDifference, of: PredecessorEvidence, hidden: Hidden, decimals: int, *, hide: bool
) -> dict[str, Any]:
    hide = hide or (found.metric == "failure_rate" and hidden.few(of.failed))
    apart = hide or of.failed != 0 or hidden.few_failed
    return {
        "metric": found.metric,
        "certified": None if hide else nearest(found.certified, decimals),
        "new": None if hide else nearest(found.new, decimals),
        "difference": None if apart else nearest(found.difference, decimals),
        "interval": None if apart else outward(found.interval, decimals),
    }


def _changed(found: PredecessorEvidence, hidden: Hidden) -> dict[str, int | None] | None:
    """Of cases that were left out (failed, undecided) the number is not told."""
    of = found.changed
    if of is None:
        return None
    counts = (of.to_positive, of.to_negative, of.cases - of.to_positive - of.to_negative)
    few = hidden.few_failed or hidden.few(found.failed) or any(map(hidden.few, counts))
    shown = not few and not hidden.classes
    return {
        "cases": of.cases if shown and of.cases == hidden.report.case_flow.sealed else None,
        "to_positive": of.to_positive if shown else None,
        "to_negative": of.to_negative if shown else None,
    }
