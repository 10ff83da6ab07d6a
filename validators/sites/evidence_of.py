"""The evidence across hospitals that a protocol asks for, from a table of cases.

Rules
-----
1. One row of evidence a metric: each hospital, the rest without it, and from five hospitals on the
   random-effects summary (`validators.sites.by_site`), all at the alpha of an attempt.
2. A floor is judged by the prediction interval: what another hospital like these could expect.
   Without a floor nothing is judged.
3. `within` is the gap of a group compared within hospitals (`validators.sites.stratified`); it
   judges nothing and warns where the crude gap has another sign.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from validators.cases import CaseTable
from validators.metrics.binary import share_right
from validators.metrics.measure import Cases, Side, Undefined
from validators.outcome import Interval, Outcome
from validators.protocol.questions import SiteRule
from validators.protocol.schema import Protocol
from validators.sites.by_site import Sites, Summary, by_site, judge_prediction
from validators.sites.evidence import AcrossSites, SiteRow, SitesEvidence, WithinSites
from validators.sites.stratified import ShareOf, stratified_gap
from validators.verdict import with_enough_patients

SideOf = Callable[[NDArray[np.bool_], str], Side | Undefined]
STRATIFIED = ("sensitivity", "specificity")


def sites_evidence(table: Cases, protocol: Protocol, side_of: SideOf) -> tuple[SitesEvidence, ...]:
    """What the protocol's `sites` asks for; `side_of` gives a metric among the chosen cases."""
    if protocol.sites is None:
        return ()
    site = table.attributes[protocol.sites.attribute]
    return tuple(
        _of_metric(table, site, rule, protocol, side_of) for rule in protocol.sites.metrics
    )  # fmt: skip


def within(
    table: CaseTable, inside: NDArray[np.bool_], metric: str, protocol: Protocol
) -> WithinSites | None:
    """The gap of the cases `inside` within hospitals; None where it can't be asked or has none."""
    if protocol.sites is None or metric not in STRATIFIED:
        return None
    site = table.attributes[protocol.sites.attribute]
    class_of = table.positive if metric == "sensitivity" else ~table.positive
    alpha = protocol.each_alpha
    found = stratified_gap(site, inside, _share_of(table, class_of, protocol), tail=alpha)
    if isinstance(found, Undefined):
        return None
    low, high = found.gating(alpha)
    return WithinSites(
        gap=found.value,
        interval=Interval(low=low, high=high, level=1 - 2 * alpha, method=found.method),
        sites=len(found.sites),
        opposite=len(found.opposite),
        reversal=found.reversal,
    )


def _share_of(table: CaseTable, class_of: NDArray[np.bool_], protocol: Protocol) -> ShareOf:
    def share(chosen: NDArray[np.bool_], failed_is_right: bool) -> object:
        used = chosen & class_of
        if not used.any():
            return Undefined("there is no such case", 0, None)
        at = protocol.binary.threshold
        return share_right(table, at, used, failed_is_right=failed_is_right)

    return share  # type: ignore[return-value]


def _of_metric(
    table: Cases, site: NDArray[np.str_], rule: SiteRule, protocol: Protocol, side_of: SideOf
) -> SitesEvidence:
    found = by_site(site, lambda chosen: side_of(chosen, rule.metric), protocol.each_alpha)
    outcome: Outcome = "not_judged"
    reason = found.reason or "reported; no floor was set"
    if rule.floor is not None:
        outcome, reason = judge_prediction(found.summary, rule.floor, found.reason)
        patients = None if table.patient is None else len(np.unique(table.patient))
        outcome, reason = with_enough_patients(outcome, reason, patients)
    return SitesEvidence(
        attribute=protocol.sites.attribute if protocol.sites else "",
        metric=rule.metric,
        rows=_rows(table, site, found),
        across=None if found.summary is None else _across(found.summary),
        floor=rule.floor,
        rule=rule.rule,
        outcome=outcome,
        reason=reason,
    )


def _rows(table: Cases, site: NDArray[np.str_], found: Sites) -> tuple[SiteRow, ...]:
    rows = []
    for of in found.estimates:
        here = site == of.site
        n = int(here.sum())
        positives = int((here & table.positive).sum()) if isinstance(table, CaseTable) else None
        rows.append(
            SiteRow(
                site=of.site,
                n=n,
                positives=positives,
                negatives=None if positives is None else n - positives,
                clusters=None if table.patient is None else len(np.unique(table.patient[here])),
                estimate=of.value,
                interval=of.interval,
                without=of.without,
                without_interval=of.without_interval,
                note=of.note,
            )
        )
    return tuple(rows)


def _across(of: Summary) -> AcrossSites:
    return AcrossSites(
        mean=of.mean, interval=of.interval, prediction=of.prediction, tau_squared=of.tau_squared,
        i_squared=of.i_squared, q=of.q, q_p_value=of.q_p_value, sites=of.sites, scale=of.scale,
    )  # fmt: skip
