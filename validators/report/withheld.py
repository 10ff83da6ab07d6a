"""What of one report is withheld, decided once and asked everywhere.

    >>> hidden = Hidden.of(report, disclosure, others)
    >>> hidden.hides_group(report.subgroups[0])
    False

Rules
-----
1. A binary question is counted by class, positives and negatives; any other by cases.
2. A class that has fewer than k cases in all, or differs from another version's by 1 to k - 1,
   hides every number that stands on it, in the whole cohort and in each group.
3. Of other task types a number may stand on counts that the evidence does not hold: cases of one
   class, lesions, events. In groups such numbers are withheld. In the whole cohort those of single
   classes are withheld where any class, or what the asked ones leave, has fewer than k cases.
4. Hospitals are data holders: groups that are made of them are left out, by name and in number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from validators.cohort.manifest import Counts
from validators.evidence import EndpointEvidence, Report, SubgroupEvidence
from validators.protocol.schema import Disclosure
from validators.report.suppression import (
    CLASSES,
    INTERSECTION,
    Cell,
    Class,
    Version,
    Withheld,
    differs,
    withheld,
)

USES: Mapping[str, tuple[Class, ...]] = {
    "sensitivity": ("positives",),
    "specificity": ("negatives",),
    "false_positive_rate": ("negatives",),
}
_OF_A_CLASS = ("sensitivity_", "auc_")
_ON_UNKNOWN_COUNTS = {
    "multiclass": _OF_A_CLASS,
    "ordinal": _OF_A_CLASS,
    "detection": ("lesion_sensitivity", "average_precision"),
    "time_to_event": ("observed_expected_at",),
}


class CountTable(Protocol):
    """What is read of another version: a manifest has it."""

    @property
    def counts(self) -> Counts:
        """Of the whole cohort."""

    @property
    def attributes(self) -> Mapping[str, Mapping[str, Counts]]:
        """By attribute and group."""


@dataclass(frozen=True)
class Hidden:
    """What may not be shown of one report."""

    report: Report
    k: int
    classes: frozenset[Class]
    """Classes of which nothing is shown."""
    groups: Withheld
    patients: bool
    """Whether another version's patients would give theirs away."""

    @classmethod
    def of(cls, report: Report, disclosure: Disclosure, others: Sequence[CountTable]) -> Self:
        """Decide for `report`, beside other versions of its cohort."""
        k, flow = disclosure.minimum_group, report.case_flow
        binary = is_binary(report)
        versions = [_version(of, binary=binary) for of in others]
        totals = Cell(flow.sealed, flow.sealed)
        if flow.positives is not None and flow.negatives is not None:
            totals = Cell(flow.positives, flow.negatives)
        classes = frozenset(
            side
            for side in CLASSES
            if min(totals) < k
            or any(differs(getattr(totals, side), getattr(of.totals, side), k) for of in versions)
        )
        cells: dict[str, dict[str, Cell]] = {}
        for found in report.subgroups:
            cells.setdefault(found.attribute, {})[found.group] = _cell(found)
        return cls(
            report,
            k,
            classes,
            withheld(cells, k, versions),
            any(differs(flow.patients or 0, of.counts.patients, k) for of in others),
        )

    @property
    def few_failed(self) -> bool:
        """Whether failures happened, and too few to be counted."""
        return self.few(self.report.case_flow.failed)

    def few(self, count: int | None) -> bool:
        """Whether there are some, and too few to be counted."""
        return count is not None and 0 < count < self.k

    def hides_metric(self, metric: str) -> bool:
        """Whether a number of the whole cohort stands on a class that is hidden."""
        return any(side in self.classes for side in self.uses(metric))

    def hides_endpoint(self, found: EndpointEvidence) -> bool:
        """Whether an endpoint's numbers are withheld."""
        if self.hides_metric(found.metric) or found.n < self.k:
            return True
        if found.metric == "failure_rate":
            return self.few_failed
        return found.metric.startswith(_OF_A_CLASS) and self._hides_classes_of_many(found)

    def hides_group(self, found: SubgroupEvidence) -> bool:
        """Whether a group's numbers are withheld."""
        unknown = _ON_UNKNOWN_COUNTS.get(self.report.task, ())
        return (
            self.hides_metric(found.metric)
            or found.metric.startswith(tuple(unknown))
            or any(
                (found.attribute, found.group, side) in self.groups
                for side in self.uses(found.metric)
            )
        )

    def is_of_hospitals(self, attribute: str) -> bool:
        """Whether the groups of this attribute are hospitals, alone or crossed with others."""
        named = {of.attribute for of in self.report.sites}
        return not named.isdisjoint(attribute.split(INTERSECTION))

    def uses(self, metric: str) -> tuple[Class, ...]:
        """The classes that a metric stands on."""
        return USES.get(metric, CLASSES) if is_binary(self.report) else CLASSES

    def _hides_classes_of_many(self, found: EndpointEvidence) -> bool:
        """Multiclass: all single classes go where any is small, or one that was not asked for."""
        if self.report.task not in ("multiclass", "ordinal"):
            return False
        known = {
            of.metric.removeprefix("sensitivity_"): of.n
            for of in self.report.endpoints
            if of.metric.startswith("sensitivity_")
        }
        rest = self.report.case_flow.sealed - sum(known.values())
        asked = found.metric.removeprefix("sensitivity_").removeprefix("auc_")
        return min(known.values(), default=0) < self.k or self.few(rest) or asked not in known


def is_binary(report: Report) -> bool:
    """Whether the question has two classes that are counted."""
    return report.case_flow.positives is not None and report.case_flow.negatives is not None


def _cell(found: SubgroupEvidence) -> Cell:
    if found.positives is None or found.negatives is None:
        return Cell(found.n, found.n)
    return Cell(found.positives, found.negatives)


def _version(table: CountTable, *, binary: bool) -> Version:
    def cell(of: Counts) -> Cell:
        return Cell(of.positives, of.negatives) if binary else Cell(of.cases, of.cases)

    return Version(
        cell(table.counts),
        {
            attribute: {name: cell(of) for name, of in groups.items()}
            for attribute, groups in table.attributes.items()
        },
    )
