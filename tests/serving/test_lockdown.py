"""A process that was taken over can do nothing but compute and answer."""

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from registry.trust.errors import Refused
from serving.sandbox import Sandbox
from serving.sandbox.lockdown import ALLOWED_CALLS
from tests.serving import hostile
from tests.serving.probe import ask, attempts, probed

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def listener():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.mark.parametrize("landlock_abi", [0, 2, 4, 99])
def test_nothing_that_a_taken_over_process_tries_works(listener, landlock_abi):
    with probed(landlock_abi=landlock_abi) as sandbox:
        request = {"operation": "try", "parent": os.getpid(), "port": listener}
        found = ask(sandbox, request)
        assert sandbox.level["seccomp"] is True
        assert sandbox.level["landlock_abi"] <= landlock_abi
    assert set(found) == set(attempts(1, 1))
    assert {name for name, outcome in found.items() if outcome == "done"} == set()


def test_the_same_attempts_work_outside_so_the_probe_can_tell(listener):
    tried = attempts(os.getpid(), listener)
    for name in ("open", "list", "stat", "connect", "signal the parent", "executable memory"):
        tried[name]()


def test_inputs_are_memory_that_the_process_can_only_read():
    with probed() as sandbox:
        answer = ask(sandbox, {"operation": "shared"})
    assert answer == {"read": 64, "written": False}


def test_the_process_has_no_environment_no_files_and_one_thread():
    os.environ["TOUCHSTONE_SECRET_FOR_TEST"] = "do not leak"
    try:
        with Sandbox.start() as sandbox:
            place = Path(f"/proc/{sandbox.pid}")
            environment = place.joinpath("environ").read_bytes()
            descriptors = {entry.name: str(entry.readlink()) for entry in place.glob("fd/*")}
            threads = len(list(place.glob("task/*")))
            folder = place.joinpath("cwd").readlink()
            session = os.getsid(sandbox.pid)
            assert session != os.getsid(0)
    finally:
        del os.environ["TOUCHSTONE_SECRET_FOR_TEST"]
    assert set(environment.split(b"\0")) - {b"", b"PWD=/"} == {  # bubblewrap tells the folder
        b"OPENBLAS_NUM_THREADS=1",
        b"OMP_NUM_THREADS=1",
        b"ORT_DISABLE_TELEMETRY=1",
    }
    assert {name: target.split(":")[0] for name, target in descriptors.items()} == {
        "0": "/dev/null",
        "1": "/dev/null",
        "2": "/dev/null",
        "3": "socket",
    }
    assert threads == 1
    assert folder == Path("/")


def test_still_one_thread_after_the_model_ran():
    with Sandbox.start() as sandbox:
        sandbox.load({"model.onnx": hostile.honest()})
        sandbox.run(hostile.cases(64))
        assert len(list(Path(f"/proc/{sandbox.pid}/task").iterdir())) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to drop")
def test_root_becomes_another_user_than_postgres():
    with Sandbox.start() as sandbox:
        status = Path(f"/proc/{sandbox.pid}/status").read_text()
        assert sandbox.level["uid_dropped"] is True
    ids = next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1:]
    groups = next(line for line in status.splitlines() if line.startswith("Groups:")).split()[1:]
    capabilities = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    assert set(ids) == {"65533"}
    assert groups == []
    assert int(capabilities.split()[1], 16) == 0


def test_the_limits_are_those_of_the_kernel():
    with Sandbox.start() as sandbox:
        rows = Path(f"/proc/{sandbox.pid}/limits").read_text().splitlines()
    limits = {row[:26].strip(): row[26:].split()[:2] for row in rows[1:]}
    assert limits["Max file size"] == ["0", "0"]
    assert limits["Max core file size"] == ["0", "0"]
    assert limits["Max processes"] == ["0", "0"]
    assert limits["Max open files"] == ["4", "4"]
    assert int(limits["Max address space"][1]) < 6 << 30
    assert int(limits["Max cpu time"][1]) == 86_401


