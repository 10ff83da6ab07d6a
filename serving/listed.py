"""Nested lists of a request, before NumPy makes an array of them.

NumPy makes every element of an array as wide as its longest text: one of 100,000 letters among
30,000 numbers is 250 kB of JSON and 11 GiB of array. So texts are looked for first.
"""

from typing import Any


def holds_text(value: Any) -> bool:
    """Whether a text lies anywhere in the nested lists."""
    pending: list[list[Any]] = [[value]]
    while pending:
        row = pending.pop()
        kinds = set(map(type, row))
        if str in kinds:
            return True
        if list in kinds:
            pending.extend(one for one in row if type(one) is list)
    return False
