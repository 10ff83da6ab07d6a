"""Closing off a process that computes on a CUDA device: a lower level than the CPU's, and stated.

    begin(landlock, …)        # one thread: no network, no write, no new rights
    …                         # the driver's context, a model of our own: several threads now
    close_doors(seccomp, …)   # before the first byte that others wrote

Rules
-----
1. The driver opens files and starts threads, so the doors close in two steps. All that a kernel
   can take from a single thread is taken first, and every later thread inherits it: user, limits,
   no new privileges, and Landlock with no network, no signals out, and of the file system only
   reading the system and this installation, and the device's own files.
2. Then the allow-list of calls goes onto every thread at once (TSYNC), or the lockdown fails. It is
   the CPU's list and two more: ioctl, and mmap that is not executable, on the descriptors of the
   device's files that are open at that moment. No call can open another.
3. The address space can't be limited (a driver reserves far more than it uses): what the process
   can write to in the host's memory is (RLIMIT_DATA), and the device's memory by the session.
4. What this level can't hold back: the driver, in the kernel, takes requests from a process that a
   model may have taken over. The level in the evidence names the device.
"""

import os
import re
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from serving.sandbox.lockdown import (
    close_descriptors,
    drop_privileges,
    filter_calls,
    limit,
    no_new_privileges,
    restrict_landlock,
)

_DEVICE_FILE: Final = re.compile(
    r"/dev/(nvidia[0-9]+|nvidiactl|nvidia-uvm|nvidia-caps/nvidia-cap[0-9]+)"
)
_READABLE: Final = ("/usr", "/lib", "/lib64", "/proc", "/sys")
_LIBRARY_CACHE: Final = "/etc/ld.so.cache"


def begin(
    landlock: Any, *, cpu_seconds: int, landlock_cap: int, keep: frozenset[int] = frozenset()
) -> dict[str, int | bool | str]:
    """The first step, on the only thread; what of the level it reached.

    keep: descriptors that stay open (the device's lock). Raises RuntimeError where several threads
    run already, OSError where the kernel refuses.
    """
    running = threads()
    if running != 1:
        raise RuntimeError(f"{running} threads run before the lockdown, where one is allowed")
    close_descriptors(keep)
    limit(resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + 1)
    limit(resource.RLIMIT_FSIZE, 0)
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_MSGQUEUE, 0)
    dropped = drop_privileges()
    no_new_privileges()
    abi = restrict_landlock(landlock, landlock_cap, _open_to_the_driver(landlock))
    return {"landlock_abi": abi, "no_new_privileges": True, "uid_dropped": dropped}


def close_doors(
    seccomp: Any, *, memory_bytes: int, devices: Sequence[int]
) -> dict[str, int | bool | str]:
    """The second step, on every thread; the rest of the level. Raises OSError."""
    limit(resource.RLIMIT_DATA, _data_bytes() + memory_bytes)
    limit(resource.RLIMIT_NPROC, 0)
    limit(resource.RLIMIT_NOFILE, max(_descriptors()) + 1)
    filtered = filter_calls(seccomp, devices)
    return {
        "seccomp": filtered,
        "rlimits": True,
        "memory_bytes": memory_bytes,
        "address_space_limited": False,
        "one_thread": False,
    }


def device_files() -> list[int]:
    """The descriptors of this process that are a GPU's device files."""
    return sorted(number for number, target in _descriptors().items() if is_device_file(target))


def is_device_file(target: str) -> bool:
    """Whether that is the path of a file of NVIDIA's driver."""
    return _DEVICE_FILE.fullmatch(target) is not None


def threads() -> int:
    """How many threads this process has."""
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208


def _descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115
        except OSError:
            continue  # the one that listed the folder
    return found


def _data_bytes() -> int:
    """What RLIMIT_DATA counts: memory that this process alone can write to."""
    with open("/proc/self/status", "rb") as stream:  # noqa: PTH123
        sizes = [line.split()[1] for line in stream if line.startswith(b"VmData:")]
    return int(sizes[0]) << 10


def _open_to_the_driver(landlock: Any) -> list[tuple[str, Any]]:
    if landlock is None:
        return []
    access = landlock.AccessFS
    read = access.READ_FILE | access.READ_DIR  # a library is mapped, no program is started
    own = (sys.prefix, sys.base_prefix, str(Path(__file__).resolve().parents[2]))
    allowed = [(path, read) for path in (*_READABLE, *own) if os.access(path, os.R_OK)]
    if os.access(_LIBRARY_CACHE, os.R_OK):
        allowed.append((_LIBRARY_CACHE, access.READ_FILE))
    use = access.READ_FILE | access.WRITE_FILE | access.IOCTL_DEV
    files = [*Path("/dev").glob("nvidia*"), *Path("/dev").glob("nvidia-caps/*")]
    names = [str(path) for path in files]
    return allowed + [(path, use) for path in names if is_device_file(path)]
