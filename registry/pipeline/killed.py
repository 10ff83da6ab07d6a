"""Ask a model's process once more where it was killed: that looks like the model's own fault.

    >>> description = unless_killed(sandbox, lambda: sandbox.inspect(files))

A process that the kernel or an operator kills dies like one whose model crashed or ate its memory.
So before and after a run too such a death costs a fresh process a few times, as it does within
(`serving.client.MAXIMUM_RESTARTS`), and counts only when it comes again and again.
"""

from collections.abc import Callable
from typing import Final, TypeVar

from serving.calls import Model
from serving.sandbox.failures import KILLED, ModelFailure

TRIES: Final = 3
_Answer = TypeVar("_Answer")


def unless_killed(sandbox: Model, ask: Callable[[], _Answer]) -> _Answer:
    """What `ask` gives; it is asked again after the sandbox's process died, TRIES times in all.

    Raises ModelFailure.
    """
    for tries in range(1, TRIES + 1):
        try:
            return ask()
        except ModelFailure as failure:
            if failure.code not in KILLED or tries == TRIES:
                raise
            sandbox.restart()
    raise AssertionError("the last try returns or raises")
