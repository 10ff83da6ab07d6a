"""What a run asks of whatever holds the model: a Sandbox here, or one at an inference server."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray


class Calls(Protocol):
    """Calls of one loaded model, two of which may be under way; see `serving.sandbox.process`."""

    def fits(self, inputs: Mapping[str, NDArray[Any]]) -> bool:
        """Whether a second call with such inputs may begin before the first is finished."""
        ...

    def begin(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> None:
        """Hand over the inputs of a call."""
        ...

    def finish(self) -> dict[str, NDArray[Any]]:
        """The answer of the call that began first. Raises ModelFailure."""
        ...

    def restart(self) -> None:
        """A fresh process with the same model."""
        ...
