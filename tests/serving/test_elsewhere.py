"""`pull` and `verify` where there is no Linux, no network, or no second chance.

What only Linux has, and what only the [hospital] extra brings, is kept from being imported: the
base install on Windows or macOS. What is left out is the replay, and that is said.
"""

import datetime as dt
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import pytest

from registry.trust.canonical import sha256_bytes
from registry.trust.keys import pem_of
from serving.bundle.pack import write_bundle
from serving.bundle.verify import verify
from tests.serving import certified
from tests.serving.certified import NOW, Facility
from tests.serving.test_no_network import alone

ROOT = Path(__file__).parents[2]
Files = dict[str, bytes]

PROGRAM = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"fcntl", "resource", "pwd", "grp", "pyseccomp", "landlock",
                                  "landlockpy", "uvloop", "numpy", "onnx", "onnxruntime", "bentoml",
                                  "uvicorn", "starlette", "mlflow", "psycopg", "fastapi", "pandas"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
for name in ("fcntl", "resource", "pwd", "grp"):
    sys.modules.pop(name, None)
import contextlib, io, json
from registry.cli.main import main
from tests.serving.windows_lock import Msvcrt
sys.modules["msvcrt"] = Msvcrt()  # by now: the standard library takes it for a sign of Windows
done = []
for words in json.loads(sys.argv[1]):
    out, err, status = io.StringIO(), io.StringIO(), 0
    sys.argv[1:] = words
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
    done.append([status, out.getvalue(), err.getvalue()])
print(json.dumps(done))
"""
PULL = """
import sys
from pathlib import Path
from registry.cli.hospital import pull
pull("nodule", Path(sys.argv[1]), True)
"""


@pytest.fixture(scope="module")
def tef() -> Facility:
    return certified.facility()


@pytest.fixture(scope="module")
def files(tef: Facility) -> Files:
    signed_over = certified.packed(certified.model(extra=300_000))
    now = {"at": dt.datetime.now(dt.UTC)}
    return certified.signed(signed_over, tef.log, tef.ada, tef.ben, logged=now)


def listing_of(files: Files) -> dict[str, object]:
    return {path: {"digest": sha256_bytes(data), "size": len(data)} for path, data in files.items()}


@pytest.fixture(scope="module")
def server(files: Files) -> Iterator[str]:
    """Serves the bundle by the two paths that `pull` asks, 64 kB at a time."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = urlparse(self.path)
            if asked.path.endswith("/certified"):
                data = json.dumps({"organisation": "sme-a", "model": "nodule", "version": 3,
                                   "not_after": "2030",
                                   "files": listing_of(files)}).encode()  # fmt: skip
            else:
                start = int(self.headers.get("Range", "bytes=0-")[6:-1])
                data = files[parse_qs(asked.query)["path"][0]][start:]
            self.send_response(206 if "Range" in self.headers else 200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            for at in range(0, len(data), 1 << 16):
                self.wfile.write(data[at : at + (1 << 16)])
                time.sleep(0.005)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.handle_error = lambda *_: None  # type: ignore[method-assign]  # a killed client
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}"
    listening.shutdown()
    listening.server_close()


def environment(home: Path, server: str = "http://127.0.0.1:1") -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"], "HOME": str(home), "TOUCHSTONE_HOME": str(home / "touchstone"),
        "TOUCHSTONE_SERVER": server, "TOUCHSTONE_TOKEN": "tst_x", "PYTHONPATH": str(ROOT),
    }  # fmt: skip


