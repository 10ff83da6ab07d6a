"""What a cohort may be used for, in the codes of the Data Use Ontology (DUO).

    >>> check_conditions(("DUO:0000007", "DUO:0000046"), "breast cancer (MONDO:0007254)", None)

Rules
-----
1. Known are the 23 terms that tag data in `duo.csv` of DUO (EBISPOT/DUO, CC BY 4.0; Lawson et al.,
   Cell Genomics 1(2), 2021), which are those that EUCAIM's Data Use Conditions vocabulary maps
   (EUCAIM DCAT-AP v2.0, August 2026). Labels are DUO's.
2. A statement has exactly one permission (what for) and any number of modifiers (on which terms).
3. "No restriction" (DUO:0000004) is the explicit statement that there are no conditions: it stands
   alone, and needs no agreement.
4. A code that points beyond itself needs words that say what is meant: which disease, which
   institution, which project. A time limit needs its day.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Final

from registry.trust.errors import Invalid

NO_RESTRICTION: Final = "DUO:0000004"
TIME_LIMIT: Final = "DUO:0000025"
PERMISSIONS: Final[Mapping[str, str]] = {
    "DUO:0000004": "no restriction",
    "DUO:0000006": "health or medical or biomedical research",
    "DUO:0000007": "disease specific research",
    "DUO:0000011": "population origins or ancestry research only",
    "DUO:0000042": "general research use",
}
MODIFIERS: Final[Mapping[str, str]] = {
    "DUO:0000012": "research specific restrictions",
    "DUO:0000015": "no general methods research",
    "DUO:0000016": "genetic studies only",
    "DUO:0000018": "not for profit, non commercial use only",
    "DUO:0000019": "publication required",
    "DUO:0000020": "collaboration required",
    "DUO:0000021": "ethics approval required",
    "DUO:0000022": "geographical restriction",
    "DUO:0000024": "publication moratorium",
    "DUO:0000025": "time limit on use",
    "DUO:0000026": "user specific restriction",
    "DUO:0000027": "project specific restriction",
    "DUO:0000028": "institution specific restriction",
    "DUO:0000029": "return to database or resource",
    "DUO:0000043": "clinical care use",
    "DUO:0000044": "population origins or ancestry research prohibited",
    "DUO:0000045": "not for profit organisation use only",
    "DUO:0000046": "non-commercial use only",
}
TERMS: Final[Mapping[str, str]] = {**PERMISSIONS, **MODIFIERS}
NEED_WORDS: Final = frozenset(
    {"DUO:0000007", "DUO:0000012", "DUO:0000022", "DUO:0000024", "DUO:0000026", "DUO:0000027",
     "DUO:0000028"}
)  # fmt: skip


def check_conditions(codes: Sequence[str], words: str, until: dt.date | None) -> tuple[str, ...]:
    """The codes, each once and in order. Raises Invalid for a statement that breaks the rules."""
    for code in codes:
        if code not in TERMS:
            near = get_close_matches(code, TERMS, n=1, cutoff=0.6)
            hint = f"; did you mean {near[0]} ({TERMS[near[0]]})?" if near else ""
            raise Invalid(f"there is no data use condition {code[:40]!r}{hint}")
    found = tuple(sorted(set(codes)))
    permissions = [code for code in found if code in PERMISSIONS]
    if len(permissions) != 1:
        known = ", ".join(f"{code} ({label})" for code, label in PERMISSIONS.items())
        said = "none is given" if not permissions else f"{' and '.join(permissions)} are given"
        raise Invalid(f"exactly one permission is needed, and {said}; permissions are: {known}")
    if NO_RESTRICTION in found and len(found) > 1:
        raise Invalid(f"{NO_RESTRICTION} (no restriction) stands alone, without other conditions")
    for code in found:
        if code in NEED_WORDS and not words.strip():
            raise Invalid(f"{code} ({TERMS[code]}) needs words that say which (--words)")
    if TIME_LIMIT in found and until is None:
        raise Invalid(f"{TIME_LIMIT} ({TERMS[TIME_LIMIT]}) needs its last day (--until)")
    return found
