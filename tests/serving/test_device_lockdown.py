"""The lockdown around a device's driver: in two steps, and whole on every thread.

No GPU is needed: a pipe and a file of memory stand in for the device's files.
"""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from serving.sandbox.device_lockdown import is_device_file
from serving.sandbox.launch import all_threads_filtered

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import ctypes, errno, fcntl, json, mmap, os, socket, sys, termios, threading
from serving.sandbox.device_lockdown import begin, close_doors
from serving.sandbox.lockdown import load_libraries

def tried(call):
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno]
    except (RuntimeError, MemoryError) as error:
        return type(error).__name__
    return "done"

def connect():
    with socket.socket() as sock:
        sock.connect(("127.0.0.1", port))

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_ssize_t

def mapped(descriptor, protection):
    def call():
        if libc.mmap(None, 4096, protection, mmap.MAP_SHARED, descriptor, 0) == -1:
            raise OSError(ctypes.get_errno(), "mmap")
    return call

def attempts():
    number = bytearray(4)
    return {
        "open": tried(lambda: os.open("/etc/hostname", os.O_RDONLY)),
        "create": tried(lambda: os.open("/tmp/touchstone-probe", os.O_CREAT | os.O_WRONLY)),
        "connect": tried(connect),
        "fork": tried(os.fork),
        "exec": tried(lambda: os.execv("/bin/true", ["true"])),
        "thread": tried(lambda: threading.Thread(target=int).start()),
        "signal the parent": tried(lambda: os.kill(os.getppid(), 0)),
        "ioctl on the device": tried(lambda: fcntl.ioctl(device, termios.FIONREAD, number)),
        "ioctl elsewhere": tried(lambda: fcntl.ioctl(other, termios.FIONREAD, number)),
        "map the device": tried(mapped(memory, mmap.PROT_READ)),
        "map it executable": tried(mapped(memory, mmap.PROT_READ | mmap.PROT_EXEC)),
        "map elsewhere": tried(mapped(unlisted, mmap.PROT_READ)),
        "another descriptor": tried(lambda: os.dup(device)),
        "too much memory": tried(lambda: bytearray(512 << 20)),
        "a little memory": tried(lambda: bytearray(1 << 20)),
    }

port, cap, use_seccomp = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "seccomp"
seccomp, landlock = load_libraries()
go, found, done = threading.Event(), {}, threading.Event()
def work():
    go.wait()
    found["thread"] = attempts()
    done.set()
device, _ = os.pipe()
other, _ = os.pipe()
memory, unlisted = os.memfd_create("device"), os.memfd_create("unlisted")
for number in (memory, unlisted):
    os.ftruncate(number, 4096)
keep = frozenset((device, other, memory, unlisted))
first = begin(landlock, cpu_seconds=60, landlock_cap=cap, keep=keep)
threading.Thread(target=work, daemon=True).start()   # as the driver's are: between the two steps
second = close_doors(seccomp if use_seccomp else None, memory_bytes=128 << 20,
                     devices=[device, memory])
print(json.dumps({"pid": os.getpid(), **first, **second}), flush=True)
sys.stdin.readline()
go.set()
done.wait(10)
found["first"] = attempts()
print(json.dumps(found), flush=True)
os._exit(0)
"""


@pytest.fixture
def port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def locked(port, cap, seccomp):
    """The level, whether the kernel says that all threads are filtered, what each could do."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(port), str(cap), seccomp],
        env={"OPENBLAS_NUM_THREADS": "1"}, cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        line = process.stdout.readline()
        assert line, process.stderr.read()
        level = json.loads(line)
        filtered = all_threads_filtered(level["pid"])
        output, _ = process.communicate("go\n", timeout=30)
    return level, filtered, json.loads(output)


ALLOWED = {"ioctl on the device", "map the device", "a little memory"}


@pytest.mark.parametrize("cap", [0, 99])
def test_a_thread_that_started_before_the_doors_closed_can_do_no_more_than_the_first(port, cap):
    level, filtered, found = locked(port, cap, "seccomp")
    assert level["seccomp"] is True
    assert level["one_thread"] is False
    assert level["address_space_limited"] is False
    assert level["landlock_abi"] <= cap
    assert filtered is True
    for outcomes in (found["thread"], found["first"]):
        assert {name for name, outcome in outcomes.items() if outcome == "done"} == ALLOWED
        assert outcomes["ioctl elsewhere"] == "EPERM"
        assert outcomes["map elsewhere"] == "EPERM"
        assert outcomes["too much memory"] == "MemoryError"


def test_without_the_filter_the_same_attempts_show_what_landlock_holds_on_later_threads(port):
    """Also the proof that the probe can tell: most of these work where no filter forbids them."""
    level, filtered, found = locked(port, 99, "without")
    assert level["seccomp"] is False
    assert filtered is False
    if level["landlock_abi"] < 6:
        pytest.skip(f"this kernel offers Landlock {level['landlock_abi']}")
    later = found["thread"]
    assert later["connect"] == "EACCES"
    assert later["create"] == "EACCES"
    assert later["open"] == "EACCES"
    assert later["exec"] == "EACCES"
    assert later["signal the parent"] == "EPERM"
    for name in ("ioctl elsewhere", "map elsewhere", "map it executable"):
        assert later[name] == "done"


def test_two_threads_before_the_first_step_stop_it():
    program = (
        "import threading; e = threading.Event(); t = threading.Thread(target=e.wait); t.start()\n"
        "from serving.sandbox.device_lockdown import begin\n"
        "try: begin(None, cpu_seconds=9, landlock_cap=0)\n"
        "except RuntimeError as error: print(error)\n"
        "e.set()"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert result.stdout.startswith("2 threads run before the lockdown")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/dev/nvidia0", True), ("/dev/nvidiactl", True), ("/dev/nvidia-uvm", True),
        ("/dev/nvidia-caps/nvidia-cap12", True), ("/dev/nvidia-uvm-tools", False),
        ("/dev/nvidia-modeset", False), ("/dev/null", False), ("/tmp/dev/nvidia0", False),
        ("/dev/nvidia0 (deleted)", False), ("socket:[1]", False),
    ],
)  # fmt: skip
def test_only_the_files_that_computing_needs_count_as_the_device(path, expected):
    assert is_device_file(path) is expected
