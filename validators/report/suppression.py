"""Which counts of groups must be withheld so that none below k can be worked out.

    >>> withheld({"site": {"head": Cell(4, 90), "trunk": Cell(40, 300), "leg": Cell(60, 200)}}, 10)
    frozenset({('site', 'head', 'positives'), ('site', 'trunk', 'positives')})

The groups of an attribute divide the cohort, and the cohort's totals are known. So each class
(positives, negatives) of an attribute is a row of numbers with a known sum.

Rules
-----
1. Primary: a count below k is withheld, zero too ("no cancer in this group" is said of everybody
   in it).
2. Complementary: the smallest other groups are withheld with it until subtraction from the total
   leaves every value from 0 to k - 1 possible for each primary one, even to a reader who knows
   which are the primary ones. Where that can't be reached, the whole class of the attribute goes.
3. Nested attributes: where groups of one attribute add up, in both classes, to one group of
   another (bands and finer bands), the coarse count is a second sum. If rule 2 does not hold on
   each side of it, it is withheld too, and its own attribute is looked at again.
   Attributes whose groups merely coincide lose a number that they could have kept.
4. Other versions of the cohort are taken as known to the last number. A count that differs from
   another version's by 1 to k - 1 is withheld like a small one, with others, until the withheld
   ones together differ by none or by at least k. Where a whole class differs by so little, its
   groups must not add up to it. A coarse count that goes for this must not follow from finer ones:
   one within it and one beside it go too. Intersections, which a manifest does not count, are
   withheld as a whole unless the versions count alike.

What this can't see: nesting over unions of groups on both sides, tables of the same cohort that
were released under another protocol, and cases that were exchanged one for one. Cell suppression
as in Hundepool et al., Statistical Disclosure Control, 2012, ch. 4.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, combinations
from typing import Literal, NamedTuple

Class = Literal["positives", "negatives"]
CLASSES: tuple[Class, Class] = ("positives", "negatives")
INTERSECTION = " x "
"""Between the attributes of an intersection, as `SubgroupRule.name` writes it."""
_ALL_SUBSETS = 12
"""Up to so many groups every union is looked at; beyond, unions of up to three and complements."""


class Cell(NamedTuple):
    """The cases of one group, by reference standard."""

    positives: int
    negatives: int


Groups = Mapping[str, Cell]
Moves = Mapping[str, Cell]
"""By how much each group differs from another version's."""
Withheld = frozenset[tuple[str, str, Class]]


class Version(NamedTuple):
    """The counts of another version of the cohort: in all, and by group of each attribute."""

    totals: Cell
    attributes: Mapping[str, Groups]


def differs(count: int, other: int, k: int) -> bool:
    """Whether subtraction leaves a number that may not be known."""
    return 0 < abs(count - other) < k


def withheld(attributes: Mapping[str, Groups], k: int, others: Sequence[Version] = ()) -> Withheld:
    """(attribute, group, class) of every count that must not be shown."""
    moves = {name: _moves(name, groups, others) for name, groups in attributes.items()}
    unknown = {name for name in attributes if _is_unknown(name, attributes, others)}
    hidden: dict[tuple[str, Class], set[str]] = {
        (attribute, side): set(groups)
        if attribute in unknown
        else _row(
            _of(side, groups),
            k,
            _all_of(side, moves[attribute]),
            _total_moves(side, groups, others),
        )
        for attribute, groups in attributes.items()
        for side in CLASSES
    }
    nested = list(_nested(attributes))
    changed = True
    while changed:
        changed = False
        for coarse, group, fine, union in nested:
            for side in CLASSES:
                mine, theirs = hidden[(coarse, side)], hidden[(fine, side)]
                of_fine = _all_of(side, moves[fine])
                row = _of(side, attributes[fine])
                if group not in mine and _gives_away(row, theirs, union, k, of_fine):
                    of_coarse = _all_of(side, moves[coarse])
                    row = _of(side, attributes[coarse])
                    hidden[(coarse, side)] = _row(row, k, of_coarse, known=mine | {group})
                    changed = True
                elif _moved([group], _all_of(side, moves[coarse]), k):
                    missing = _covers(row, theirs, union)
                    if missing:
                        hidden[(fine, side)] = _row(row, k, of_fine, known=theirs | missing)
                        changed = True
    return frozenset(
        (attribute, name, side) for (attribute, side), names in hidden.items() for name in names
    )


def _of(side: Class, groups: Mapping[str, Cell]) -> dict[str, int]:
    return {name: getattr(cell, side) for name, cell in groups.items()}


def _all_of(side: Class, moves: Sequence[Moves]) -> list[dict[str, int]]:
    return [_of(side, of) for of in moves]


def _moves(attribute: str, groups: Groups, others: Sequence[Version]) -> list[Moves]:
    """How far each group is from each version that counts this attribute."""
    none = Cell(0, 0)
    return [
        {
            name: Cell(*(a - b for a, b in zip(cell, known.get(name, none), strict=True)))
            for name, cell in groups.items()
        }
        for known in (of.attributes[attribute] for of in others if attribute in of.attributes)
    ]


