"""Adjusted p-values when several groups are tested at once."""

from collections.abc import Mapping
from typing import TypeVar

Key = TypeVar("Key", bound=str)


def holm(raw: Mapping[Key, float]) -> dict[Key, float]:
    """Holm's step-down adjusted p-values (Holm 1979): valid under any dependence of the tests."""
    adjusted: dict[Key, float] = {}
    running = 0.0
    ordered = sorted(raw.items(), key=lambda item: (item[1], item[0]))
    for position, (key, p) in enumerate(ordered):
        running = max(running, min(1.0, p * (len(raw) - position)))
        adjusted[key] = running
    return adjusted
