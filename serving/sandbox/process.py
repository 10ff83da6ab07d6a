"""The trusted side of the sandbox: what the pipeline and the hospital call.

    with Sandbox.start() as sandbox:
        sandbox.load({"model.onnx": data})
        sandbox.run({"image": images})

Rules
-----
1. A process holds one model. After a fatal failure, `restart` gives a fresh process.
2. Each call has a deadline; see serving.sandbox.launch for what happens at it.
3. Without seccomp nothing is run, unless the operator allowed it; the level then says so.
4. Two calls may be under way (`begin`, `begin`, `finish`, `finish`), so that the process needn't
   wait for its next inputs.
5. `stop` may come from another thread at any moment, also while a call hangs: the process is dead
   when it returns, and no other is started.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from registry.trust.errors import Conflict, Refused
from registry.trust.model_files import MAXIMUM_BYTES, check_names
from serving.sandbox import framing, shared
from serving.sandbox.device import claim, libraries
from serving.sandbox.failures import ModelFailure
from serving.sandbox.launch import LockedProcess
from serving.sandbox.limits import Limits
from serving.sandbox.machine import Recorded, recorded, this_cpu
from serving.sandbox.providers import CPU, Provider
from validators.contract.description import ModelDescription

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class SessionInfo:
    """A loaded model: what ran it, with which versions, and what the file declares."""

    providers: tuple[str, ...]
    versions: dict[str, str]
    description: ModelDescription


class Sandbox:
    """One locked process and the one model in it. Use it as a context manager.

    level: what the process could lock down (seccomp, landlock_abi, no_new_privileges,
    uid_dropped, rlimits, memory_bytes, allow_unsandboxed; on a device also device, one_thread and
    address_space_limited), for the evidence.
    execution: what computes, with every option that moves bits, for the evidence.
    """

    at_once: ClassVar[int] = shared.SLOTS
    """How many calls may be under way."""
    EXPLAINS: ClassVar[bool] = False
    """Whether a failed call tells why: never where a case of a patient may be among the inputs."""

    def __init__(
        self,
        limits: Limits,
        *,
        allow_unsandboxed: bool,
        landlock_abi: int,
        provider: Provider = CPU,
    ) -> None:
        self.limits = limits
        self.execution: Recorded = {}
        self._provider = provider
        self.level: dict[str, int | bool | str] = {}
        self.versions: dict[str, str] = {}
        self._allow_unsandboxed = allow_unsandboxed
        self._landlock_abi = landlock_abi
        self._files: dict[str, bytes] | None = None
        self._process: LockedProcess | None = None
        self._stopped = False
        self._under_way: list[tuple[str, ...] | None] = []
        self._slot = 0

    @classmethod
    def start(
        cls,
        limits: Limits | None = None,
        *,
        allow_unsandboxed: bool = False,
        landlock_abi: int = 1 << 16,
        provider: Provider = CPU,
    ) -> Self:
        """Start a process and have it lock itself down.

        landlock_abi: the highest Landlock version to use; the kernel's own is the other bound.
        provider: what computes; a CUDA device is held alone until the process is gone.
        Raises Refused (sandbox_unavailable) where seccomp is missing and was not waived,
        Unavailable: sandbox_start where the process does not come up, provider_unavailable where
        this host is not what was asked for, device_busy while another model has the device.
        """
        sandbox = cls(
            limits or Limits(),
            allow_unsandboxed=allow_unsandboxed,
            landlock_abi=landlock_abi,
            provider=provider,
        )
        sandbox._launch()
        return sandbox

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The process's id while it lives."""
        alive = self._process is not None and self._process.socket is not None
        return self._process.pid if self._process and alive else None

    @property
    def processor_seconds(self) -> float:
        """What the process has had of the processors while it lives; 0 where none does."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return 0.0
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """Kill the process by its own id and reap it. Safe to call twice."""
        if self._process is not None:
            self._process.close()

    def stop(self) -> None:
        """From another thread: kill the process for good. Whoever waits for it gets a failure."""
        self._stopped = True
        process = self._process
        if process is not None:
            process.kill()

    def restart(self) -> None:
        """A fresh process under the same limits, with the same model loaded again if one was."""
        self.close()
        self._launch()
        if self._files is not None:
            self.load(self._files)

    def inspect(self, files: Mapping[str, bytes]) -> ModelDescription:
        """Every check that needs no contract, inside the process.

        Raises ModelFailure with the code of the first offence, Refused where the files are not
        model.onnx and at most one `<name>.data`.
        """
        return self._description(self._send_files("inspect", files).get("description"))

    def load(self, files: Mapping[str, bytes]) -> SessionInfo:
        """Inspect the model and open it. One model a process: a second load is a Conflict."""
        if self._files is not None and self._files is not files:
            raise Conflict("this sandbox holds a model already: start another one")
        session = self._send_files("load", files).get("session")
        providers = (self._provider.name,)
        if not isinstance(session, dict) or session.get("providers") != list(providers):
            raise self._alive().broken()
        description = self._description(session.get("description"))
        self._files = files if isinstance(files, dict) else dict(files)
        return SessionInfo(providers, dict(self.versions), description)

    def run(self, inputs: Arrays, outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """One call of the model; `outputs` names those that are wanted (None: all).

        The arrays are this process's own copies; their names, types and sizes add up, and
        nothing else was checked: see `check_outputs`. Raises ModelFailure.
        """
        if self._under_way:
            raise Conflict("a call is under way: finish it first")
        self.begin(inputs, outputs)
        return self.finish()

    def fits(self, inputs: Arrays, rows: shared.Rows | None = None) -> bool:
        """Whether a second call with such inputs may begin before the first is finished."""
        *_, end = shared.offsets(shared.sizes_of(list(inputs.values()), rows))
        return end <= shared.SLOT

    def fileno(self) -> int:
        """What a selector waits on: readable once the oldest call was answered, or failed."""
        process = self._alive()
        assert process.socket is not None
        return process.socket.fileno()

    def begin(
        self,
        inputs: Arrays,
        outputs: Sequence[str] | None = None,
        rows: shared.Rows | None = None,
    ) -> None:
        """Hand over the inputs of a call; `finish` gives its answer. Two may be under way.

        rows: which rows of the inputs the call gets, in this order; None: all. An input that is
        of another type than the model's is cast in the process.
        """
        process = self._alive()
        if self._files is None:
            raise Conflict("no model is loaded in this sandbox")
        if len(self._under_way) >= (shared.SLOTS if self.fits(inputs, rows) else 1):
            raise Conflict("too many calls are under way: finish one first")
        sent = []
        for name, array in inputs.items():
            if array.dtype.name not in framing.DTYPES:
                raise TypeError(f"input {name} has type {array.dtype}, which can't be sent")
            shape = array.shape if rows is None else (len(rows), *array.shape[1:])
            sent.append([name, array.dtype.name, list(shape)])
        self._slot = (self._slot + 1) % shared.SLOTS
        request = {
            "operation": "run",
            "inputs": sent,
            "slot": self._slot,
            "outputs": None if outputs is None else list(outputs),
            "explain": self.EXPLAINS,
        }
        parts = process.region.place(list(inputs.values()), self._slot, rows)
        process.send(request, parts, self.limits.wall_seconds)
        self._under_way.append(None if outputs is None else tuple(outputs))

    def finish(self) -> dict[str, NDArray[Any]]:
        """The answer of the call that began first. After a fatal failure the others are lost."""
        process = self._alive()
        if not self._under_way:
            raise Conflict("no call is under way")
        wanted = self._under_way.pop(0)
        header, payload = process.receive(self.limits.wall_seconds, tell_reasons=self.EXPLAINS)
        try:
            rows = framing.tensor_rows(header.get("outputs"), len(payload))
        except framing.ProtocolError as error:
            raise process.broken() from error
        if wanted is not None and {row[0] for row in rows} != set(wanted):
            raise process.broken()
        answers, position = {}, 0
        for name, dtype, shape, size in rows:
            kind = "uint8" if dtype == "bool" else dtype
            flat = np.frombuffer(payload, kind, size // framing.DTYPES[dtype], position)
            answers[name] = (flat != 0 if dtype == "bool" else flat).reshape(shape)
            position += size
        return answers

    def _launch(self) -> None:
        self._under_way = []
        self._refuse_when_stopped()
        provider, held, machine_class = self._provider, None, ""
        if provider.on_device:
            held = claim(provider)
            provider, machine_class = held.provider, held.machine_class
        try:
            self._process = LockedProcess(self.limits, self._landlock_abi, provider, held)
        except BaseException:
            if held is not None:
                held.close()
            raise
        self.execution = recorded(provider, machine_class or this_cpu())
        self._refuse_when_stopped()
        self.versions = self._process.versions | (libraries() if provider.on_device else {})
        self.level = self._process.level | {"allow_unsandboxed": self._allow_unsandboxed}
        if not self.level["seccomp"] and not self._allow_unsandboxed:
            self.close()
            raise Refused(
                "this system offers no seccomp, so an untrusted model can't be run here: install "
                "libseccomp2, or start with --allow-unsandboxed (the result can't be certified)",
                code="sandbox_unavailable",
            )

    def _refuse_when_stopped(self) -> None:
        if self._stopped:
            self.close()
            raise Conflict("the sandbox was stopped", code="sandbox_stopped")

    def _alive(self) -> LockedProcess:
        if self._process is None or self._process.socket is None:
            raise Conflict("this sandbox is closed: start another one")
        return self._process

    def _send_files(self, operation: str, files: Mapping[str, bytes]) -> dict[str, Any]:
        check_names(files)
        if sum(len(data) for data in files.values()) > MAXIMUM_BYTES:
            raise ModelFailure("model_too_large")
        if self._under_way:
            raise Conflict("a call is under way: finish it first")
        process = self._alive()
        rows = [[name, len(data)] for name, data in files.items()]
        seconds = self.limits.load_seconds
        process.send({"operation": operation, "files": rows}, list(files.values()), seconds)
        header, _ = process.receive(seconds, tell_reasons=True)
        return header

    def _description(self, value: object) -> ModelDescription:
        try:
            return ModelDescription.model_validate(value)
        except ValidationError as error:
            raise self._alive().broken() from error
