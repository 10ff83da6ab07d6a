"""One running PostgreSQL server: recognise it, start it, stop it.

Rules
-----
1. A process is this data directory's server only if its command line says so. A process id left
   behind by a crash may be anybody's by now: it is never signalled.
2. Ready means that the server has written `ready` into postmaster.pid under its own process id.
3. It is started without a shell, so that no character in a path means anything.
4. Its log says what failed, not with which values (terse): a row never gets into a log.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

from registry.database.binaries import Account
from registry.trust.errors import Unavailable

START_SECONDS, STOP_SECONDS, ORPHAN_SECONDS = 300.0, 60.0, 30.0
_STATUS_LINE = 7
# What a new server says while processes of a killed one are still ending.
_ENDING = "pre-existing shared memory block"


def running(data: Path) -> int | None:
    """The process id of the server over `data`, or None."""
    pid = _noted(data)
    return pid if pid is not None and _serves(pid, data) else None


def _noted(data: Path) -> int | None:
    try:
        pid = int((data / "postmaster.pid").read_text().splitlines()[0])
    except (OSError, ValueError, IndexError):
        return None
    return pid if pid > 0 else None


def _serves(pid: int, data: Path) -> bool:
    """Whether process `pid` is a server with `data` on its command line (a zombie has none)."""
    if Path("/proc/self/cmdline").exists():
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return os.fsencode(data) in arguments and b"postgres" in arguments[0]
    listed = subprocess.run(
        ["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout
    return str(data) in listed and "postgres" in listed


def launch(
    binaries: Path, data: Path, socket_directory: Path, log: Path, account: Account
) -> "subprocess.Popen[bytes]":
    """Start the server over `data` and wait until it is ready. Nobody else may be starting it."""
    deadline = time.monotonic() + ORPHAN_SECONDS
    while True:
        if running(data) is None:
            # Left by a crash. If that number is another process of this account by now,
            # PostgreSQL would refuse to start. Processes that still use the data are found
            # all the same: through the shared memory that belongs to the directory.
            for left in (data / "postmaster.pid", *socket_directory.glob(".s.PGSQL.*")):
                left.unlink(missing_ok=True)
        begun = log.stat().st_size if log.exists() else 0
        process = _spawn(binaries, data, socket_directory, log, account)
        if _becomes_ready(process, data):
            return process
        said = _tail(log, begun)
        if _ENDING not in said or time.monotonic() > deadline:
            raise Unavailable(f"PostgreSQL did not start: {reason(said)} (see {log})")
        time.sleep(0.2)


def _spawn(
    binaries: Path, data: Path, socket_directory: Path, log: Path, account: Account
) -> "subprocess.Popen[bytes]":
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": str(socket_directory),
        "unix_socket_permissions": "0700",
        "log_error_verbosity": "terse",
    }
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    try:
        return subprocess.Popen(
            [
                str(binaries / "postgres"),
                "-D",
                str(data),
                *(part for item in settings.items() for part in ("-c", "=".join(item))),
            ],
            stdout=handle,
            stderr=handle,
            **account.options(),
        )
    finally:
        os.close(handle)


def _becomes_ready(process: "subprocess.Popen[bytes]", data: Path) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None:
        try:
            lines = (data / "postmaster.pid").read_text().splitlines()
        except OSError:
            lines = []
        ours = len(lines) > _STATUS_LINE and lines[0] == str(process.pid)
        if ours and lines[_STATUS_LINE].strip() == "ready":
            return True
        if time.monotonic() > deadline:
            process.send_signal(signal.SIGQUIT)
            process.wait()
            return False
        time.sleep(0.01)
    return False


def stop(data: Path, process: "subprocess.Popen[bytes] | None" = None) -> None:
    """Stop the server over `data` cleanly, if there is one; `process` if it is our child."""
    for number, seconds in (
        (signal.SIGINT, STOP_SECONDS),  # sessions are ended, everything is written
        (signal.SIGQUIT, STOP_SECONDS),  # ends at once; the next start recovers by the log
        (signal.SIGKILL, STOP_SECONDS),
    ):
        pid = running(data)
        if pid is None:
            break
        os.kill(pid, number)
        if _ends(data, process, seconds):
            break
    if process is not None:
        process.wait()


def _ends(data: Path, process: "subprocess.Popen[bytes] | None", seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process is not None:
            process.poll()  # reaps it
        if running(data) is None:
            return True
        time.sleep(0.01)
    return False


def reason(said: str) -> str:
    """The line of a program's output that tells most."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    for signs in (("FATAL", "PANIC"), ("error", "could not", "ERROR")):
        telling = [line for line in lines if any(sign in line for sign in signs)]
        if telling:
            return telling[-1]
    return lines[-1] if lines else "it said nothing"


def _tail(log: Path, begun: int) -> str:
    try:
        with log.open("rb") as stream:
            stream.seek(begun)
            return stream.read(100_000).decode(errors="replace")
    except OSError:
        return ""
