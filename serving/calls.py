"""What a run asks of whatever holds the model: a Sandbox here, or one at an inference server."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
Rows = NDArray[np.intp]


class Calls(Protocol):
    """Calls of one loaded model, two of which may be under way; see `serving.sandbox.process`."""

    def fits(self, inputs: Arrays, rows: Rows | None = None) -> bool:
        """Whether a second call with such inputs may begin before the first is finished."""
        ...

    def begin(
        self, inputs: Arrays, outputs: Sequence[str] | None = None, rows: Rows | None = None
    ) -> None:
        """Hand over the inputs of a call, or these rows of them, in the type that they are of."""
        ...

    def finish(self) -> dict[str, NDArray[Any]]:
        """The answer of the call that began first. Raises ModelFailure."""
        ...

    def restart(self) -> None:
        """A fresh process with the same model."""
        ...
