"""The locked process as an object: born, checked with the kernel, spoken to, buried.

Rules
-----
1. The process starts with an environment of three harmless variables (and those of the device,
   where it computes on one), one socket, the sealed memory of the inputs, in a session of its
   own, in `/`.
2. What it says about its lockdown is checked with the kernel (/proc) before a byte is sent.
3. Where the host has bubblewrap, the process is born inside it (`serving.sandbox.wrapping`).
4. Whoever misses a deadline, breaks the protocol or dies is killed by its own process id and
   reaped; the failure has a code.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from registry.trust.errors import Conflict, Unavailable
from registry.trust.model_files import MAXIMUM_BYTES
from serving.sandbox import framing, shared, wrapping
from serving.sandbox.device import NO_DEVICE, Held
from serving.sandbox.failures import MESSAGES, ModelFailure
from serving.sandbox.limits import Limits
from serving.sandbox.providers import CPU, Provider

ENVIRONMENT: Final = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "ORT_DISABLE_TELEMETRY": "1",
}
_SIGNALLED: Final = 128
"""Bubblewrap ends as a shell does: 128 and the signal's number."""
START_SECONDS: Final = 60.0
GRACE_SECONDS: Final = 2.0
_ROOT: Final = Path(__file__).resolve().parents[2]
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from serving.sandbox.child import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)