@pytest.mark.parametrize(
    ("cap", "listed", "connected"),
    [(0, "done", "done"), (2, "errno 13", "done"), (4, "errno 13", "errno 13")],
)
def test_landlock_alone_does_what_its_version_offers(listener, cap, listed, connected):
    program = f"from tests.serving.probe import landlock_alone; landlock_alone({cap}, {listener})"
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={"OPENBLAS_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"},
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    answer = json.loads(result.stdout)
    if answer["level"]["landlock_abi"] < cap:
        pytest.skip(f"this kernel offers Landlock {answer['level']['landlock_abi']}")
    assert answer["found"] == {"list": listed, "connect": connected}
    assert int(listed.split()[-1]) == errno.EACCES if listed != "done" else True


WITHOUT_SECCOMP = """
import json, sys, pyseccomp
rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
rules.add_rule(pyseccomp.ERRNO(22), "seccomp")
rules.add_rule(pyseccomp.ERRNO(22), "prctl", pyseccomp.Arg(0, pyseccomp.EQ, 22))
rules.load()
from registry.trust.errors import Refused
from serving.sandbox import Sandbox
try:
    Sandbox.start().close()
    print(json.dumps("started"))
except Refused as error:
    print(json.dumps(error.code))
from tests.serving import hostile
with Sandbox.start(allow_unsandboxed=True) as sandbox:
    sandbox.load({"model.onnx": hostile.honest()})
    rows = len(sandbox.run(hostile.cases(3))["score"])
    print(json.dumps([sandbox.level, rows]))
"""


def test_without_seccomp_nothing_runs_unless_the_operator_says_so():
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_SECCOMP],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    refusal, allowed = (json.loads(line) for line in result.stdout.splitlines())
    assert refusal == "sandbox_unavailable"
    level, rows = allowed
    assert rows == 3
    assert level["seccomp"] is False
    assert level["allow_unsandboxed"] is True
    assert level["no_new_privileges"] is True


def test_a_thread_started_too_early_stops_the_lockdown():
    program = (
        "import threading; e = threading.Event(); t = threading.Thread(target=e.wait); t.start()\n"
        "from serving.sandbox.lockdown import lock_down\n"
        "try: lock_down(None, None, memory_bytes=1 << 30, cpu_seconds=9, landlock_cap=0)\n"
        "except RuntimeError as error: print(error)\n"
        "e.set()"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert result.stdout.startswith("2 threads run before the lockdown")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start it as somebody else")
def test_it_works_for_an_ordinary_user_too(tmp_path):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            # Root's home, where the interpreter may live, is closed to others: keep the right to
            # read it, and nothing else of root's.
            os.setgroups([])
            os.setresgid(65532, 65532, 65532)
            _become_user_who_may_read(65532)
            with Sandbox.start() as sandbox:
                sandbox.load({"model.onnx": hostile.honest()})
                rows = len(sandbox.run(hostile.cases(3))["score"])
                status = Path(f"/proc/{sandbox.pid}/status").read_text()
                uid = next(line for line in status.splitlines() if line.startswith("Uid:"))
                os.write(writer, json.dumps([sandbox.level, rows, uid.split()[1]]).encode())
            code = 0
        except Refused:
            code = 2
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        answer = stream.read()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    level, rows, uid = json.loads(answer)
    assert (rows, uid) == (3, "65532")
    assert level["seccomp"] is True
    assert level["uid_dropped"] is False


def _become_user_who_may_read(uid: int) -> None:
    """Change the user, keeping CAP_DAC_READ_SEARCH as an ambient capability across exec."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    read_search = 2
    assert libc.prctl(8, 1, 0, 0, 0) == 0  # PR_SET_KEEPCAPS
    os.setresuid(uid, uid, uid)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    bit = 1 << read_search
    data = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)
    assert libc.capset(header, data) == 0
    assert libc.prctl(47, 2, read_search, 0, 0) == 0  # PR_CAP_AMBIENT_RAISE


def test_the_allow_list_holds_no_call_that_reaches_out():
    forbidden = {
        "open", "openat", "openat2", "creat", "socket", "connect", "bind", "accept", "listen",
        "execve", "execveat", "fork", "vfork", "clone", "clone3", "kill", "tkill", "tgkill",
        "ptrace", "prctl", "prlimit64", "setrlimit", "rt_sigaction", "ioctl", "fcntl", "dup",
        "mmap", "mprotect", "getrandom",
    }  # fmt: skip
    assert not forbidden & set(ALLOWED_CALLS)
