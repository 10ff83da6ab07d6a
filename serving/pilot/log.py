"""The log of a pilot's predictions: local, pseudonymised, never in the way of an answer.

    >>> with PredictionLog(state) as log:
    ...     serve(bundle, on_prediction=log.record)

Rules
-----
1. `record` puts the prediction in a queue and returns: it neither waits for the disk nor raises. A
   thread writes what has come together, every two seconds or every 1,000 rows.
2. A process that is killed loses those two seconds at most, and never damages what is written. A
   full disk loses what no longer fits into the queue; `lost` counts it, and the log says so.
3. Raw ids are hashed before they reach the queue.
4. Several processes may write to one state directory. Past days are merged into one file each.
"""

import datetime as dt
import logging
import queue
import secrets
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from registry.trust.errors import Invalid, TouchstoneError, Unavailable
from serving.pilot import day_files
from serving.pilot.prediction import Prediction
from serving.pilot.pseudonym import open_pseudonyms

PREDICTIONS: Final = "predictions"
_SECONDS, _ROWS, _WAITING = 2.0, 1_000, 100_000
_log = logging.getLogger("touchstone.pilot")


class PredictionLog:
    """Writes predictions below a state directory. Use it as a context manager, or `close` it."""

    def __init__(self, state: Path, *, every_seconds: float = _SECONDS) -> None:
        try:
            import pyarrow.parquet  # noqa: F401  now, not at the first answer
        except ImportError as error:
            raise Unavailable(
                "logging a pilot needs pyarrow: pip install 'touchstone-tef[monitor]'"
            ) from error
        self.lost = 0
        self._pseudonyms = open_pseudonyms(state)
        self._place = state / PREDICTIONS
        self._every = every_seconds
        self._waiting: queue.Queue[dict[str, Any]] = queue.Queue(_WAITING)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._write_for_ever, name="pilot-log", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def record(self, prediction: Prediction) -> None:
        """Take a prediction down. Never raises; what can't be taken is counted in `lost`."""
        try:
            if self._end.is_set():
                raise queue.Full
            self._waiting.put_nowait(self._row(prediction))
        except (queue.Full, Invalid):
            self.lost += 1
            if self.lost in (1, 10, 100) or not self.lost % 1_000:
                _log.warning("the pilot's log has lost %d predictions", self.lost)

    def close(self) -> None:
        """Write what waits, and end."""
        self._end.set()
        self._thread.join()

    def _row(self, of: Prediction) -> dict[str, Any]:
        names = self._pseudonyms
        return {
            "id": secrets.token_hex(16),
            "moment": of.moment.astimezone(dt.UTC),
            "certificate": of.certificate,
            "case": names.of_case(of.case) if of.case and of.case.strip() else None,
            "patient": names.of_patient(of.patient) if of.patient and of.patient.strip() else None,
            "scores": list(of.scores.items()),
            "inputs": list(of.inputs.items()),
            "seconds": of.seconds,
            "failure": of.failure,
        }

    def _write_for_ever(self) -> None:
        today = ""
        kept: list[dict[str, Any]] = []
        while True:
            ending = self._end.wait(self._every if self._waiting.qsize() < _ROWS else 0)
            while len(kept) < _ROWS and not self._waiting.empty():
                kept.append(self._waiting.get_nowait())
            try:
                if kept:
                    self._append(kept)
                    kept = []
                if today != (now := day_files.day_of(dt.datetime.now(dt.UTC))):
                    day_files.merge_past(self._place, now)
                    today = now
            except TouchstoneError as error:
                _log.warning("%s; %d predictions wait", error.message, self._waiting.qsize())
            except Exception as error:  # noqa: BLE001
                # A file that is none of ours, in a past day: no reason to write no more.
                waiting = self._waiting.qsize()
                _log.warning("%s; %d predictions wait", type(error).__name__, waiting)
            if ending and (self._waiting.empty() or kept):
                self.lost += len(kept) + (self._waiting.qsize() if kept else 0)
                return

    def _append(self, rows: list[dict[str, Any]]) -> None:
        import pyarrow as pa

        of_day: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            of_day.setdefault(day_files.day_of(row["moment"]), []).append(row)
        while of_day:
            day, these = next(iter(of_day.items()))
            day_files.append(self._place, day, pa.Table.from_pylist(these, prediction_schema()))
            del of_day[day]
            rows[:] = [row for others in of_day.values() for row in others]


def prediction_schema() -> Any:
    """The columns of a file of predictions."""
    import pyarrow as pa

    numbers = pa.map_(pa.string(), pa.float64())
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("moment", pa.timestamp("us", "UTC"), nullable=False),
            pa.field("certificate", pa.string(), nullable=False),
            ("case", pa.string()),
            ("patient", pa.string()),
            ("scores", numbers),
            ("inputs", numbers),
            pa.field("seconds", pa.float64(), nullable=False),
            pa.field("failure", pa.string(), nullable=False),
        ]
    )
