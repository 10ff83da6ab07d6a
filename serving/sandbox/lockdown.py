"""Closing the process off, from within, before it sees a byte that others wrote.

Rules
-----
1. Exactly one thread when the doors close: a thread started earlier would keep its rights.
2. The floor is a seccomp allow-list: no call that opens a path or socket, starts a process or
   thread, signals or traces another process, or maps memory executable. Anything else is
   answered EPERM, so that a runtime that merely asks keeps working; another architecture's
   calls kill the process.
3. Landlock comes on top, at the version the kernel offers: no file system, no network, no
   signals or abstract sockets out of the domain.
4. Resource limits hold in any case: memory, CPU time, no file growth, no core dump, no new
   descriptor, no new process.
5. Run as root, it becomes another user first, and not the one that PostgreSQL runs as.
"""

import ctypes.util
import errno
import importlib
import mmap
import os
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

UNPRIVILEGED_ID: Final = 65533
SOCKET_FD: Final = 3
_PR_SET_NO_NEW_PRIVS: Final = 38
_MAP_ANONYMOUS: Final = 0x20
_LIBRARIES: Final = {"c": "libc.so.6", "seccomp": "libseccomp.so.2"}

ALLOWED_CALLS: Final = """
    read readv write writev recvfrom recvmsg sendto sendmsg shutdown close poll ppoll select
    pselect6 brk munmap mremap madvise futex restart_syscall exit exit_group rt_sigreturn
    rt_sigprocmask sigaltstack setitimer clock_gettime clock_getres clock_nanosleep nanosleep
    gettimeofday time getpid gettid getuid geteuid sched_yield sched_getaffinity getcpu
    getrusage times fstat lseek membarrier rseq
""".split()  # noqa: SIM905
"""What numpy and onnxruntime need to compute and answer on an open socket, and no more."""


@contextmanager
def libraries_by_soname() -> Iterator[None]:
    """Let ctypes find libc and libseccomp without starting ldconfig and a compiler."""
    original = ctypes.util.find_library
    ctypes.util.find_library = lambda name: _LIBRARIES.get(name) or original(name)
    try:
        yield
    finally:
        ctypes.util.find_library = original


def load_libraries() -> tuple[Any, Any]:
    """The seccomp and Landlock bindings, or None for each that is missing here."""
    seccomp: Any = None
    landlock: Any = None
    with libraries_by_soname():
        try:
            seccomp = importlib.import_module("pyseccomp")
        except (ImportError, OSError, RuntimeError, AttributeError):
            seccomp = None
        try:
            landlock = importlib.import_module("landlockpy")
            landlock.abi_version()  # binds libc while files can still be opened
        except (ImportError, OSError):
            landlock = None
    return seccomp, landlock


def lock_down(
    seccomp: Any, landlock: Any, *, memory_bytes: int, cpu_seconds: int, landlock_cap: int
) -> dict[str, int | bool | str]:
    """Close the process off and say how far that went.

    `landlock_cap` is the highest Landlock version to use: 0 uses none. Raises RuntimeError when
    more than one thread runs, and OSError when the kernel refuses a limit.
    """
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208
    if threads != 1:
        raise RuntimeError(f"{threads} threads run before the lockdown, where one is allowed")
    close_descriptors()
    memory = _address_space() + memory_bytes
    limit(resource.RLIMIT_AS, memory)
    limit(resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + 1)
    limit(resource.RLIMIT_FSIZE, 0)
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_NPROC, 0)
    limit(resource.RLIMIT_MEMLOCK, 0)
    limit(resource.RLIMIT_MSGQUEUE, 0)
    dropped = drop_privileges()
    no_new_privileges()
    abi = restrict_landlock(landlock, landlock_cap)
    limit(resource.RLIMIT_NOFILE, SOCKET_FD + 1)
    filtered = filter_calls(seccomp)
    return {
        "seccomp": filtered,
        "landlock_abi": abi,
        "no_new_privileges": True,
        "uid_dropped": dropped,
        "rlimits": True,
        "memory_bytes": memory_bytes,
    }


def limit(kind: int, soft: int, hard: int | None = None) -> None:
    """Set a resource limit, never above the one that holds already."""
    ceiling = resource.getrlimit(kind)[1]
    wanted = soft if hard is None else hard
    if ceiling != resource.RLIM_INFINITY:
        wanted = min(wanted, ceiling)
    resource.setrlimit(kind, (min(soft, wanted), wanted))


