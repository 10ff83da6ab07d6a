"""What a run asks of whatever holds the model: a Sandbox here, or one at an inference server."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from serving.sandbox.limits import Limits

Arrays = Mapping[str, NDArray[Any]]
Rows = NDArray[np.intp]


class Calls(Protocol):
    """Calls of one loaded model, some of which may be under way; see `serving.sandbox.process`."""

    @property
    def at_once(self) -> int:
        """How many calls may be under way, where they fit."""
        ...

    def fits(self, inputs: Arrays, rows: Rows | None = None) -> bool:
        """Whether a further call with such inputs may begin before the first is finished."""
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


class Model(Calls, Protocol):
    """Whatever holds one model in a locked process. Used as a context manager.

    level, execution, versions: of the process, for the evidence.
    """

    level: dict[str, int | bool | str]
    execution: dict[str, int | bool | str]
    versions: dict[str, str]
    limits: "Limits"

    @property
    def processor_seconds(self) -> float | None:
        """What the process has had of the processors; None where that is not known here."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def load(self, files: Mapping[str, bytes]) -> object:
        """Check the model and open it. Raises ModelFailure."""
        ...

    def run(self, inputs: Arrays, outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """One call of the model. Raises ModelFailure."""
        ...

    def stop(self) -> None:
        """From another thread: end the process for good."""
        ...

    def close(self) -> None:
        """End the process. Safe to call twice."""
        ...
