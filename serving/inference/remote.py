"""A model at an inference server, with what `serving.client.predict` and `repeat` ask of a Sandbox.

    with RemoteSandbox.start("http://gpu-1:8600", token) as sandbox:
        sandbox.load(files)
        predict(sandbox, shards, contract)

Rules
-----
1. The model is named by the digest of its files, which are uploaded where the server lacks them.
2. A model's failure comes back as the ModelFailure that the process itself would have given.
3. A batch is a question without side effects: it is asked again when the connection is lost, or
   the server busy or started anew, a bounded number of times. Then it is the facility's fault
   (Unavailable), never the model's.
4. On one host, over a Unix socket, inputs go through shared memory where the server takes it.
5. One run, one server: where versions or the level of the sandbox change on the way, it fails.
6. `stop` may come from another thread at any moment, as a Sandbox's.
"""

import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self
from urllib.parse import quote

from numpy.typing import NDArray
from pydantic import ValidationError

from registry.trust.errors import Conflict, Invalid, Unavailable
from registry.trust.model_files import model_digest
from serving.calls import Rows
from serving.inference.asking import Asking, model_path, no_server, raised, stopped
from serving.inference.lending import SLOTS, Lent, needed
from serving.inference.line import LOST, Address, Answer, Line
from serving.inference.protocol import read_response, write_request
from serving.inference.regions import PREFIX
from serving.sandbox.limits import Limits
from serving.sandbox.process import SessionInfo
from validators.contract.description import ModelDescription

Arrays = Mapping[str, NDArray[Any]]


@dataclass(eq=False)
class _Call:
    inputs: Arrays = field(repr=False)
    outputs: tuple[str, ...] | None
    line: Line
    slot: int
    sent: bool = False
    region: str = ""


