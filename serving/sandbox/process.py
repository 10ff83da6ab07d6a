"""The trusted side: starts the locked process, speaks with it, and buries it.

    with Sandbox.start() as sandbox:
        sandbox.load({"model.onnx": data})
        sandbox.run({"image": images})

Rules
-----
1. The process starts with an environment of four harmless variables, one socket, no other
   descriptor, in a session of its own, in `/`.
2. What it says about its lockdown is checked with the kernel (/proc) before a byte is sent.
3. Each call has a deadline. Whoever misses it, breaks the protocol or dies is killed by its own
   process id and reaped; the failure has a code.
4. Without seccomp nothing is run, unless the operator allowed it; the level then says so.
"""

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from registry.trust.errors import Conflict, Refused, Unavailable
from registry.trust.model_files import MAXIMUM_BYTES, check_names
from serving.sandbox import framing, shared
from serving.sandbox.failures import MESSAGES, ModelFailure, plain_text
from serving.sandbox.limits import Limits
from validators.contract.description import ModelDescription

ENVIRONMENT: Final = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "ORT_DISABLE_TELEMETRY": "1",
}
START_SECONDS: Final = 60.0
GRACE_SECONDS: Final = 2.0
_ROOT: Final = Path(__file__).resolve().parents[2]
_PROGRAM: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from serving.sandbox.child import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)


@dataclass(frozen=True)
class SessionInfo:
    """A loaded model: what ran it, with which versions, and what the file declares."""

    providers: tuple[str, ...]
    versions: dict[str, str]
    description: ModelDescription