def _total_moves(side: Class, groups: Groups, others: Sequence[Version]) -> list[int]:
    """How far the whole class is from each version, whether that counts the attribute or not."""
    total = sum(_of(side, groups).values())
    return [total - getattr(of.totals, side) for of in others]


def _is_unknown(
    attribute: str, attributes: Mapping[str, Groups], others: Sequence[Version]
) -> bool:
    """Whether a version has cases in these groups and does not count them (intersections)."""
    totals = next(
        Cell(*(sum(cell[i] for cell in groups.values()) for i in (0, 1)))
        for groups in attributes.values()
    )
    return any(
        attribute not in of.attributes
        and all(part in of.attributes for part in attribute.split(INTERSECTION))
        and not (of.totals == totals and _counts_alike(attributes, of))
        for of in others
    )


def _counts_alike(attributes: Mapping[str, Groups], other: Version) -> bool:
    shared = attributes.keys() & other.attributes.keys()
    return all(dict(attributes[name]) == dict(other.attributes[name]) for name in shared)


def _row(
    row: Mapping[str, int], k: int, moves: Sequence[Mapping[str, int]],
    totals: Sequence[int] = (), known: Iterable[str] = (),
) -> set[str]:  # fmt: skip
    """The groups of one class of one attribute to withhold (rules 1, 2 and 4)."""
    primary = {name for name, count in row.items() if count < k}
    hidden = primary | _moved(row, moves, k) | set(known)
    others = sorted(set(row) - hidden, key=lambda name: (row[name], name))
    if others and not hidden and any(differs(of, 0, k) for of in totals):
        hidden.add(others.pop(0))  # else the groups add up to the total
    while hidden and others and not _is_safe(row, primary, hidden, k, moves):
        hidden.add(others.pop(0))
    return hidden


def _moved(names: Iterable[str], moves: Sequence[Mapping[str, int]], k: int) -> set[str]:
    return {name for name in names for of in moves if differs(of[name], 0, k)}


def _is_safe(
    row: Mapping[str, int], primary: set[str], hidden: set[str], k: int,
    moves: Sequence[Mapping[str, int]],
) -> bool:  # fmt: skip
    """Whether 0 … k - 1 are all possible for each primary count, their sum being known."""
    total = sum(row[name] for name in hidden)
    others = len(hidden) - len(primary)
    if len(hidden) < 2 or total < k:
        return False
    if any(differs(sum(of[name] for name in hidden), 0, k) for of in moves):
        return False
    if not primary:
        return True
    highest = total - others * k >= k - 1  # the other withheld ones are at least k, as known
    lowest = others > 0 or total <= (len(primary) - 1) * (k - 1)
    return highest and lowest


def _gives_away(
    row: Mapping[str, int], hidden: set[str], union: frozenset[str], k: int,
    moves: Sequence[Mapping[str, int]],
) -> bool:  # fmt: skip
    """Whether the sum over `union` splits the withheld groups of this attribute unsafely."""
    for part in (hidden & union, hidden - union):
        primary = {name for name in part if row[name] < k}
        secret = primary | _moved(part, moves, k)
        if secret and part != hidden and not _is_safe(row, primary, part, k, moves):
            return True
    return False


def _covers(row: Mapping[str, int], hidden: set[str], union: frozenset[str]) -> set[str]:
    """The smallest group within and beside `union`, where none is withheld there."""
    found = set()
    for part in (row.keys() & union, row.keys() - union):
        if part and not part & hidden:
            found.add(min(part, key=lambda name: (row[name], name)))
    return found


def _nested(attributes: Mapping[str, Groups]) -> Iterator[tuple[str, str, str, frozenset[str]]]:
    """(coarse attribute, its group, fine attribute, its groups that add up to the same cell)."""
    for fine, groups in attributes.items():
        targets: dict[Cell, list[tuple[str, str]]] = {}
        for coarse, theirs in attributes.items():
            for name, cell in theirs.items():
                if coarse != fine:
                    targets.setdefault(cell, []).append((coarse, name))
        if not targets:
            continue
        for names in _unions(sorted(groups)):
            total = Cell(*(sum(groups[n][i] for n in names) for i in (0, 1)))
            for coarse, name in targets.get(total, ()):
                yield coarse, name, fine, frozenset(names)


def _unions(names: list[str]) -> Iterator[tuple[str, ...]]:
    """The proper, non-empty unions that are looked at."""
    size = len(names)
    if size <= _ALL_SUBSETS:
        yield from chain.from_iterable(combinations(names, r) for r in range(1, size))
        return
    for few in chain.from_iterable(combinations(names, r) for r in (1, 2, 3)):
        yield few
        yield tuple(name for name in names if name not in few)