class RemoteSandbox:
    """One model at a server. `level` and `versions` are its process's, for the evidence."""

    at_once: ClassVar[int] = SLOTS
    """How many calls may be under way: two in the process, two on their way."""

    def __init__(self, asking: Asking, *, shared_memory: bool) -> None:
        self.level: dict[str, int | bool | str] = {}
        self.versions: dict[str, str] = {}
        self.execution: dict[str, int | bool | str] = {}
        self.limits = Limits()
        self._asking = asking
        self._files: dict[str, bytes] | None = None
        self._digest = ""
        self._largest = 0
        self._calls: deque[_Call] = deque()
        self._free: list[Line] = []
        self._lends, self._slot = shared_memory, 0
        self._lent: Lent | None = None

    @classmethod
    def start(cls, address: str, token: str, *, shared_memory: bool | None = None) -> Self:
        """Ask the server what it is.

        shared_memory: None takes it over a Unix socket where the server offers it. Raises
        Unavailable (inference_unreachable), Unauthenticated.
        """
        parsed = Address.of(address)
        asked = parsed.path is not None if shared_memory is None else shared_memory
        remote = cls(Asking(parsed, token), shared_memory=asked)
        remote._introduce(remote._asking.ask("GET", "/v2").value())
        return remote

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def transport(self) -> str:
        """How inputs travel: shared memory, unix or tcp."""
        if self._lends:
            return "shared memory"
        return "tcp" if self._asking.address.path is None else "unix"

    @property
    def processor_seconds(self) -> None:
        """Not known here: the server's process serves others too."""
        return None

    def load(self, files: Mapping[str, bytes]) -> SessionInfo:
        """Have the server load the model; one model a RemoteSandbox. Raises ModelFailure."""
        if self._files is not None and self._files is not files:
            raise Conflict("this sandbox holds a model already: start another one")
        self._digest = model_digest(files)
        info = self._load(files)
        self._files = files if isinstance(files, dict) else dict(files)
        return info

    def run(self, inputs: Arrays, outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """One call of the model. Raises ModelFailure."""
        if self._calls:
            raise Conflict("a call is under way: finish it first")
        self.begin(inputs, outputs)
        return self.finish()

    def fits(self, inputs: Arrays, rows: Rows | None = None) -> bool:
        """Whether a second call with such inputs may begin before the first is finished."""
        return needed(inputs, rows) <= self._largest

    def begin(
        self, inputs: Arrays, outputs: Sequence[str] | None = None, rows: Rows | None = None
    ) -> None:
        """Send the inputs of a call; `finish` gives its answer. SLOTS may be under way.

        rows: as a Sandbox's.
        """
        if self._files is None:
            raise Conflict("no model is loaded in this sandbox")
        if len(self._calls) >= SLOTS:
            raise Conflict("too many calls are under way: finish one first")
        if rows is not None:
            inputs = {name: array[rows] for name, array in inputs.items()}
        if sum(array.nbytes for array in inputs.values()) > self._largest:
            raise Invalid(
                f"a batch is larger than the {self._largest} bytes that the inference server "
                "takes: raise its --largest-mebibytes or lower the batch size",
                code="batch_too_large",
            )
        self._slot = (self._slot + 1) % SLOTS
        line = self._free.pop() if self._free else self._asking.line()
        wanted = None if outputs is None else tuple(outputs)
        call = _Call(inputs, wanted, line, self._slot)
        self._calls.append(call)
        with contextlib.suppress(*LOST):  # `finish` asks again
            self._send(call)

    def finish(self) -> dict[str, NDArray[Any]]:
        """The answer of the call that began first. Raises ModelFailure, Unavailable."""
        if not self._calls:
            raise Conflict("no call is under way")
        call = self._calls.popleft()
        answer = self._answered(call)
        self._free.append(call.line)
        if answer.status != 200:
            raise raised(answer)
        try:
            outputs = read_response(answer.header, answer.binary)
        except Invalid as error:
            raise no_server() from error
        if call.outputs is not None and set(outputs) != set(call.outputs):
            raise no_server()
        return outputs

    def restart(self) -> None:
        """A fresh process at the server, the same model loaded; calls under way are given up."""
        self._give_up()
        if self._asking.stopped.is_set():
            raise stopped()
        if self._files is not None:
            self._load(self._files)

    def stop(self) -> None:
        """From another thread: end the model's process for good; whoever waits gets a Conflict."""
        self._asking.stop()
        self._unload()

    def close(self) -> None:
        """End the model's process and give everything back. Safe to call twice."""
        self._give_up()
        self._unload()
        for line in self._free:
            line.close()
        self._take_back()

    def _introduce(self, value: dict[str, Any]) -> None:
        try:
            sandbox = value["sandbox"]
            self.level, self.versions = dict(sandbox["level"]), dict(sandbox["versions"])
            self.execution = dict(sandbox["execution"])
            self.limits = Limits(**sandbox["limits"])
            self._largest = int(value["largest_body"])
            before = int(value["places"]) + 2
        except (KeyError, TypeError, ValueError) as error:
            raise no_server() from error
        self._lends = self._lends and "system_shared_memory" in value.get("extensions", [])
        self._asking.seconds = before * self.limits.wall_seconds + self.limits.load_seconds

    def _load(self, files: Mapping[str, bytes]) -> SessionInfo:
        session = self._asking.load(self._digest, files)
        try:
            info = SessionInfo(
                tuple(session["providers"]),
                dict(session["versions"]),
                ModelDescription.model_validate(session["description"]),
            )
            found = dict(session["level"]), dict(info.versions), dict(session["execution"])
        except (KeyError, TypeError, ValueError, ValidationError) as error:
            raise no_server() from error
        if self._files is not None and found != (self.level, self.versions, self.execution):
            raise Unavailable(
                "the inference server runs other versions, computes on something else, or locks "
                "down otherwise, than when this run began: run it again",
                code="inference_changed",
            )
        self.level, self.versions, self.execution = found
        return info

    def _answered(self, call: _Call) -> Answer:
        patience = self._asking.patience()
        while True:
            try:
                if not call.sent:
                    self._send(call)
                answer = call.line.answer()
            except LOST as error:
                call.line.close()
                call.sent = False
                if self._asking.stopped.is_set():
                    raise stopped() from error
                patience.lost(error)
                continue
            call.sent = False
            if patience.busy(answer):
                continue
            code = answer.value().get("code") if answer.status == 404 else None
            if code == "model_not_loaded" and patience.again():
                self._load(self._files or {})  # another caller needed its place
            elif code == "region_unknown" and patience.again():
                if self._lent is not None and self._lent.name == call.region:
                    self._take_back()  # the server was started anew
            else:
                return answer

    def _send(self, call: _Call) -> None:
        places = None
        if self._lends and (lent := self._lend(needed(call.inputs))) is not None:
            places, call.region = lent.put(call.inputs, call.slot), lent.name
        header, parts = write_request(call.inputs, call.outputs, places)
        call.sent = False
        try:
            call.line.ask("POST", f"/v2/models/{quote(self._digest)}/infer", parts, header)
        except LOST:
            call.line.close()
            raise
        call.sent = True

    def _lend(self, size: int) -> Lent | None:
        """The region, large enough; None where the server does not take it, for good."""
        if self._lent is not None and self._lent.slot >= size:
            return self._lent
        if self._lent is not None and len(self._calls) > 1:
            return None  # the one in use is too small for this call alone
        self._take_back()
        try:
            lent = Lent(PREFIX, size)
        except OSError:
            self._lends = False
            return None
        header = lent.registration()
        answer = self._asking.ask("POST", _region(lent.name) + "/register", (), header)
        lent.unname()
        if answer.status != 200:
            lent.close()
            self._lends = False
            return None
        self._lent = lent
        return lent

    def _take_back(self) -> None:
        if self._lent is not None:
            self._asking.bid_farewell(_region(self._lent.name) + "/unregister")
            self._lent.close()
            self._lent = None

    def _give_up(self) -> None:
        while self._calls:
            line = self._calls.popleft().line
            line.close()
            self._free.append(line)

    def _unload(self) -> None:
        if self._digest:
            self._asking.bid_farewell(model_path(self._digest) + "/unload")


def _region(name: str) -> str:
    return f"/v2/systemsharedmemory/region/{quote(name)}"
