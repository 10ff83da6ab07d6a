"""A model of our own, known to be good: does this host run models at all?

    >>> sound(start_sandbox)
    True

Rules
-----
1. It takes the same way as every model: a fresh sandboxed process, checks, load, run.
2. It must give the numbers that it gave when it was made. Anything else is an unsound host.
3. A host is unsound after three failures in a row, so that a moment's trouble proves nothing.
"""

import base64
import logging
import time
from collections.abc import Callable
from typing import Final

from registry.trust.errors import TouchstoneError
from serving.calls import Model

TRIES: Final = 3
PAUSE_SECONDS = 1.0
MODEL: Final = base64.b64decode(
    "CAg6lAEKEQoBeAoBdxIBYSIGTWF0TXVsCg4KAWEKAWISAWwiA0FkZAoPCgFsEgF5IgdTaWdtb2lkEgZjYW5hcnkq"
    "GwgECAEQAUIBd0oQAACAPwAAAMAAAAA/AABAQCoNCAEQAUIBYkoEAACAvloUCgF4Eg8KDQgBEgkKAxIBbgoCCARi"
    "FAoBeRIPCg0IARIJCgMSAW4KAggBQgQKABAR"
)
"""ONNX: y = sigmoid(x · (1, -2, 0.5, 3) - 0.25)."""
INPUTS: Final = ((0.0, 0.0, 0.0, 0.0), (1.0, 0.5, -1.0, 0.25), (-2.0, 1.0, 4.0, 1.0))
ANSWERS: Final = (0.43782350, 0.5, 0.67917870)
TOLERANCE: Final = 1e-6
log = logging.getLogger("touchstone.pipeline")


def sound(start: Callable[[], Model]) -> bool:
    """Whether the canary gives its answers in a sandbox that `start` gives."""
    for number in range(TRIES):
        if number:
            time.sleep(PAUSE_SECONDS)
        try:
            if _answers(start):
                return True
            log.error("the canary gave other answers than it was made with")
        except (TouchstoneError, OSError, MemoryError) as error:
            log.error("the canary did not run: %s", getattr(error, "code", type(error).__name__))
    return False


def _answers(start: Callable[[], Model]) -> bool:
    import numpy as np

    with start() as sandbox:
        sandbox.load({"model.onnx": MODEL})
        got = sandbox.run({"x": np.array(INPUTS, dtype=np.float32)}, ["y"])["y"]
    return got.shape == (3, 1) and bool(np.allclose(got[:, 0], ANSWERS, rtol=0, atol=TOLERANCE))
