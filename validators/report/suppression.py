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

What this can't see: nesting over unions of groups on both sides, and tables of the same cohort
that were released under another protocol. Cell suppression as in Hundepool et al., Statistical
Disclosure Control, 2012, ch. 4.
"""

from collections.abc import Iterator, Mapping
from itertools import chain, combinations
from typing import Literal, NamedTuple

Class = Literal["positives", "negatives"]
CLASSES: tuple[Class, Class] = ("positives", "negatives")
_ALL_SUBSETS = 12
"""Up to so many groups every union is looked at; beyond, unions of up to three and complements."""


class Cell(NamedTuple):
    """The cases of one group, by reference standard."""

    positives: int
    negatives: int


Groups = Mapping[str, Cell]
Withheld = frozenset[tuple[str, str, Class]]


def withheld(attributes: Mapping[str, Groups], k: int, further: Withheld = frozenset()) -> Withheld:
    """(attribute, group, class) of every count that must not be shown.

    `further` are counts to withhold for another reason; others are withheld with them, so that no
    subtraction gives them away.
    """
    hidden: dict[tuple[str, Class], set[str]] = {
        (attribute, side): _row(
            {name: getattr(cell, side) for name, cell in groups.items()},
            k,
            {name for name in groups if (attribute, name, side) in further},
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
                if group not in mine and _gives_away(attributes[fine], theirs, union, side, k):
                    row = {n: getattr(cell, side) for n, cell in attributes[coarse].items()}
                    hidden[(coarse, side)] = _row(row, k, mine | {group})
                    changed = True
    return frozenset(
        (attribute, name, side) for (attribute, side), names in hidden.items() for name in names
    )


def _row(row: Mapping[str, int], k: int, known: set[str] | None = None) -> set[str]:
    """The groups of one class of one attribute to withhold (rules 1 and 2)."""
    primary = {name for name, count in row.items() if count < k}
    hidden = primary | (known or set())
    others = sorted(set(row) - hidden, key=lambda name: (row[name], name))
    while hidden and others and not _is_safe(row, primary, hidden, k):
        hidden.add(others.pop(0))
    return hidden


def _is_safe(row: Mapping[str, int], primary: set[str], hidden: set[str], k: int) -> bool:
    """Whether 0 … k - 1 are all possible for each primary count, their sum being known."""
    total = sum(row[name] for name in hidden)
    others = len(hidden) - len(primary)
    if len(hidden) < 2 or total < k:
        return False
    highest = total - others * k >= k - 1  # the other withheld ones are at least k, as known
    lowest = others > 0 or total <= (len(primary) - 1) * (k - 1)
    return highest and lowest


def _gives_away(
    groups: Groups, hidden: set[str], union: frozenset[str], side: Class, k: int
) -> bool:
    """Whether the sum over `union` splits the withheld groups of this attribute unsafely."""
    row = {name: getattr(cell, side) for name, cell in groups.items()}
    for part in (hidden & union, hidden - union):
        primary = {name for name in part if row[name] < k}
        if primary and part != hidden and not _is_safe(row, primary, part, k):
            return True
    return False


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