class LockedProcess:
    """One process behind one socket. `level` and `versions` are what it came up with.

    program: what it runs in place of the model's process (`serving.sandbox.child`).
    """

    def __init__(
        self,
        limits: Limits,
        landlock_abi: int,
        provider: Provider = CPU,
        held: Held | None = None,
        *,
        program: str | None = None,
    ) -> None:
        self._limits = limits
        self._provider = provider
        self._held = held
        self.level: dict[str, int | bool | str] = {}
        self.versions: dict[str, str] = {}
        self.pid, self._handle = -1, -1
        self._first: int | None = None
        self.region = shared.Region()
        ours, theirs = socket.socketpair()
        descriptors = (theirs.fileno(), self.region.descriptor)
        self._keep = () if held is None else (held.descriptor,)
        try:
            with theirs:
                command = [sys.executable, "-I", "-c", program or _PROGRAM, str(_ROOT)]
                self._start([*command, *map(str, descriptors)], descriptors)
        except BaseException:
            ours.close()
            self.region.close()
            raise
        self.region.close_descriptor()
        self.socket: socket.socket | None = ours
        try:
            self._shake_hands(landlock_abi)
        except BaseException:
            self.close()
            raise

    def _start(self, command: list[str], descriptors: tuple[int, ...]) -> None:
        outer = None if self._provider.on_device else wrapping.bubblewrap()
        heard, told = os.pipe() if outer is not None else (-1, -1)
        try:
            self.process = subprocess.Popen(
                command if outer is None else wrapping.wrapped(outer, command, told),
                env=ENVIRONMENT | self._provider.environment(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(*descriptors, *self._keep, *([] if outer is None else [told])),
                start_new_session=True,
            )
            self.pid = self.process.pid
            if outer is not None:
                os.close(told)
                told = -1
                self._first = wrapping.first_in(heard)
                if self._first is not None:
                    self._handle = os.pidfd_open(self._first)
        except ProcessLookupError:
            self._first = None  # it has ended already; the handshake says so
        finally:
            for end in (heard, told):
                if end >= 0:
                    os.close(end)

    def close(self) -> None:
        """Kill the process by its own id and reap it. Safe to call twice."""
        if self.socket is None:
            return
        self.socket.close()
        self.socket = None
        self.region.close()
        self.kill()
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        if self._held is not None:  # the device's memory was the process's, and that is gone
            self._held.close()

    def kill(self) -> None:
        """Kill the process by its own id and wait for its end; `close` must still be called."""
        if self._handle >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(GRACE_SECONDS)
        self.process.kill()
        self.process.wait()

    def send(
        self, request: dict[str, Any], payload: Sequence[framing.Buffer], seconds: float
    ) -> None:
        """Ask for something; `receive` gives the answers in the order of the questions."""
        deadline = time.monotonic() + seconds
        try:
            framing.send(self._open(), {**request, "seconds": seconds}, payload, deadline)
        except framing.DeadlineError as error:
            self.close()
            raise ModelFailure("model_timeout") from error
        except framing.ClosedError as error:
            raise ModelFailure(self._cause_of_death()) from error

    def receive(self, seconds: float, *, tell_reasons: bool) -> tuple[dict[str, Any], bytearray]:
        """The next answer. `tell_reasons` is False once the process has seen patient data."""
        deadline = time.monotonic() + seconds
        try:
            header, payload = framing.receive(self._open(), self._limits.output_bytes, deadline)
        except framing.DeadlineError as error:
            self.close()
            raise ModelFailure("model_timeout") from error
        except framing.ClosedError as error:
            raise ModelFailure(self._cause_of_death()) from error
        except framing.ProtocolError as error:
            raise self.broken() from error
        if "error" not in header:
            return header, payload
        code, detail = header["error"], header.get("detail")
        if not isinstance(code, str) or code not in MESSAGES or not isinstance(detail, str):
            raise self.broken()
        failure = ModelFailure(code, detail if tell_reasons else "")
        if failure.fatal:
            self.close()
        raise failure

    def broken(self) -> ModelFailure:
        """End a process that broke the protocol; gives the failure to raise."""
        self.close()
        return ModelFailure("model_crashed")

    def _open(self) -> socket.socket:
        if self.socket is None:
            raise Conflict("this sandbox is closed: start another one")
        return self.socket

    def _cause_of_death(self) -> str:
        status: int | None = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self.process.wait(GRACE_SECONDS)
        self.close()
        if self._first is not None and status is not None and status > _SIGNALLED:
            status = _SIGNALLED - status
        # Nobody here sent SIGKILL: the kernel ran out of memory.
        if status in (-signal.SIGKILL, framing.OUT_OF_MEMORY_STATUS):
            return "model_out_of_memory"
        if status in (-signal.SIGXCPU, -signal.SIGALRM):
            return "model_timeout"
        return "model_crashed"

    def _shake_hands(self, landlock_abi: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        limits = {
            "memory_bytes": self._limits.memory_bytes,
            "cpu_seconds": self._limits.cpu_seconds,
            "landlock_cap": landlock_abi,
            "grace_seconds": GRACE_SECONDS,
            "payload_limit": MAXIMUM_BYTES,
            "provider": self._provider.wire(),
            "keep": list(self._keep),
        }
        try:
            framing.send(self._open(), limits, (), deadline)
            answer, _ = framing.receive(self._open(), 0, deadline)
        except (framing.ClosedError, framing.DeadlineError, framing.ProtocolError) as error:
            raise Unavailable(
                "the sandboxed process did not start: is onnxruntime installed "
                "(extra [hospital] or [gpu]), and is there memory left?",
                code="sandbox_start",
            ) from error
        if answer.get("error") == "provider":
            raise Unavailable(
                f"{self._provider.name} was asked for: {answer.get('detail')}; nothing runs on the "
                "CPU in its place",
                code=NO_DEVICE,
            )
        if "error" in answer:
            raise Unavailable(
                f"the sandboxed process could not lock itself down: {answer.get('detail')}",
                code="sandbox_start",
            )
        if self._first is not None:
            self.pid = wrapping.number_of(self._first) or self.pid
        self.versions = answer["versions"]
        self.level = self._verified(answer["level"])

    def _verified(self, claimed: dict[str, Any]) -> dict[str, int | bool | str]:
        """The process's claim, overruled by what the kernel says about it."""
        status, own = _status(self.pid), _status("self")
        if self._provider.on_device:
            if not all_threads_filtered(self.pid) and claimed["seccomp"]:
                raise Unavailable(
                    "a thread of the sandboxed process is not locked down", code="sandbox_start"
                )
        elif status["Threads"] != "1":
            raise Unavailable("the sandboxed process has several threads", code="sandbox_start")
        # Inside a container every process is filtered: this one must have one filter more.
        more = int(status.get("Seccomp_filters", "1")) > int(own.get("Seccomp_filters", "0"))
        return {
            **claimed,
            "seccomp": bool(claimed["seccomp"]) and status.get("Seccomp") == "2" and more,
            "no_new_privileges": status.get("NoNewPrivs") == "1",
            "bubblewrap": self.pid != self.process.pid,
            "uid_dropped": bool(claimed["uid_dropped"]) and "0" not in status["Uid"].split(),
        }


def all_threads_filtered(pid: int) -> bool:
    """Whether the kernel says of every thread that its calls are filtered, for good."""
    tasks = [_status(f"{pid}/task/{task.name}") for task in Path(f"/proc/{pid}/task").iterdir()]
    return all(task.get("Seccomp") == "2" and task.get("NoNewPrivs") == "1" for task in tasks)


def _status(pid: int | str) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
