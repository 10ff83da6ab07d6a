"""The catalogue: what may be known of a cohort without seeing it, in four forms.

    >>> catalogue(facility, caller, "lidc-nodules", "turtle").data

Rules
-----
1. The counts come from the sealed manifest, withheld by `validators.cohort.catalogue` against all
   earlier versions and all protocols of the cohort; what is declared of its use comes from the
   record; everything else from the facility's own file (TOUCHSTONE_CATALOGUE).
2. RDF is given whole or not at all.
3. The list of cohorts shows people who are not of the facility no total that is withheld here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from registry.database.record import Row
from registry.facility import Facility
from registry.identity.caller import Caller
from registry.identity.policy import require
from registry.submissions.lock import cohort, load_manifest
from registry.submissions.near import SMALLEST_GROUP
from registry.submissions.submit import protocol_of
from registry.submissions.use import conditions
from registry.trust.canonical import canonical
from validators.cohort.catalogue import catalogue_entry, shown_totals, smallest_shown
from validators.cohort.catalogue_facts import FacilityFacts, read_facts
from validators.cohort.manifest import Counts

Format = Literal["json", "html", "turtle", "jsonld"]
MEDIA_TYPES: dict[Format, str] = {
    "json": "application/json",
    "html": "text/html",
    "turtle": "text/turtle",
    "jsonld": "application/ld+json",
}


@dataclass(frozen=True)
class Shown:
    """An entry in one form."""

    data: bytes
    media_type: str


def catalogue(
    facility: Facility, caller: Caller, name: str, form: Format, version: str | None = None
) -> Shown:
    """The entry of a cohort version, the latest unless one is named.

    Raises Refused (catalogue_incomplete) for RDF that would lack something mandatory, Invalid where
    the facility's file is wrong.
    """
    require(caller, "cohort.list")
    row = cohort(facility, caller, name, version)
    with facility.record.transaction(caller) as now:
        before = now.all("cohort_versions_before", id=row["id"], version=row["version"])
        protocols = now.all("protocols_on_cohort", id=row["id"])
    path = facility.settings.catalogue
    facts = read_facts(path) if path else None
    entry = catalogue_entry(
        load_manifest(facility, row),
        k=facts.minimum_group if facts else SMALLEST_GROUP,
        earlier=[load_manifest(facility, one) for one in before],
        protocols=[protocol_of(one) for one in protocols],
    )
    declared = conditions(facility, caller, row["id"], row["version"])
    if not declared["settled"]:  # one steward's word alone is published nowhere
        declared |= {"declared": False, "codes": [], "words": "", "until": None}
    said = facts.cohorts.get(row["id"]) if facts else None
    page = facts.access_page if facts else None
    if form == "json":
        declared = {key: value for key, value in declared.items()
                    if key in ("declared", "grandfathered", "codes", "words")} | {
            "until": None if declared["until"] is None else declared["until"].isoformat()
        }  # fmt: skip
        value = entry.as_json() | {
            "manifest_digest": row["manifest_digest"],
            "conditions": declared,
            "facility": _facility(facts),
            "facts": None if said is None else said.model_dump(mode="json"),
        }
        return Shown(canonical(value), MEDIA_TYPES[form])
    if form == "html":
        from validators.report.catalogue_page import catalogue_page

        text = catalogue_page(entry, said, declared, row["manifest_digest"], page)
        return Shown(text.encode(), MEDIA_TYPES[form])
    from validators.cohort.catalogue_rdf import rdf

    codes = [one["code"] for one in declared["codes"]]
    issued = row["locked_at"].date()
    return Shown(rdf(entry, facts, codes, row["manifest_digest"], issued, form), MEDIA_TYPES[form])


def with_shown_totals(facility: Facility, caller: Caller, rows: Sequence[Row]) -> Sequence[Row]:
    """Cohorts' rows as the caller may see them: for the facility's own people as they are, for all
    others None in place of a total that the catalogue withholds."""
    if caller.kind == "facility":
        return rows
    path = facility.settings.catalogue
    least = read_facts(path).minimum_group if path else SMALLEST_GROUP
    shown = []
    with facility.record.transaction(caller) as now:
        for row in rows:
            protocols = [protocol_of(one) for one in now.all("protocols_on_cohort", id=row["id"])]
            before = now.all("cohort_versions_before", id=row["id"], version=row["version"])
            totals = shown_totals(
                _counts(row),
                [_counts(one) for one in before],
                smallest_shown(least, protocols),
                masks=row["masks"],
            )
            names = ("positives", "negatives", "patients")
            shown.append(row | {name: totals[name].count for name in names})
    return shown


def _counts(row: Row) -> Counts:
    positives, negatives = row["positives"], row["negatives"]
    return Counts(cases=positives + negatives, patients=row["patients"], positives=positives,
                  negatives=negatives)  # fmt: skip


def _facility(facts: FacilityFacts | None) -> dict[str, Any] | None:
    if facts is None:
        return None
    return facts.model_dump(mode="json", exclude={"cohorts"})
