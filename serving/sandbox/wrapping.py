"""Around the locked process, where the host has it: bubblewrap, which hides files and processes.

    command = wrapped(program, command, told)    # where `bubblewrap()` found the program

Rules
-----
1. It is one wall more, never one less: the process locks itself down in there as it does without.
   Whether it was there is in the level, and so in the evidence.
2. In there lie Python, the libraries and this project's code, read only; no data, no other process,
   no network. All of it dies with its parent. The process is number 2 of its own: the kernel spares
   number 1 the very signals by which limits of time end it.
3. It is used where it is found and works; whether it does is tried once, with these very options.
   A container that forbids namespaces has done part of this itself.
4. Not on a device: its driver wants files and processes of its host.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

PROGRAM: Final = "bwrap"
_ROOT: Final = Path(__file__).resolve().parents[2]
_OWN: Final = ("registry", "serving", "validators")
_SYSTEM: Final = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache")
_SECONDS: Final = 10.0
_KEPT: Final = ("CAP_SETUID", "CAP_SETGID")
"""Root gives up its user id in there, and with it these."""


def bubblewrap() -> str | None:
    """The program, where this host has one and lets this user work with it."""
    found = shutil.which(PROGRAM)
    return found if found is not None and _works(found, os.geteuid()) else None


@functools.cache
def _works(program: str, _user: int) -> bool:
    command = [program, *_options(), sys.executable, "-I", "-S", "-c", ""]
    try:
        done = subprocess.run(command, env={}, capture_output=True, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def wrapped(program: str, command: Sequence[str], told: int) -> list[str]:
    """The command inside; `told` is the descriptor that learns the process's number."""
    return [program, "--info-fd", str(told), *_options(), *command]


def first_in(told: int) -> int | None:
    """The number, as this host counts, of number 1 in there, with whose end all of it ends; None
    where that has come already."""
    text = b""
    while not text.rstrip().endswith(b"}"):
        piece = os.read(told, 4096)
        if not piece:
            return None
        text += piece
    return int(json.loads(text)["child-pid"])


def number_of(first: int) -> int | None:
    """The number, as this host counts, of the process that number 1 started."""
    try:
        found = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    except OSError:
        return None
    return int(found[0]) if len(found) == 1 else None


def _options() -> list[str]:
    as_root = os.geteuid() == 0
    options = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts",
               "--unshare-cgroup-try", "--die-with-parent"]  # fmt: skip
    if as_root:
        options += ["--cap-drop", "ALL"]
        for kept in _KEPT:
            options += ["--cap-add", kept]
    for place in _places():
        options += ["--ro-bind-try", place, place]
    return [*options, "--proc", "/proc", "--dev", "/dev", "--remount-ro", "/", "--chdir", "/"]


def _places() -> list[str]:
    """What is needed to start, each once, the outer folders first."""
    own = [str(_ROOT / name) for name in _OWN]
    found = {*_SYSTEM, sys.prefix, sys.base_prefix, sys.exec_prefix, *own}
    found.add(str(Path(sys.executable).resolve().parents[1]))
    return sorted(place for place in found if place != "/")