def _address_space() -> int:
    with open("/proc/self/statm", "rb") as stream:  # noqa: PTH123
        return int(stream.read().split()[0]) * mmap.PAGESIZE


def close_descriptors(keep: frozenset[int] = frozenset()) -> None:
    """Close every descriptor but the standard ones, the socket and those to `keep`."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        descriptor = int(name)
        if descriptor > SOCKET_FD and descriptor not in keep:
            try:
                os.close(descriptor)
            except OSError:
                continue  # the one that listed the folder


def drop_privileges() -> bool:
    """Become the user without rights; False where this is not root, or can't."""
    if os.geteuid() != 0:
        return False
    try:
        os.setgroups([])
        os.setresgid(UNPRIVILEGED_ID, UNPRIVILEGED_ID, UNPRIVILEGED_ID)
        os.setresuid(UNPRIVILEGED_ID, UNPRIVILEGED_ID, UNPRIVILEGED_ID)
    except OSError:
        return False  # a user namespace without that id, whose root is nobody outside
    return True


def no_new_privileges() -> None:
    """No program that is started from here on gains a right by it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs was refused")


def restrict_landlock(landlock: Any, cap: int, allowed: Sequence[tuple[str, Any]] = ()) -> int:
    """Forbid everything that the kernel's Landlock, capped at `cap`, can forbid.

    allowed: paths that exist, each with what may be done below it; none for a model on the CPU.
    """
    abi = min(landlock.abi_version(), landlock.flags.LATEST_ABI, cap) if landlock else 0
    if abi < 1:
        return 0
    with landlock.Ruleset(
        handled_fs=landlock.fs_for_abi(abi),
        handled_net=landlock.net_for_abi(abi),
        scoped=landlock.scope_for_abi(abi),
    ) as ruleset:
        for path, access in allowed:
            ruleset.allow_path(path, access)
        ruleset.restrict(landlock.restrict_for_abi(abi) & landlock.RestrictFlag.TSYNC)
    return int(abi)


def filter_calls(seccomp: Any, devices: Sequence[int] = ()) -> bool:
    """Install the allow-list on every thread. False where this kernel or system has none.

    devices: descriptors of a GPU's device files, on which ioctl and mmap stay allowed.
    """
    if seccomp is None:
        return False
    try:
        rules = allow_list(seccomp)
        for descriptor in devices:
            rules.add_rule(seccomp.ALLOW, "ioctl", seccomp.Arg(0, seccomp.EQ, descriptor))
            not_executable = seccomp.Arg(2, seccomp.MASKED_EQ, mmap.PROT_EXEC, 0)
            of_device = seccomp.Arg(4, seccomp.EQ, descriptor)
            rules.add_rule(seccomp.ALLOW, "mmap", not_executable, of_device)
        rules.load()
    except OSError:  # libseccomp says so at the first attribute that the kernel lacks
        return False
    return True


def allow_list(seccomp: Any) -> Any:
    """The filter of a model on the CPU, not loaded yet."""
    rules = seccomp.SyscallFilter(seccomp.ERRNO(errno.EPERM))
    rules.set_attr(seccomp.Attr.CTL_TSYNC, 1)
    rules.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.KILL_PROCESS)
    for call in ALLOWED_CALLS:
        number = seccomp.resolve_syscall(seccomp.Arch.NATIVE, call)
        if number >= 0:  # not every architecture has every call
            rules.add_rule(seccomp.ALLOW, number)
    not_executable = seccomp.Arg(2, seccomp.MASKED_EQ, mmap.PROT_EXEC, 0)
    anonymous = seccomp.Arg(3, seccomp.MASKED_EQ, _MAP_ANONYMOUS, _MAP_ANONYMOUS)
    rules.add_rule(seccomp.ALLOW, "mmap", not_executable, anonymous)
    rules.add_rule(seccomp.ALLOW, "mprotect", not_executable)
    # abort() signals its own process: without this a crash would look like another one.
    rules.add_rule(seccomp.ALLOW, "tgkill", seccomp.Arg(0, seccomp.EQ, os.getpid()))
    return rules
