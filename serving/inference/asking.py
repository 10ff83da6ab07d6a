"""Asking an inference server, and asking again: what every question of its client has in common.

Rules
-----
1. A question has no side effect that a second one would double. It is asked again when the
   connection is lost, a bounded number of times, and while the server is busy, a bounded time.
2. What the server answers becomes the error that it names: a model's failure stays one; all else
   is the facility's fault.
3. `stop` ends every wait, from another thread.
"""

import contextlib
import json
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from registry.trust.errors import Conflict, Invalid, TouchstoneError, Unauthenticated, Unavailable
from serving.inference.line import LOST, Address, Answer, Line
from serving.sandbox.failures import MESSAGES, ModelFailure, plain_text

ATTEMPTS: Final = 8
"""How often a question is asked before the connection counts as lost for good: over 25 seconds,
in which a server can be started anew."""
BUSY_SECONDS: Final = 600.0
"""How long a server may be busy."""
PAUSE: Final = 0.1
_FAREWELL_SECONDS = 5.0


class Patience:
    """How often one question may still be asked."""

    def __init__(self, stopped: threading.Event) -> None:
        self._stopped = stopped
        self._lost, self._until = 0, time.monotonic() + BUSY_SECONDS

    def lost(self, cause: BaseException) -> None:
        """Wait a moment after a lost connection. Raises Unavailable (inference_unreachable)."""
        self._lost += 1
        if self._lost >= ATTEMPTS:
            raise Unavailable(
                "the connection to the inference server is lost: is it running, and is its "
                "address right?",
                code="inference_unreachable",
            ) from cause
        self._pause(PAUSE * 2**self._lost)

    def again(self) -> bool:
        """Whether to ask once more after an answer that can be mended."""
        self._lost += 1
        return self._lost < ATTEMPTS

    def busy(self, answer: Answer) -> bool:
        """Wait where the server said so; False where it did not, or for too long."""
        if answer.status != 503 or time.monotonic() >= self._until:
            return False
        self._pause(min(answer.retry_after or PAUSE, 5.0))
        return True

    def _pause(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise stopped()


class Asking:
    """Questions to one server with one token."""

    def __init__(self, address: Address, token: str) -> None:
        self.address, self._token = address, token
        self.seconds = 120.0
        self.stopped = threading.Event()
        self._lines: list[Line] = []

    def line(self) -> Line:
        """A connection, opened on its first use. Raises Conflict (sandbox_stopped)."""
        if self.stopped.is_set():
            raise stopped()
        line = Line(self.address, self._token, self.seconds)
        self._lines.append(line)
        return line

    def stop(self) -> None:
        """From another thread: end every wait, and let none begin."""
        self.stopped.set()
        for line in tuple(self._lines):
            line.cut()

    def patience(self) -> Patience:
        """For one question."""
        return Patience(self.stopped)

    def ask(
        self, method: str, path: str, parts: Sequence[memoryview] = (), header: bytes = b""
    ) -> Answer:
        """One question on a connection of its own. Raises Unavailable, Unauthenticated."""
        patience, line = self.patience(), self.line()
        try:
            while True:
                try:
                    line.ask(method, path, parts, header)
                    answer = line.answer()
                except LOST as error:
                    line.close()
                    patience.lost(error)
                    continue
                if patience.busy(answer):
                    continue
                if answer.status == 401:
                    raise raised(answer)
                return answer
        finally:
            line.close()
            self._lines.remove(line)

    def load(self, digest: str, files: Mapping[str, bytes]) -> dict[str, Any]:
        """Have a model loaded, uploaded first where the server lacks it: its session."""
        place = model_path(digest)
        answer = self.ask("POST", place + "/load")
        if answer.status == 404:
            rows = [{"name": name, "size": len(data)} for name, data in files.items()]
            parts = [memoryview(data) for data in files.values()]
            uploaded = self.ask("PUT", place, parts, json.dumps({"files": rows}).encode())
            if uploaded.status != 201:
                raise raised(uploaded)
            answer = self.ask("POST", place + "/load")
        session = answer.value().get("session")
        if answer.status != 200 or not isinstance(session, dict):
            raise raised(answer)
        return session

    def bid_farewell(self, path: str) -> None:
        """Ask once and expect nothing: the server may be gone."""
        line = Line(self.address, self._token, _FAREWELL_SECONDS)
        with contextlib.closing(line), contextlib.suppress(*LOST):
            line.ask("POST", path)
            line.answer()


def model_path(digest: str) -> str:
    """The path of a model in the repository."""
    return f"/v2/repository/models/{quote(digest)}"


def raised(answer: Answer) -> TouchstoneError:
    """The error that an answer tells of."""
    value = answer.value()
    failure, code = value.get("failure"), str(value.get("code", ""))
    if isinstance(failure, dict) and failure.get("code") in MESSAGES:
        return ModelFailure(str(failure["code"]), str(failure.get("detail", "")))
    if code == "input_unfit":
        # What the model's own process would have answered.
        return ModelFailure("model_raised")
    message = "the inference server said: " + plain_text(str(value.get("error", answer.status)))
    if answer.status == 401:
        return Unauthenticated(message)
    if answer.status in (413, 422):
        return Invalid(message, code="inference_refused")
    return Unavailable(message, code=code or None)


def stopped() -> Conflict:
    """The error of whoever waits for what was stopped."""
    return Conflict("the sandbox was stopped", code="sandbox_stopped")


def no_server() -> Unavailable:
    """The error where answers are not an inference server's."""
    return Unavailable(
        "the answers at the inference server's address are not such a server's",
        code="inference_unreachable",
    )
