"""`touchstone up`, killed without a chance to tidy up, and started again."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.stage import TOUCHSTONE
from registry.database.embedded import discard


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="touchstone-up-"))
    folder.chmod(0o711)
    yield folder
    discard(folder / "facility" / "postgres")
    shutil.rmtree(folder, ignore_errors=True)


def start(home: Path, port: int) -> subprocess.Popen[bytes]:
    """`touchstone up`, waited for until it is ready."""
    environment = {key: value for key, value in os.environ.items()
                   if not key.startswith(("TOUCHSTONE_", "MLFLOW_"))} | {
        "TOUCHSTONE_HOME": str(home / "facility"), "TOUCHSTONE_KEYS": str(home / "keys"),
        "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    log = home / "up.log"
    log.unlink(missing_ok=True)
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*TOUCHSTONE, "up", "--port", str(port)], env=environment, stdout=stream,
            stderr=stream, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + 120
    while "ready;" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    return process


def living(home: Path) -> list[str]:
    """Our own processes that still know this home, but for PostgreSQL's."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if str(home).encode() in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_text())
            except OSError:
                continue
    return found


def test_killed_it_leaves_no_server_behind_and_starts_again_on_the_same_data(home: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    first = start(home, port)
    token = (home / "keys" / "admin.token").read_text()
    first.send_signal(signal.SIGKILL)
    first.wait()
    deadline = time.monotonic() + 20
    while living(home) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert living(home) == []
    second = start(home, port)
    assert (home / "keys" / "admin.token").read_text() == token
    second.send_signal(signal.SIGINT)
    assert second.wait(30) == 0
    assert living(home) == []
