"""One process at a time, by the lock of Linux and by a double of the one of Windows."""

import datetime as dt
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.trust.errors import Conflict
from serving.bundle import memory
from serving.bundle.acknowledged import acknowledged, remember
from serving.bundle.download import download
from serving.bundle.layout import REQUIRED, UNSIGNED
from serving.bundle.memory import open_memory
from serving.locking import Taken, held
from tests.serving.status_made import AUTHORITY, NOW
from tests.serving.test_bundle import Server, leftovers, manifest_of
from tests.serving.windows_lock import Msvcrt

HOLDING = """
import sys, time
from pathlib import Path
from serving.locking import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
COUNTING = """
import sys
from pathlib import Path
from serving.locking import held
lock, count = Path(sys.argv[1]), Path(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(300):
    with held(lock, patience=60, fleeting=True):
        count.write_text(str(int(count.read_text()) + 1))
"""
ACKNOWLEDGING = """
import datetime as dt, sys
from pathlib import Path
from serving.bundle.acknowledged import remember
print("ready", flush=True)
sys.stdin.readline()
for number in range(20):
    remember(Path(sys.argv[1]), "sha256:" + f"{sys.argv[2]}{number:02d}".zfill(64), "Clara",
             dt.datetime.now(dt.UTC))
"""


def process(program: str, *arguments: object) -> subprocess.Popen[str]:
    made = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ),
    )  # fmt: skip
    assert made.stdout is not None
    assert made.stdout.readline()
    return made


def both(*made: subprocess.Popen[str]) -> None:
    """Start them at one moment and wait for their good end."""
    for one in made:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    assert [one.wait(60) for one in made] == [0] * len(made)


def test_another_process_is_kept_out_until_the_holder_is_gone(tmp_path: Path) -> None:
    holder = process(HOLDING, tmp_path / "lock")
    with pytest.raises(Taken), held(tmp_path / "lock", patience=0.1):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait(20)
    with held(tmp_path / "lock"):
        pass


def test_two_processes_whose_lock_comes_and_goes_never_hold_it_together(tmp_path: Path) -> None:
    count = tmp_path / "count"
    count.write_text("0")
    both(*(process(COUNTING, tmp_path / "lock", count) for _ in range(2)))
    assert count.read_text() == "600"
    assert leftovers(tmp_path) == ["count"]


def test_two_processes_that_acknowledge_lose_none(tmp_path: Path) -> None:
    both(*(process(ACKNOWLEDGING, tmp_path / "state", name) for name in "ab"))
    assert len(acknowledged(tmp_path / "state")) == 40


# -- Windows, by a double ----------------------------------------------------------------------


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> Iterator[Msvcrt]:
    double, unlink = Msvcrt(), Path.unlink

    def removed(path: Path, missing_ok: bool = False) -> None:
        if path.exists() and double.refuses(path):
            raise PermissionError(13, "The process cannot access the file")
        unlink(path, missing_ok)

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", double)
    monkeypatch.setattr(Path, "unlink", removed)
    yield double
    assert double.holders == {}, "every lock was given back"


def test_on_windows_the_lock_is_the_same(windows: Msvcrt, tmp_path: Path) -> None:
    (tmp_path / "lock").write_bytes(b"of an earlier one")
    with held(tmp_path / "lock"):
        assert len(windows.holders) == 1
        with pytest.raises(Taken), held(tmp_path / "lock", patience=0.1):
            pass
    with held(tmp_path / "lock", fleeting=True), pytest.raises(Taken):
        held(tmp_path / "lock", fleeting=True).__enter__()
    assert leftovers(tmp_path) == []


def test_on_windows_a_state_folder_is_one_process_s_at_a_time(
    windows: Msvcrt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_PATIENCE", 0.1)
    one = open_memory(tmp_path, AUTHORITY.certificate, NOW)
    use = "sha256:" + "1" * 64
    with one.alone():
        with pytest.raises(Conflict) as caught:
            remember(tmp_path, use, "Clara", NOW)
        one.remember(latest=NOW + dt.timedelta(hours=1))
    assert caught.value.code == "state_in_use"
    remember(tmp_path, use, "Clara", NOW)
    assert acknowledged(tmp_path) == {use: "Clara"}


def test_on_windows_two_pulls_into_one_place_do_not_mix(windows: Msvcrt, tmp_path: Path) -> None:
    names = {*REQUIRED, *UNSIGNED, "model/model.onnx"}
    files = {name: name.encode() for name in names}
    codes: list[str] = []

    def fetch(path: str, start: int) -> Any:
        if not codes:
            with pytest.raises(Conflict) as caught:
                download(manifest_of(files), Server(files).fetch, tmp_path / "b")
            codes.append(caught.value.code)
        return Server(files).fetch(path, start)

    download(manifest_of(files), fetch, tmp_path / "b")
    assert codes == ["already_pulling"]
    assert leftovers(tmp_path) == ["b"]
