"""Telling whoever monitors the pilot of each prediction, without making one answer wait for it.

    telling = Telling(log.add)          # log.add(Prediction(...)) in a thread of its own
    telling.tell(predictions)

Rules
-----
1. A prediction waits in a bounded queue. Where that is full it is counted as lost and not told:
   no answer ever waits for the monitoring, and no memory grows with it.
2. What the listener raises is counted, logged by its type alone, and ends nothing.
3. Of the inputs there is a summary, `NAME.mean`, `NAME.minimum` and `NAME.maximum` of each, and no
   pixel. A map of labels has as its score the share of its voxels that have one; the seconds are
   those from a request's first byte to its scores, which its cases share.
"""

import logging
import queue
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serving.pilot.prediction import OnPrediction, Prediction

logger = logging.getLogger(__name__)

WAITING: Final = 4096
"""Predictions that may wait to be told."""
_END_SECONDS: Final = 5.0


class Telling:
    """Calls `listener` for each prediction, one after the other, in a thread of its own.

    lost: predictions that found the queue full. failed: those at which the listener raised.
    """

    def __init__(self, listener: OnPrediction, waiting: int = WAITING) -> None:
        self.lost = self.failed = 0
        self._listener = listener
        self._queue: queue.Queue[Prediction | None] = queue.Queue(waiting)
        self._thread = threading.Thread(target=self._run, name="telling", daemon=True)
        self._thread.start()

    def tell(self, predictions: Sequence[Prediction]) -> None:
        """Put them into the queue, or count them as lost. Never waits."""
        for prediction in predictions:
            try:
                self._queue.put_nowait(prediction)
            except queue.Full:
                self.lost += 1

    def close(self) -> None:
        """Tell what waits, for five seconds at most."""
        try:
            self._queue.put(None, timeout=_END_SECONDS)
        except queue.Full:
            return
        self._thread.join(_END_SECONDS)

    def _run(self) -> None:
        while (prediction := self._queue.get()) is not None:
            try:
                self._listener(prediction)
            except Exception as error:  # noqa: BLE001
                self.failed += 1
                logger.error("a prediction could not be told: %s", type(error).__name__)


def summary_of(inputs: Mapping[str, NDArray[Any]], case: int) -> dict[str, float]:
    """Mean, minimum and maximum of each input of one case of the batch."""
    found: dict[str, float] = {}
    for name, array in inputs.items():
        values = array[case]
        found[f"{name}.mean"] = float(values.mean(dtype=np.float64))
        found[f"{name}.minimum"] = float(values.min())
        found[f"{name}.maximum"] = float(values.max())
    return found


def score_of(answer: NDArray[Any]) -> float:
    """A case's score; of a map of labels the share of voxels that have one."""
    return float(answer) if answer.ndim == 0 else float((answer != 0).mean())