class Sandbox:
    """One locked process and the one model in it. Use it as a context manager."""

    def __init__(self, limits: Limits, *, allow_unsandboxed: bool, landlock_abi: int) -> None:
        self.limits = limits
        self.level: dict[str, int | bool | str] = {}
        self.versions: dict[str, str] = {}
        self._allow_unsandboxed = allow_unsandboxed
        self._landlock_abi = landlock_abi
        self._files: dict[str, bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._region: shared.Region | None = None

    @classmethod
    def start(
        cls,
        limits: Limits | None = None,
        *,
        allow_unsandboxed: bool = False,
        landlock_abi: int = 1 << 16,
    ) -> Self:
        """Start a process and have it lock itself down.

        landlock_abi: the highest Landlock version to use; the kernel's own is the other bound.
        Raises Refused (sandbox_unavailable) where seccomp is missing and was not waived,
        Unavailable (sandbox_start) where the process does not come up.
        """
        sandbox = cls(
            limits or Limits(), allow_unsandboxed=allow_unsandboxed, landlock_abi=landlock_abi
        )
        sandbox._start()
        return sandbox

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The process's id while it lives."""
        return self._process.pid if self._process else None

    def close(self) -> None:
        """Kill the process by its own id and reap it. Safe to call twice."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._region is not None:
            self._region.close()
            self._region = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """A fresh process under the same limits, with the same model loaded again if one was."""
        self.close()
        self._start()
        if self._files is not None:
            self.load(self._files)

    def inspect(self, files: Mapping[str, bytes]) -> ModelDescription:
        """Every check that needs no contract, inside the process.

        Raises ModelFailure with the code of the first offence, Refused where the files are not
        model.onnx and at most one `<name>.data`.
        """
        header, _ = self._send_files("inspect", files)
        return _description(self, header.get("description"))

    def load(self, files: Mapping[str, bytes]) -> SessionInfo:
        """Inspect the model and open it. One model a process: a second load is a Conflict."""
        if self._files is not None and self._files is not files:
            raise Conflict("this sandbox holds a model already: start another one")
        header, _ = self._send_files("load", files)
        session = header.get("session")
        if not isinstance(session, dict) or session.get("providers") != ["CPUExecutionProvider"]:
            raise self._broken()
        description = _description(self, session.get("description"))
        self._files = files if isinstance(files, dict) else dict(files)
        return SessionInfo(("CPUExecutionProvider",), dict(self.versions), description)

    def run(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """One call of the model; `outputs` names those that are wanted (None: all).

        The arrays are this process's own copies; their names, types and sizes add up, and
        nothing else was checked: see `check_outputs`. Raises ModelFailure.
        """
        if self._socket is None:
            raise Conflict("this sandbox is closed: start another one")
        if self._files is None:
            raise Conflict("no model is loaded in this sandbox")
        rows = []
        for name, array in inputs.items():
            if array.dtype.name not in framing.DTYPES:
                raise TypeError(f"input {name} has type {array.dtype}, which can't be sent")
            rows.append([name, array.dtype.name, list(array.shape)])
        parts = self._place(list(inputs.values()))
        request = {
            "operation": "run",
            "inputs": rows,
            "outputs": None if outputs is None else list(outputs),
        }
        header, payload = self._call(request, parts, self.limits.wall_seconds)
        try:
            checked = framing.tensor_rows(header.get("outputs"), len(payload))
        except framing.ProtocolError as error:
            raise self._broken() from error
        if outputs is not None and {row[0] for row in checked} != set(outputs):
            raise self._broken()
        answers, position = {}, 0
        for name, dtype, shape, size in checked:
            kind = "uint8" if dtype == "bool" else dtype
            flat = np.frombuffer(payload, kind, size // framing.DTYPES[dtype], position)
            answers[name] = (flat != 0 if dtype == "bool" else flat).reshape(shape)
            position += size
        return answers

    # -- below: the process and the pipe ------------------------------------------------------

    def _place(self, arrays: list[NDArray[Any]]) -> list[framing.Buffer]:
        """Write arrays where the process reads them; give what must go through the socket."""
        assert self._region is not None
        *starts, end = shared.offsets([array.nbytes for array in arrays])
        padded: list[framing.Buffer] = []
        if end > shared.SIZE:
            for array, start, after in zip(arrays, starts, [*starts[1:], end], strict=True):
                padded.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
                padded.append(bytes(after - start - array.nbytes))
            return padded
        for array, start in zip(arrays, starts, strict=True):
            np.frombuffer(self._region.view, array.dtype, array.size, start).reshape(array.shape)[
                ...
            ] = array
        return []

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        region = shared.Region()
        descriptors = (theirs.fileno(), region.descriptor)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-c", _PROGRAM, str(_ROOT), *map(str, descriptors)],
                    env=ENVIRONMENT,
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=descriptors,
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                region.close()
                raise
        region.close_descriptor()
        self._region = region
        self._socket = ours
        try:
            self._shake_hands()
        except BaseException:
            self.close()
            raise

    def _shake_hands(self) -> None:
        assert self._socket is not None
        deadline = time.monotonic() + START_SECONDS
        limits = {
            "memory_bytes": self.limits.memory_bytes,
            "cpu_seconds": self.limits.cpu_seconds,
            "landlock_cap": self._landlock_abi,
            "grace_seconds": GRACE_SECONDS,
            "payload_limit": MAXIMUM_BYTES,
        }
        try:
            framing.send(self._socket, limits, (), deadline)
            answer, _ = framing.receive(self._socket, 0, deadline)
        except (framing.ClosedError, framing.DeadlineError, framing.ProtocolError) as error:
            raise Unavailable(
                "the sandboxed process did not start: is onnxruntime installed "
                "(extra [hospital] or [gpu]), and is there memory left?",
                code="sandbox_start",
            ) from error
        if "error" in answer:
            raise Unavailable(
                f"the sandboxed process could not lock itself down: {answer.get('detail')}",
                code="sandbox_start",
            )
        self.versions = answer["versions"]
        self.level = self._verified_level(answer["level"])
        if not self.level["seccomp"] and not self._allow_unsandboxed:
            raise Refused(
                "this system offers no seccomp, so an untrusted model can't be run here: install "
                "libseccomp2, or start with --allow-unsandboxed (the result can't be certified)",
                code="sandbox_unavailable",
            )

    def _verified_level(self, claimed: dict[str, Any]) -> dict[str, int | bool | str]:
        """The process's claim, overruled by what the kernel says about it."""
        status, own = _status(self.pid), _status("self")
        if status["Threads"] != "1":
            raise Unavailable("the sandboxed process has several threads", code="sandbox_start")
        # Inside a container every process is filtered: the process must have one filter more.
        more = int(status.get("Seccomp_filters", "1")) > int(own.get("Seccomp_filters", "0"))
        return {
            **claimed,
            "seccomp": bool(claimed["seccomp"]) and status.get("Seccomp") == "2" and more,
            "no_new_privileges": status.get("NoNewPrivs") == "1",
            "uid_dropped": bool(claimed["uid_dropped"]) and "0" not in status["Uid"].split(),
            "allow_unsandboxed": self._allow_unsandboxed,
        }

    def _send_files(
        self, operation: str, files: Mapping[str, bytes]
    ) -> tuple[dict[str, Any], bytearray]:
        check_names(files)
        if sum(len(data) for data in files.values()) > MAXIMUM_BYTES:
            raise ModelFailure("model_too_large")
        rows = [[name, len(data)] for name, data in files.items()]
        request = {"operation": operation, "files": rows}
        return self._call(request, list(files.values()), self.limits.load_seconds)

    def _call(
        self, request: dict[str, Any], payload: Sequence[framing.Buffer], seconds: float
    ) -> tuple[dict[str, Any], bytearray]:
        if self._socket is None:
            raise Conflict("this sandbox is closed: start another one")
        deadline = time.monotonic() + seconds
        try:
            framing.send(self._socket, {**request, "seconds": seconds}, payload, deadline)
            header, answer = framing.receive(self._socket, self.limits.output_bytes, deadline)
        except framing.DeadlineError as error:
            self.close()
            raise ModelFailure("model_timeout") from error
        except framing.ClosedError as error:
            raise ModelFailure(self._cause_of_death()) from error
        except framing.ProtocolError as error:
            raise self._broken() from error
        if "error" not in header:
            return header, answer
        code, detail = header["error"], header.get("detail")
        if not isinstance(code, str) or code not in MESSAGES or not isinstance(detail, str):
            raise self._broken()
        if code == "model_out_of_memory":
            self.close()
        raise ModelFailure(code, "" if request["operation"] == "run" else plain_text(detail))

    def _broken(self) -> ModelFailure:
        self.close()
        return ModelFailure("model_crashed")

    def _cause_of_death(self) -> str:
        process = self._process
        status: int | None = None
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = process.wait(GRACE_SECONDS)
        self.close()
        # Nobody here sent SIGKILL: the kernel ran out of memory.
        if status in (-signal.SIGKILL, framing.OUT_OF_MEMORY_STATUS):
            return "model_out_of_memory"
        if status in (-signal.SIGXCPU, -signal.SIGALRM):
            return "model_timeout"
        return "model_crashed"


def _status(pid: int | str | None) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _description(sandbox: Sandbox, value: object) -> ModelDescription:
    try:
        return ModelDescription.model_validate(value)
    except ValidationError as error:
        raise sandbox._broken() from error
