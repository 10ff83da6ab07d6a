"""What may be known of a locked cohort without seeing it: its counts, with small ones withheld.

    >>> entry = catalogue_entry(manifest, k=10)
    >>> entry.attributes["sex"]["female"].positives
    120

Rules
-----
1. Counts are those of the manifest. Groups below k, and as many more as keep subtraction from
   giving them away, are withheld by the same function as in a released report
   (`validators.report.suppression`). k is the largest of the facility's and of every protocol's.
2. Between two versions of a cohort: a count that differs by 1 to k - 1 from the same count of an
   earlier version is withheld, and others with it, as in a report; for what was taken out or put in
   would be a group below k. So are the totals; then the earlier version's, which is public, stands
   as "about".
3. Between this and released reports: an attribute that a protocol crosses with another is left out
   (the crossing's counts and a marginal give each other away), and where a report may show a count
   that is withheld here, only attributes of the protocols are shown; if that does not mend it,
   none.
4. Of a cohort of masks cases and patients alone are shown: a report on it shows the cases of a
   group, from which one class would give away the other.
5. Never: patients by group, the manifest's objects and case digests, free text about a source.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from validators.cohort.manifest import Counts, Manifest
from validators.protocol.schema import Protocol
from validators.report.suppression import CLASSES, Cell, Groups, Version, Withheld, withheld
from validators.table import asked_attributes

Cells = dict[str, dict[str, Cell]]


@dataclass(frozen=True)
class Total:
    """A count of the whole cohort; `about` stands where it is withheld for an earlier version."""

    count: int | None
    about: int | None = None

    @property
    def known(self) -> int | None:
        """The count, or what it is about."""
        return self.about if self.count is None else self.count


@dataclass(frozen=True)
class Group:
    """One group of an attribute; None: withheld."""

    positives: int | None
    negatives: int | None

    @property
    def cases(self) -> int | None:
        """Their sum, where both are shown."""
        if self.positives is None or self.negatives is None:
            return None
        return self.positives + self.negatives


@dataclass(frozen=True)
class Entry:
    """One cohort version in the catalogue."""

    id: str
    version: str
    title: str
    licence: str
    citation: str
    reference_standard: str
    contract_digest: str
    root: str
    minimum_group: int
    cases: Total
    patients: Total
    positives: Total
    negatives: Total
    attributes: Mapping[str, Mapping[str, Group]] = field(default_factory=dict)
    excluded: Mapping[str, int | None] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        value = asdict(self)
        for groups in value["attributes"].values():
            for group in groups.values():
                known = None not in group.values()
                group["cases"] = group["positives"] + group["negatives"] if known else None
        return {"schema_id": "touchstone/catalogue/v1"} | value


def catalogue_entry(
    manifest: Manifest, *, k: int, earlier: Sequence[Manifest] = (),
    protocols: Sequence[Protocol] = (),
) -> Entry:  # fmt: skip
    """The entry of a cohort version.

    earlier: all versions that were sealed before it; protocols: all that were locked on it. Raises
    ValueError for a k below 10.
    """
    if k < 10:
        raise ValueError("groups below 10 are never shown")
    k = smallest_shown(k, protocols)
    totals = shown_totals(
        manifest.counts, [version.counts for version in earlier], k, masks=bool(manifest.structures)
    )
    return Entry(
        id=manifest.id,
        version=manifest.version,
        title=manifest.title,
        licence=manifest.licence,
        citation=manifest.citation,
        reference_standard=manifest.reference_standard,
        contract_digest=manifest.contract_digest,
        root=manifest.root,
        minimum_group=k,
        attributes=_attributes(manifest, earlier, protocols, k),
        excluded={
            reason: _total(count, [e.case_flow.get(reason, 0) for e in earlier], k).count
            for reason, count in manifest.case_flow.items()
        },
        **totals,
    )


def smallest_shown(k: int, protocols: Sequence[Protocol]) -> int:
    """The smallest count that is shown: the largest of the facility's k and of every protocol's."""
    return max([k, *(protocol.disclosure.minimum_group for protocol in protocols)])


def shown_totals(
    counts: Counts, earlier: Sequence[Counts], k: int, *, masks: bool = False
) -> dict[str, Total]:
    """The totals of a version by name; what is small or too near to an earlier version's withheld.

    earlier: the counts of all versions that were sealed before it. masks: those are the reference
    standard, and which case is marked is never shown.
    """
    totals = {
        name: _total(getattr(counts, name), [getattr(one, name) for one in earlier], k)
        for name in ("cases", "patients", "positives", "negatives")
    }
    return totals | {name: Total(None) for name in CLASSES} if masks else _consistent(totals)


def _total(count: int, before: Sequence[int], k: int) -> Total:
    """A total, withheld where it is small or too near to an earlier one."""
    if count < k:
        return Total(None)
    near = [one for one in before if 0 < abs(count - one) < k and one >= k]
    return Total(None, near[-1]) if near else Total(count)


def _consistent(totals: dict[str, Total]) -> dict[str, Total]:
    """Of cases = positives + negatives no two are shown where the third is withheld."""
    parts = ("cases", "positives", "negatives")
    if any(totals[name].count is None for name in parts):
        for name in parts:
            total = totals[name]
            totals[name] = Total(None, total.about if total.count is None else None)
    return totals


def _cells(groups: Mapping[str, Mapping[str, Counts]]) -> Cells:
    return {
        attribute: {name: Cell(c.positives, c.negatives) for name, c in named.items()}
        for attribute, named in groups.items()
    }


def _attributes(
    manifest: Manifest, earlier: Sequence[Manifest], protocols: Sequence[Protocol], k: int
) -> dict[str, dict[str, Group]]:  # fmt: skip
    every = _cells(manifest.attributes)
    crossed = {name for protocol in protocols for rule in protocol.subgroups
               if rule.crossed_with for name in rule.attributes}  # fmt: skip
    if manifest.structures or min(manifest.counts.positives, manifest.counts.negatives) < k:
        return {}
    versions = [Version(Cell(e.counts.positives, e.counts.negatives), _cells(e.attributes))
                for e in earlier]  # fmt: skip
    released = [_released(every, protocol) for protocol in protocols]
    asked = {name for protocol in protocols for name in asked_attributes(protocol)}
    free = {name: groups for name, groups in every.items() if name not in crossed}
    for chosen in (free, {name: groups for name, groups in free.items() if name in asked}):
        hidden = withheld(chosen, k, versions)
        if not any(place in shown for place in hidden for shown in released):
            return {
                attribute: {
                    name: Group(*(None if (attribute, name, side) in hidden else getattr(cell, side)
                                  for side in CLASSES))
                    for name, cell in groups.items()
                }
                for attribute, groups in chosen.items()
            }  # fmt: skip
    return {}


def _released(every: Mapping[str, Groups], protocol: Protocol) -> Withheld:
    """The counts that a report by this protocol may show."""
    asked = {name: every[name] for name in asked_attributes(protocol) if name in every}
    hidden = withheld(asked, protocol.disclosure.minimum_group)
    return frozenset(
        (attribute, name, side) for attribute, groups in asked.items() for name in groups
        for side in CLASSES if (attribute, name, side) not in hidden
    )  # fmt: skip
