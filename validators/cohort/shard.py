"""Some cases of a cohort on their way to a model, whether it is sealed or made up."""

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class Shard:
    """Some cases and their inputs, row by row. `index` is the shard's place in the cohort."""

    index: int
    cases: tuple[str, ...] = field(repr=False)
    inputs: dict[str, NDArray[Any]] = field(repr=False)
