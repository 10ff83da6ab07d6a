"""Every rule with what was found, as a certificate shows it: of the released report alone.

    >>> results = certified_results(report, released, protocol)
    >>> recompute(results).overall == report.verdict.overall
    True

Rules
-----
1. A number is here only if the released report shows it. What is read of the complete report is
   whether an interval keeps its limit, which the outcome says already: it is then rounded outward
   up to the limit and not across (`registry.trust.verdict_rules`, rule 3).
2. A gating rule on a group whose numbers are withheld keeps its outcome: that all of them passed,
   or which are conditions, the verdict says already. A reported one is `suppressed`.
3. Groups made of hospitals are one result a metric, without number or name: the worst of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from registry.trust.verdict_rules import About, Limits, Outcome, Result, ShownInterval
from validators.evidence import EndpointEvidence, Report, SubgroupEvidence
from validators.fairness.judging import worst
from validators.metrics.measure import Measure
from validators.outcome import Interval
from validators.protocol.endpoints import endpoint_key
from validators.protocol.schema import Protocol

Row = Mapping[str, Any]
HOSPITALS = "hospitals"
"""What stands in place of an attribute and group that would name one."""


def certified_results(report: Report, released: Row, protocol: Protocol) -> tuple[Result, ...]:
    """The results of `report`; `released` is its released form, `certified`."""
    return (
        *_endpoints(report, released, protocol),
        *_groups(report, released, protocol),
        *_hospitals(report, released, protocol),
        *_sites(report, released, protocol),
        *_drops(report, released, protocol),
        *_shares(report, released, protocol),
    )


def limits(
    about: About,
    least: float | None,
    most: float | None,
    shown: Row | None,
    exact: Interval | tuple[float, float] | None,
) -> Limits:
    """The limits with the released interval, its ends taken back to a limit that they kept."""
    if shown is None or exact is None:
        return Limits(about=about, least=least, most=most)
    low, high = (exact.low, exact.high) if isinstance(exact, Interval) else exact
    kept_low = least is not None and low >= least
    kept_high = most is not None and high <= most
    return Limits(
        about=about,
        least=least,
        most=most,
        interval=ShownInterval(
            low=max(shown["low"], least) if kept_low and least is not None else shown["low"],
            high=min(shown["high"], most) if kept_high and most is not None else shown["high"],
            level=shown["level"],
            method=shown["method"],
        ),
    )


def _endpoints(report: Report, released: Row, protocol: Protocol) -> Iterator[Result]:
    lenient = {endpoint.key: endpoint.if_insufficient for endpoint in protocol.endpoints}
    for found, row in zip(report.endpoints, released["endpoints"], strict=True):
        key = endpoint_key(found.metric, found.comparison.name if found.comparison else None)
        measure = protocol.measures[found.metric]
        compared = row.get("comparison")
        yield _result(
            f"endpoint:{key}",
            found,
            lenient[key],
            estimate=compared["difference"] if compared else row["estimate"],
            asked=tuple(_asked_of(found, row, measure)),
            outcome=found.outcome,
        )


def _asked_of(found: EndpointEvidence, row: Row, measure: Measure) -> Iterator[Limits]:
    if found.comparison is not None:
        margin = found.comparison.margin
        shown = row["comparison"]["interval"]
        least = -margin if margin else 0.0
        yield limits("difference", least, None, shown, found.comparison.interval)
    elif found.band is not None:
        yield limits("value", *found.band, row["interval"], found.interval)
    elif found.goal is not None:
        ends = _toward(measure, found.goal)
        yield limits("value", *ends, row["interval"], found.interval)


def _toward(measure: Measure, limit: float) -> tuple[float | None, float | None]:
    return (None, limit) if measure.direction == "lower" else (limit, None)


def _groups(report: Report, released: Row, protocol: Protocol) -> Iterator[Result]:
    rows = {(r["attribute"], r["group"], r["metric"]): r for r in released["subgroups"]}
    for found in report.subgroups:
        row = rows.get((found.attribute, found.group, found.metric))
        if row is None:
            continue  # a hospital
        gates = found.rule == "gating"
        counts = {name: row.get(name) for name in ("n", "positives", "negatives")}
        yield _result(
            f"subgroup:{found.attribute}={found.group}:{found.metric}",
            found,
            _leniency(protocol, found),
            estimate=row["estimate"],
            asked=_asked_of_group(found, row, protocol.measures[found.metric]),
            outcome=found.outcome if gates else row["outcome"],
            counts={name: count for name, count in counts.items() if count is not None},
        )


def _asked_of_group(found: SubgroupEvidence, row: Row, measure: Measure) -> tuple[Limits, ...]:
    asked = []
    if found.margin is not None:
        least = -found.margin if measure.direction == "band" else None
        asked.append(limits("gap", least, found.margin, row["gap_interval"], found.gap_interval))
    if found.floor is not None:
        ends = _toward(measure, found.floor)
        asked.append(limits("value", *ends, row["interval"], found.interval))
    return tuple(asked)


def _hospitals(report: Report, released: Row, protocol: Protocol) -> Iterator[Result]:
    shown = {(row["attribute"], row["group"], row["metric"]) for row in released["subgroups"]}
    of: dict[tuple[str, str], list[SubgroupEvidence]] = {}
    for found in report.subgroups:
        if found.rule == "gating" and (
            (found.attribute, found.group, found.metric) not in shown
        ):  # fmt: skip
            of.setdefault((found.metric, _leniency(protocol, found)), []).append(found)
    for (metric, lenient), rows in of.items():
        measure = protocol.measures[metric]
        outcome = worst([row.outcome for row in rows])
        asked = {limit for row in rows
                 for limit in _asked_of_group(row, _NOTHING, measure)}  # fmt: skip
        yield Result(
            id=f"subgroup:{HOSPITALS}:{metric}:{lenient}",
            metric=metric,
            rule="gating",
            if_insufficient="block" if lenient == "block" else "conditional",
            asked=tuple(sorted(asked, key=repr)),
            estimate=None,
            counts={},
            outcome=outcome,
        )


_NOTHING: Row = {"gap_interval": None, "interval": None}


def _leniency(protocol: Protocol, found: SubgroupEvidence) -> str:
    return next(
        rule.if_insufficient
        for rule in protocol.subgroups
        if (rule.name, rule.metric) == (found.attribute, found.metric)
    )


def _sites(report: Report, released: Row, protocol: Protocol) -> Iterator[Result]:
    asked = {rule.metric: rule.if_insufficient for rule in protocol.sites.metrics} \
        if protocol.sites else {}  # fmt: skip
    for found, row in zip(report.sites, released["sites"], strict=True):
        across = found.across
        exact = None if across is None else across.prediction
        yield _result(
            f"sites:{found.metric}",
            found,
            asked[found.metric],
            estimate=row["mean"],
            asked=()
            if found.floor is None
            else (limits("prediction", found.floor, None, row["prediction"], exact),),
            outcome=found.outcome,
        )


def _drops(report: Report, released: Row, protocol: Protocol) -> Iterator[Result]:
    lenient: dict[tuple[str, str], str] = {
        (rule.perturbation.name, rule.metric): rule.if_insufficient for rule in protocol.robustness
    }
    for run, rows in zip(report.robustness, released["robustness"], strict=True):
        name = run.perturbation.name
        for found, row in zip(run.drops, rows["drops"], strict=True):
            yield _result(
                f"robustness:{name}:{found.metric}",
                found,
                lenient[(name, found.metric)],
                estimate=row["drop"],
                asked=(limits("drop", None, found.maximum_drop, row["interval"], found.interval),),
                outcome=found.outcome,
            )


def _shares(report: Report, released: Row, protocol: Protocol) -> Iterator[Result]:
    cases, given = released["cases"], {rule.id: rule for rule in report.verdict.rules}
    counted = [("failure_rate", cases["failed"], protocol.failed_cases.maximum_rate)]
    if protocol.indeterminate is not None:
        most = protocol.indeterminate.maximum_share
        counted.append(("indeterminate_share", cases.get("indeterminate"), most))
    for name, count, most in counted:
        yield Result(
            id=name,
            metric=name,
            rule="gating",
            if_insufficient="block",
            asked=(Limits(about="share", least=None, most=most, count=count, cases=cases["n"]),),
            estimate=None,
            counts={},
            outcome=given[name].outcome,
        )


def _result(
    name: str,
    found: Any,
    if_insufficient: str,
    *,
    estimate: float | None,
    asked: Sequence[Limits],
    outcome: Outcome,
    counts: Mapping[str, int] | None = None,
) -> Result:
    return Result(
        id=name,
        metric=found.metric,
        rule="gating" if found.rule == "gating" else "reported",
        if_insufficient="conditional" if if_insufficient == "conditional" else "block",
        asked=tuple(asked),
        estimate=estimate,
        counts=dict(counts or {}),
        outcome=outcome,
    )
