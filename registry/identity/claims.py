"""What a login may become: the record grants, a claim may take away, and grants little.

    >>> ada = {("tef", "assessor")}
    >>> outcome = decide(granted=ada, withdrawn=set(), mapped=ada, claimed=set(), may_grant=set())
    >>> outcome.allowed, outcome.refused
    ((), {('tef', 'assessor'): 'the claim for it is gone'})

Rules
-----
1. A role that our own record grants stands, unless the mapping names it and the claim is missing.
2. A claim grants only `innovator` and `clinician`, and of these only what the settings allow.
3. What the record withdrew stays withdrawn, whatever is claimed.
4. Pure: no clock, no database. The database asks the record once more (0006_login.sql).
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from registry.identity.caller import Role
from registry.trust.errors import Refused

Place = tuple[str, Role]
"""An organisation and a role in it."""

CLAIM_MAY_GRANT: frozenset[Role] = frozenset({"innovator", "clinician"})
MOST_GROUPS = 1000


@dataclass(frozen=True)
class Outcome:
    """Where this person may act now, and why not elsewhere."""

    allowed: tuple[Place, ...]
    refused: Mapping[Place, str]


def decide(
    *,
    granted: Set[Place],
    withdrawn: Set[Place],
    mapped: Set[Place],
    claimed: Set[Place],
    may_grant: Set[Role],
) -> Outcome:
    """What stands after a login.

    `granted` and `withdrawn` are our record's; `mapped` is every place that the mapping file
    names, `claimed` those of them whose group the provider asserts today.
    """
    allowed: list[Place] = []
    refused: dict[Place, str] = {}
    for place in sorted(granted | claimed):
        role = place[1]
        if place in granted:
            if place in mapped and place not in claimed:
                refused[place] = "the claim for it is gone"
            else:
                allowed.append(place)
        elif place in withdrawn:
            refused[place] = "it was withdrawn"
        elif role not in CLAIM_MAY_GRANT:
            refused[place] = "a claim can't grant it; only the facility's own record does"
        elif role not in may_grant:
            refused[place] = "claims grant no such role here"
        else:
            allowed.append(place)
    return Outcome(tuple(allowed), refused)


def places_of(groups: Iterable[str], mapping: Mapping[str, Set[Place]]) -> frozenset[Place]:
    """The places that these values of the group claim stand for; unknown values mean nothing."""
    return frozenset(place for group in groups for place in mapping.get(group, ()))


def groups_in(value: object) -> frozenset[str]:
    """The values of a group claim: a text or a list of texts; anything else is no group at all."""
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or len(values) > MOST_GROUPS:
        return frozenset()
    return frozenset(one for one in values if isinstance(one, str))


def choose(outcome: Outcome, organisation: str | None, role: str | None) -> Place:
    """The one place to act in: the only one, or the one asked for. Refused otherwise."""
    fitting = [
        place
        for place in outcome.allowed
        if organisation in (None, place[0]) and role in (None, place[1])
    ]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise Refused(
            f"you may act as {_read(fitting)}; choose one (--org, --role)",
            code="role_not_chosen",
        )
    why = "; ".join(f"{role} of {where}: {reason}" for (where, role), reason in
                    outcome.refused.items())  # fmt: skip
    if outcome.allowed:
        raise Refused(f"you may act as {_read(outcome.allowed)}, and not as asked ({why or 'no'})")
    raise Refused(
        f"this login gives you no role here ({why or 'none was granted'}); ask your administrator",
        code="no_role",
    )


def _read(places: Iterable[Place]) -> str:
    return " or ".join(f"{role} of {organisation}" for organisation, role in places)
