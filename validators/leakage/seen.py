"""Which staged cases the facility has sealed before: counts, and a list that stays with it.

    >>> seen = seen_before(links, Known(index, uses))
    >>> seen.report()["versions"]
    [{'cohort': 'lidc-open', 'version': '1', 'use': 'development', 'patients': 3, 'cases': 5,
      'same_pixels': 5, 'pairs_that_look_alike': 9}]

Rules
-----
1. Staged cases are held against every version in the index, without anyone asking: patients,
   pixels, pictures that look alike.
2. A new version of a cohort has, and should have, the patients of the one before. A patient of a
   development cohort in one that gates is leakage; what a cohort is used for is asked only where
   something was found, and `unknown` where nobody answers.
3. What could not be compared is said, with the reason. It stops no ingest.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from registry.trust.errors import TouchstoneError
from validators.leakage.link_index import LinkIndex
from validators.leakage.links import Links, Shared, shared

COLUMNS = ("case", "patient", "what", "cohort", "version", "use", "distance")


@dataclass(frozen=True)
class Known:
    """What a facility has sealed, and who says what each cohort is used for."""

    index: LinkIndex
    uses: Callable[[], Mapping[str, str] | None] = lambda: None
    """`development` or `gating` by cohort, None where nobody answers; asked at most once."""


@dataclass(frozen=True)
class SeenIn:
    """One version that has something of the staged cases."""

    cohort: str
    version: str
    use: str
    shared: Shared

    def counts(self) -> dict[str, Any]:
        """Without an id of a case or patient."""
        return {
            "cohort": self.cohort,
            "version": self.version,
            "use": self.use,
            "patients": self.shared.patients,
            "cases": len(self.shared.of_patients),
            "same_pixels": len(self.shared.of_pixels),
            "pairs_that_look_alike": self.shared.pairs,
        }


@dataclass(frozen=True)
class Seen:
    """All that was found."""

    compared: int
    versions: tuple[SeenIn, ...]
    not_compared: tuple[tuple[str, str, str], ...]
    """Cohort, version and reason."""
    without_token: int
    """Cases whose patient's id has no letter or digit."""

    def report(self) -> dict[str, Any]:
        """For the quality report: counts alone."""
        return {
            "compared": self.compared,
            "versions": [version.counts() for version in self.versions],
            "not_compared": [
                {"cohort": cohort, "version": version, "reason": reason}
                for cohort, version, reason in self.not_compared
            ],
            "cases_of_no_known_patient": self.without_token,
        }

    def rows(self, cases: Sequence[str], patients: Sequence[str]) -> list[tuple[str, ...]]:
        """For the facility's people: COLUMNS, by the source's ids."""
        found: list[tuple[str, ...]] = []
        for seen in self.versions:
            of_pixels = set(seen.shared.of_pixels)
            alike = [(row, bits) for row, bits in seen.shared.alike if row not in of_pixels]
            for what, some in (
                ("patient", [(row, "") for row in seen.shared.of_patients]),
                ("same pixels", [(row, "0") for row in seen.shared.of_pixels]),
                ("looks alike", [(row, str(bits)) for row, bits in alike]),
            ):
                found += [
                    (cases[row], patients[row], what, seen.cohort, seen.version, seen.use, bits)
                    for row, bits in some
                ]
        return found


def seen_before(links: Links, known: Known, besides: tuple[str, str] | None = None) -> Seen:
    """Hold staged cases against the index, `besides` one version (their own)."""
    found: list[tuple[str, str, Shared]] = []
    not_compared: list[tuple[str, str, str]] = []
    others = [one for one in known.index.versions() if one != besides]
    for cohort, version in others:
        try:
            here = shared(links, known.index.read(cohort, version))
        except TouchstoneError as error:
            not_compared.append((cohort, version, error.message))
            continue
        if here.any:
            found.append((cohort, version, here))
    uses = known.uses() if found else None
    return Seen(
        len(others) - len(not_compared),
        tuple(
            SeenIn(cohort, version, "unknown" if uses is None else uses.get(cohort, "none"), here)
            for cohort, version, here in found
        ),
        tuple(not_compared),
        links.patients.count(b""),
    )
