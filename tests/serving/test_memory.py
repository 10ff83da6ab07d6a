"""What a hospital remembers: it only grows, survives a kill, and is one facility's."""

import datetime as dt
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from registry.trust.checkpoint import Checkpoint, sign
from registry.trust.errors import TouchstoneError
from registry.trust.keys import new_root, pem_of
from registry.trust.merkle import Tree
from serving.bundle import memory as memory_room
from serving.bundle.memory import MEMORY, Seen, open_memory, seen_checkpoint
from serving.bundle.status_copy import export, folder_reader, kept
from tests.serving.status_made import AUTHORITY, NOW, STATEMENT, Made

ROOT = AUTHORITY.certificate
HOUR = dt.timedelta(hours=1)


def note_of(size: int) -> bytes:
    """A checkpoint of some log."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return sign(Checkpoint("log", size, Tree().root()), Ed25519PrivateKey.generate())


def test_it_only_grows(tmp_path: Path) -> None:
    one, other = open_memory(tmp_path, ROOT, NOW), open_memory(tmp_path, ROOT, NOW)
    assert one.checkpoint is None
    longer = note_of(7)
    seen = {"targets": Seen(version=4, digest=STATEMENT)}
    one.remember(checkpoint=longer, seen=seen, latest=NOW + HOUR)
    other.remember(checkpoint=note_of(3), seen={"targets": Seen(version=2, digest=STATEMENT)})
    found = open_memory(tmp_path, ROOT, NOW + HOUR)
    assert found.checkpoint == longer
    assert found.remembered.seen == seen
    assert found.latest == NOW + HOUR
    assert seen_checkpoint(tmp_path, ROOT) == longer


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda folder: open_memory(folder, ROOT, NOW - HOUR), "clock_set_back"),
        (lambda folder: open_memory(folder, new_root("t", demo=True).certificate, NOW),
         "root_changed"),
        (lambda folder: (folder / MEMORY).write_bytes(b"{}"), "state_damaged"),
        (lambda folder: (folder / MEMORY).write_bytes(b""), "state_damaged"),
    ],
)  # fmt: skip
def test_what_can_not_be_believed_is_refused(change: object, code: str, tmp_path: Path) -> None:
    open_memory(tmp_path, ROOT, NOW)

    def open_again() -> None:
        change(tmp_path)  # type: ignore[operator]
        open_memory(tmp_path, ROOT, NOW)

    with pytest.raises(TouchstoneError) as caught:
        open_again()
    assert caught.value.code == code


def test_two_at_once_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, other = open_memory(tmp_path, ROOT, NOW), open_memory(tmp_path, ROOT, NOW)
    monkeypatch.setattr(memory_room, "_PATIENCE", 0.1)
    with held.alone():
        with pytest.raises(TouchstoneError) as caught:
            other.remember(latest=NOW)
        held.remember(latest=NOW)  # whoever holds it may write
    assert caught.value.code == "state_in_use"
    other.remember(latest=NOW)


FETCHING = """
import sys, itertools
from pathlib import Path
from registry.trust.keys import load_certificate
from serving.bundle.status_copy import fetch, folder_reader
import datetime as dt
state, root = Path(sys.argv[1]), load_certificate(Path(sys.argv[2]))
print("ready", flush=True)
for number in itertools.count() if sys.argv[3] == "ever" else range(int(sys.argv[3])):
    for stick in sys.argv[4:]:
        try:
            fetch(state, root, dt.datetime.now(dt.UTC), folder_reader(Path(stick)))
        except Exception as error:
            if getattr(error, "code", "") != "status_rolled_back":
                raise
"""


def _fetching(folder: Path, rounds: str, *sticks: str) -> subprocess.Popen[str]:
    (folder / "root.pem").write_bytes(pem_of(ROOT))
    arguments = [str(folder / "state"), str(folder / "root.pem"), rounds]
    return subprocess.Popen(
        [sys.executable, "-c", FETCHING, *arguments, *(str(folder / stick) for stick in sticks)],
        stdout=subprocess.PIPE, text=True, env=dict(os.environ),
    )  # fmt: skip


def _stick(folder: Path, name: str, version: int) -> None:
    roles = ("timestamp", "snapshot", "targets", "downgrade")
    made = Made(at=dt.datetime.now(dt.UTC), versions=dict.fromkeys(roles, version))
    export(made.files(), folder / name)


def test_two_processes_that_fetch_leave_the_newest(tmp_path: Path) -> None:
    _stick(tmp_path, "old", 1)
    _stick(tmp_path, "new", 2)
    both = [_fetching(tmp_path, "15", "old", "new") for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    status, memory = kept(tmp_path / "state", ROOT, dt.datetime.now(dt.UTC))
    assert status.seen["targets"].version == 2
    assert memory.remembered.seen["targets"].version == 2


def test_a_kill_in_the_middle_of_a_fetch_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    _stick(tmp_path, "stick", 1)
    for pause in (0.0, 0.013, 0.031, 0.057):
        process = _fetching(tmp_path, "ever", "stick")
        assert process.stdout is not None
        process.stdout.readline()
        while not (tmp_path / "state" / "status.json").exists():
            time.sleep(0.005)
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait(20)
        status, _ = kept(tmp_path / "state", ROOT, dt.datetime.now(dt.UTC))
        assert status.seen["targets"].version == 1
    assert folder_reader(tmp_path / "stick")("9.root.json") is None