def test_pull_and_verify_need_nothing_that_only_linux_has(
    tef: Facility, server: str, tmp_path: Path
) -> None:
    """All commands in one process: to start one takes longer than what it does."""
    (tmp_path / "root.pem").write_bytes(pem_of(tef.root.certificate))
    asked, skip = ["verify", "b", "--root", "root.pem", "--no-status"], "--skip-golden"
    commands = [
        ["pull", "nodule", "--to", "b", "--json"],
        [*asked, skip],
        [*asked, "--acknowledge", "Clara", "--json"],
        [*asked, skip, "--json"],
        [*asked, skip, "--acknowledge", "Clara", "--json"],
        [*asked, skip, "--json"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(commands)], cwd=tmp_path, capture_output=True,
        text=True, check=True, env=environment(tmp_path, server), timeout=120,
    )  # fmt: skip
    pulled, first, closed, again, acknowledged, remembered = json.loads(done.stdout)
    assert pulled[0] == 0, pulled
    assert first[0] == 34
    assert "triage of nodules" in first[2]
    assert closed[0] == 51
    assert json.loads(closed[1])["code"] == "golden_unavailable"
    assert "leave the replay out knowingly" in closed[2]
    assert again[0] == 34, "what did not verify was not acknowledged"
    for status, said, _ in (acknowledged, remembered):
        assert status == 0
        value = json.loads(said)
        assert value["ok"] is True
        assert value["steps"][-1]["outcome"] == "skipped"
        assert "not replayed, as asked" in value["steps"][-1]["sentence"]


def test_a_good_bundle_passes_without_any_network(
    tef: Facility, files: Files, tmp_path: Path
) -> None:
    """With the replay, in a network namespace that has no interface."""
    place = ROOT / f".verified-{os.getpid()}"  # alone() hides /tmp, where tmp_path lies
    place.mkdir()
    try:
        write_bundle(files, place / "b")
        (place / "root.pem").write_bytes(pem_of(tef.root.certificate))
        done = subprocess.run(
            [*alone(), sys.executable, "-B", "-m", "registry.cli.main", "verify", str(place / "b"),
             "--root", str(place / "root.pem"), "--no-status", "--acknowledge", "Clara", "--json"],
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
            env=environment(Path("/tmp/home")),
        )  # fmt: skip
    finally:
        shutil.rmtree(place)
    assert done.returncode == 0, done.stderr[-2000:]
    steps = json.loads(done.stdout)["steps"]
    assert [step["name"] for step in steps if step["outcome"] != "ok"] == ["status", "standing"]
    assert len(steps) == 13
    assert steps[-1]["name"] == "golden vectors"


def _killed_at_random(server: str, place: Path, tef: Facility, names: set[str], times: int) -> int:
    """Kill `pull` again and again, and look each time; returns how often it was in the middle."""
    chance = random.Random(times)  # noqa: S311 - when to kill is no secret
    broken_off = 0
    for number in range(times):
        target = place / f"b{number % 3}"
        process = subprocess.Popen(
            [sys.executable, "-c", PULL, str(target)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(place, server),
        )  # fmt: skip
        partial = place / f".{target.name}.partial"
        waited = time.monotonic() + 30
        while process.poll() is None and not partial.exists() and time.monotonic() < waited:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.15) if number else 0)
        process.kill()
        process.wait(30)
        if target.exists():
            root = tef.root.certificate
            verify(target, root, NOW, certified.TAKES, replay=False).raise_if_failed()
            shutil.rmtree(target)
        elif partial.exists():
            broken_off += 1
            result = verify(partial, tef.root.certificate, NOW, certified.TAKES, replay=False)
            here = {path.relative_to(partial).as_posix() for path in partial.rglob("*")
                    if path.is_file()}  # fmt: skip
            assert not result.ok or here == names, "only the move into place was missing"
    return broken_off


@pytest.mark.parametrize(
    "times", [6, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_killing_pull_at_random_and_repeating_it_never_leaves_half_a_bundle(
    tef: Facility, files: Files, server: str, tmp_path: Path, times: int
) -> None:
    assert _killed_at_random(server, tmp_path, tef, set(files), times) > 0
    for number in range(3):
        target = tmp_path / f"b{number}"
        done = subprocess.run(
            [sys.executable, "-c", PULL, str(target)], capture_output=True, text=True, check=False,
            env=environment(tmp_path, server),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        verify(target, tef.root.certificate, NOW, certified.TAKES, replay=False).raise_if_failed()
        assert not (tmp_path / f".{target.name}.partial").exists()
