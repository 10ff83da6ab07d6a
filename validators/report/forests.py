"""The forest plots of a report: which results stand on one axis, and what is marked there.

>>> tables = list(subgroup_tables(report.subgroups))
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from markupsafe import Markup

from validators.evidence import EndpointEvidence, SubgroupEvidence
from validators.outcome import Interval
from validators.report import words
from validators.report.forest import UNIT, Mark, Row, Scale, forest_plot, scale_for
from validators.robustness.evidence import RobustnessEvidence
from validators.sites.evidence import SitesEvidence


def drawn(svg: str) -> Markup:
    """A figure of ours: its texts were escaped where it was made."""
    return Markup(svg)  # noqa: S704


def endpoint_plot(endpoints: Sequence[EndpointEvidence]) -> Markup:
    """Endpoints between 0 and 1 on one axis; others (a slope, millimetres) are left out."""
    rows = [
        Row(
            label=words.metric_in_words(found.metric),
            estimate=found.estimate,
            low=found.interval.low if found.interval else None,
            high=found.interval.high if found.interval else None,
            outcome=found.outcome,
            goal=found.goal,
        )
        for found in endpoints
        if found.comparison is None and found.band is None and _on_unit_scale(found)
    ]
    axis = "value, with its goal as a bar"
    return drawn(forest_plot(rows, title="Endpoints", axis=axis, scale=UNIT))


def comparison_plot(endpoints: Sequence[EndpointEvidence]) -> Markup:
    """Differences from comparators: each must lie right of its margin, drawn as a bar."""
    rows = [
        Row(
            label=words.rule_in_words(f"endpoint:{found.metric} against {found.comparison.name}"),
            estimate=found.comparison.difference,
            low=found.comparison.interval.low if found.comparison.interval else None,
            high=found.comparison.interval.high if found.comparison.interval else None,
            outcome=found.outcome,
            goal=-found.comparison.margin,
        )
        for found in endpoints
        if found.comparison is not None
    ]
    return drawn(
        forest_plot(
            rows,
            title="The model less its comparator",
            axis="model less comparator, with the largest shortfall allowed as a bar  (better →)",
            scale=scale_for(_reach(rows)),
            marks=[Mark(0.0, "", dashed=False)],
        )
    )


def subgroup_tables(subgroups: Sequence[SubgroupEvidence]) -> Iterator[dict[str, Any]]:
    """One table and one forest plot an attribute and metric, in the protocol's order."""
    for (attribute, metric), found in groupby(subgroups, key=lambda s: (s.attribute, s.metric)):
        of_groups = list(found)
        first = of_groups[0]
        marks = [Mark(0.0, "", dashed=False)]
        if first.margin is not None:
            marks.append(Mark(first.margin, f"margin {first.margin:g}"))
        rows = [
            _row(row.group, row.gap, row.gap_interval, row, absent="too few to tell")
            for row in of_groups
        ]
        plot = forest_plot(
            rows,
            title=f"Gap in {words.metric_in_words(metric)} by {attribute}",
            axis=f"how far {words.metric_in_words(metric)} is behind the rest  (worse →)",
            scale=scale_for([*_reach(rows), *(mark.value for mark in marks)]),
            marks=marks,
        )
        yield {
            "attribute": attribute,
            "metric": metric,
            "rows": of_groups,
            "rule": first.rule,
            "margin": first.margin,
            "floor": first.floor,
            "clustered": any(row.clusters is not None for row in of_groups),
            "plot": drawn(plot),
        }


def hospital_plot(found: SitesEvidence) -> Markup:
    """Each hospital, then what they share and what another could expect."""
    rows = [
        Row(
            label=row.site,
            estimate=row.estimate,
            low=row.interval.low if row.interval else None,
            high=row.interval.high if row.interval else None,
            outcome="not_judged",
            absent="no value" if row.estimate is None else "no interval",
        )
        for row in found.rows
    ]
    if found.across is not None:
        of = found.across
        rows.append(Row("mean of hospitals", of.mean, of.interval.low, of.interval.high,
                        "not_judged"))  # fmt: skip
        rows.append(Row("another hospital", of.mean, of.prediction.low, of.prediction.high,
                        found.outcome))  # fmt: skip
    marks = [] if found.floor is None else [Mark(found.floor, f"floor {found.floor:g}")]
    metric = words.metric_in_words(found.metric)
    return drawn(
        forest_plot(
            rows,
            title=f"{words.sentence(metric)} by hospital",
            axis=metric,
            scale=_scale([*_reach(rows), *(mark.value for mark in marks)]),
            marks=marks,
        )
    )


def drop_plot(runs: Sequence[RobustnessEvidence]) -> Markup:
    """The drop of each metric in each perturbed run, the largest acceptable one as a bar."""
    rows = [
        Row(
            label=f"{words.metric_in_words(drop.metric)}, {run.perturbation.kind} "
            f"{run.perturbation.severity}".replace("_", " "),
            estimate=drop.drop,
            low=drop.interval.low if drop.interval else None,
            high=drop.interval.high if drop.interval else None,
            outcome=drop.outcome,
            goal=drop.maximum_drop,
            absent="run not made" if drop.drop is None else "no interval",
        )
        for run in runs
        for drop in run.drops
    ]
    return drawn(
        forest_plot(
            rows,
            title="Drop under perturbation",
            axis="drop, with the largest acceptable one as a bar  (worse →)",
            scale=scale_for(_reach(rows)),
            marks=[Mark(0.0, "", dashed=False)],
        )
    )


def _row(
    label: str, value: float | None, interval: Interval | None, of: SubgroupEvidence, absent: str
) -> Row:
    low, high = (interval.low, interval.high) if interval else (None, None)
    return Row(label, value, low, high, of.outcome, absent=absent)


def _reach(rows: Sequence[Row]) -> list[float]:
    """All that must lie on the axis."""
    edges = [edge for row in rows for edge in (row.estimate, row.low, row.high, row.goal)]
    return [edge for edge in edges if edge is not None]


def _scale(values: Sequence[float]) -> Scale:
    return UNIT if all(0 <= value <= 1 for value in values) else scale_for(values)


def _on_unit_scale(found: EndpointEvidence) -> bool:
    """Whether the estimate, its interval and its goal lie between 0 and 1."""
    shown = [found.estimate, found.goal]
    if found.interval is not None:
        shown += [found.interval.low, found.interval.high]
    return found.metric != "calibration_slope" and all(
        0 <= value <= 1 for value in shown if value is not None
    )
