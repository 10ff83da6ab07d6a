"""The whole of what a login may become, as a table."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.identity.caller import Role
from registry.identity.claims import (
    CLAIM_MAY_GRANT,
    Outcome,
    choose,
    decide,
    groups_in,
    places_of,
)
from registry.trust.errors import Refused

ROLES = get_args(Role)
STANDING = ("granted", "withdrawn", "unknown")
CLAIM = ("claimed", "lost", "not mapped")

TABLE = """\
            granted,claimed granted,lost granted,not mapped withdrawn,claimed unknown,claimed
innovator               yes           no                yes                no             yes
steward                 yes           no                yes                no              no
assessor                yes           no                yes                no              no
clinician               yes           no                yes                no             yes
auditor                 yes           no                yes                no              no
admin                   yes           no                yes                no              no"""


def outcome(role: Role, standing: str, claim: str, may_grant: frozenset[Role]) -> Outcome:
    place = {("there", role)}
    return decide(
        granted=place if standing == "granted" else set(),
        withdrawn=place if standing == "withdrawn" else set(),
        mapped=set() if claim == "not mapped" else place,
        claimed=place if claim == "claimed" else set(),
        may_grant=may_grant,
    )


def test_the_whole_table() -> None:
    columns = [tuple(cell.split(",")) for cell in
               TABLE.splitlines()[0].replace("not mapped", "not_mapped").split()]  # fmt: skip
    lines = [TABLE.splitlines()[0]]
    for role in ROLES:
        cells = [
            "yes"
            if outcome(role, standing, claim.replace("_", " "), CLAIM_MAY_GRANT).allowed
            else "no"
            for standing, claim in columns
        ]
        widths = [len(f"{a},{b}") + 1 for a, b in columns]
        lines.append(
            f"{role:11}"
            + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        )
    print("\n".join(lines))
    assert "\n".join(lines) == TABLE


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("standing", STANDING)
@pytest.mark.parametrize("claim", CLAIM)
def test_no_settings_let_a_claim_grant_more_than_an_innovator_or_a_clinician(
    role: Role, standing: str, claim: str
) -> None:
    allowed = outcome(role, standing, claim, frozenset(ROLES)).allowed
    if standing != "granted" and role not in ("innovator", "clinician"):
        assert not allowed
    assert not outcome(role, "unknown", claim, frozenset()).allowed


places = st.frozensets(st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(ROLES)))


@given(places, places, places, places, st.frozensets(st.sampled_from(ROLES)))
def test_a_claim_only_ever_takes_away_from_what_the_record_grants(
    granted: frozenset[tuple[str, Role]],
    withdrawn: frozenset[tuple[str, Role]],
    mapped: frozenset[tuple[str, Role]],
    claimed: frozenset[tuple[str, Role]],
    may_grant: frozenset[Role],
) -> None:
    allowed = set(
        decide(
            granted=granted,
            withdrawn=withdrawn - granted,
            mapped=mapped,
            claimed=claimed,
            may_grant=may_grant,
        ).allowed
    )
    beyond = allowed - granted
    assert {role for _, role in beyond} <= CLAIM_MAY_GRANT & may_grant
    assert beyond <= claimed
    assert not allowed & (withdrawn - granted)
    assert not allowed & (mapped - claimed)


def test_groups_are_texts_compared_to_the_letter() -> None:
    mapping = {"urn:a": frozenset({("sme-a", "innovator")})}
    assert places_of(groups_in("urn:a"), mapping)  # type: ignore[arg-type]
    assert places_of(groups_in(["x", "urn:a", 7, None]), mapping)  # type: ignore[arg-type]
    for value in (None, 7, {"urn:a": 1}, [["urn:a"]], ["URN:A"], ["urn:a "], ["urn:a"] * 1001):
        assert not places_of(groups_in(value), mapping)  # type: ignore[arg-type]


def test_a_refusal_says_why_and_what_else_there_is() -> None:
    several = Outcome((("a", "innovator"), ("b", "innovator")), {})
    with pytest.raises(Refused, match=r"innovator of a or innovator of b; choose one"):
        choose(several, None, None)
    assert choose(several, "b", None) == ("b", "innovator")
    with pytest.raises(Refused, match="gives you no role here"):
        choose(Outcome((), {("a", "assessor"): "the claim for it is gone"}), None, None)
    with pytest.raises(Refused, match="not as asked"):
        choose(several, "c", None)
