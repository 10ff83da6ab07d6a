"""What a model that took over its process would try, run in a process locked down for real.

`attempts` runs inside the process: it tries each forbidden thing and tells the errno, or
"done" where it worked. Started in the place of serving.sandbox.child.main.
"""

import contextlib
import ctypes
import json
import mmap
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from serving.sandbox import framing, launch, wrapping
from serving.sandbox.child import enter
from serving.sandbox.lockdown import load_libraries, lock_down
from serving.sandbox.process import Sandbox

PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from tests.serving.probe import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)
_LIBC = ctypes.CDLL(None, use_errno=True)


def attempts(parent: int, port: int) -> dict[str, Callable[[], Any]]:
    """What is tried, by name."""

    def call(name: str, *arguments: Any) -> Callable[[], Any]:
        function = getattr(_LIBC, name)

        def run() -> None:
            if function(*arguments) == -1:
                raise OSError(ctypes.get_errno(), name)

        return run

    def connect() -> None:
        with socket.socket() as sock:
            sock.connect(("127.0.0.1", port))

    def thread() -> None:
        threading.Thread(target=int).start()

    def fork() -> None:
        child = os.fork()
        if child == 0:
            os._exit(0)

    local = ctypes.create_string_buffer(64)

    class Vector(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

    vector = Vector(ctypes.addressof(local), 64)
    return {
        "open": lambda: os.open("/etc/passwd", os.O_RDONLY),
        "open own environment": lambda: os.open("/proc/self/environ", os.O_RDONLY),
        "open the parent's memory": lambda: os.open(f"/proc/{parent}/mem", os.O_RDONLY),
        "create": lambda: os.open("/tmp/touchstone-probe", os.O_CREAT | os.O_WRONLY),
        "list": lambda: os.listdir("/"),  # noqa: PTH208
        "stat": Path("/etc/passwd").stat,
        "readlink": Path("/proc/self/exe").readlink,
        "unlink": Path("/tmp/touchstone-probe-none").unlink,
        "chdir": lambda: os.chdir("/tmp"),
        "pipe": os.pipe,
        "dup": lambda: os.dup(3),
        "memfd": lambda: os.memfd_create("x"),
        "socket": lambda: socket.socket(socket.AF_INET),
        "unix socket": lambda: socket.socket(socket.AF_UNIX),
        "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
        "socketpair": socket.socketpair,
        "connect": connect,
        "fork": fork,
        "vfork": call("vfork"),
        "thread": thread,
        "exec": lambda: os.execv("/bin/true", ["true"]),  # noqa: S606
        "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
        "signal the parent": lambda: os.kill(parent, 0),
        "signal everyone": lambda: os.kill(-1, 0),
        "ptrace": call("ptrace", 16, parent, 0, 0),
        "read the parent": call(
            "process_vm_readv", parent, ctypes.byref(vector), 1, ctypes.byref(vector), 1, 0
        ),
        "executable memory": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
        "raise a limit": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
        "new namespace": call("unshare", 0x10000000),
        "mount": call("mount", b"none", b"/mnt", b"tmpfs", 0, None),
        "chroot": lambda: os.chroot("/"),
        "become root": lambda: os.setuid(0),
        "keyring": call("syscall", 250, 0, -3, 0),
        "bpf": call("syscall", 321, 0, 0, 0),
        "io_uring": call("syscall", 425, 1, ctypes.byref(local)),
        "open by handle": call("syscall", 304, -100, ctypes.byref(local), 0),
        "perf": call("syscall", 298, ctypes.byref(local), 0, -1, -1, 0),
        "userfaultfd": call("syscall", 323, 0),
        "pidfd": call("syscall", 434, parent, 0),
        "ignore signals": lambda: signal.signal(signal.SIGXCPU, signal.SIG_IGN),
    }  # fmt: skip


def outcomes(parent: int, port: int) -> dict[str, str]:
    """Try everything; a refusal's errno by name, or the exception's, or `done`."""
    found = {}
    for name, attempt in attempts(parent, port).items():
        try:
            attempt()
        except OSError as error:
            found[name] = f"errno {error.errno}"
        except (RuntimeError, ValueError) as error:
            found[name] = type(error).__name__
        else:
            found[name] = "done"
    return found


def main(descriptor: int, shared: int) -> None:
    """Enter as the real process does, then answer each frame with what could be done."""
    entered = enter(descriptor, shared)
    if entered is None:
        return
    sock, memory, _ = entered
    with contextlib.suppress(framing.ClosedError):
        while True:
            request, _ = framing.receive(sock, 0)
            if request["operation"] == "shared":
                answer = {"read": len(bytes(memory[:64])), "written": _writes(memory)}
            elif request["operation"] == "reply":
                sock.sendall(bytes.fromhex(request["bytes"]))
                continue
            elif request["operation"] == "drip":
                _drip(sock, bytes.fromhex(request["bytes"]), request["pause"])
                continue
            elif request["operation"] == "die":
                _die(request["how"])
                continue
            else:
                answer = outcomes(request["parent"], request["port"])
            framing.send(sock, answer)


def _writes(memory: Any) -> bool:
    try:
        memory[0:1] = b"x"
    except TypeError:
        return False
    return True


def _drip(sock: socket.socket, data: bytes, pause: float) -> None:
    """Say `data` byte by byte, `pause` seconds apart; awake all the time, so no call is needed."""
    for position in range(len(data)):
        sock.sendall(data[position : position + 1])
        until = time.monotonic() + pause
        while time.monotonic() < until:
            pass


def _die(how: str) -> None:
    if how == "abort":
        os.abort()
    ctypes.string_at(0)  # a null pointer


def ask(sandbox: Sandbox, request: dict[str, Any]) -> dict[str, Any]:
    """One question to a process of this module."""
    process = sandbox._alive()
    process.send(request, [], 10)
    return process.receive(10, tell_reasons=True)[0]


@contextlib.contextmanager
def probed(**options: Any) -> Iterator[Sandbox]:
    """A sandbox whose process is this module's."""
    original, own = launch._PROGRAM, wrapping._OWN
    wrapping._OWN = (*own, "tests")
    launch._PROGRAM = PROGRAM
    try:
        with Sandbox.start(**options) as sandbox:
            yield sandbox
    finally:
        launch._PROGRAM, wrapping._OWN = original, own


def landlock_alone(cap: int, port: int) -> None:
    """For a process of its own: Landlock up to `cap` without seccomp; prints the outcomes."""
    _, landlock = load_libraries()
    level = lock_down(None, landlock, memory_bytes=1 << 30, cpu_seconds=60, landlock_cap=cap)
    found = {}
    for name in ("list", "connect"):
        try:
            attempts(0, port)[name]()
        except OSError as error:
            found[name] = f"errno {error.errno}"
        else:
            found[name] = "done"
    sys.stdout.write(json.dumps({"level": level, "found": found}))
    sys.stdout.flush()
