"""What it costs to verify a bundle, against hashing its files once; and how soon it is served.

    python -m bench.verify [--megabytes 1000] [--rounds 5]

Hashing once and verifying take turns in each round, so that both meet the same machine, and the
ratio is the median of the rounds' own. Verification runs in a process of its own, which says its
peak memory: without the replay it is the same for 100 MB and for 1 GB. With it the model is held
once, because the bytes that are loaded must be the ones that were hashed; and the sandboxed process
checks and loads it, which takes some five times its size. That process' memory is limited by the
model's size (`serving.sandbox.limits.for_model`). The replay has no target.
"""

import argparse
import datetime as dt
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from registry.trust.keys import pem_of
from serving.bundle.acknowledged import remember
from serving.bundle.pack import write_bundle
from tests.serving import certified

_VERIFY = """
import datetime, json, sys, time
from pathlib import Path
from registry.trust.keys import load_certificate
from serving.bundle.policy import Policy
from serving.bundle.verify import verify
root, now = load_certificate(Path(sys.argv[2])), datetime.datetime.now(datetime.UTC)
policy = Policy(acknowledging="Clara")
# Not ru_maxrss, which a child inherits from its parent.
def high(process):
    status = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024
sandbox = 0
if sys.argv[3] == "replay":
    import serving.bundle.golden, serving.sandbox.process
    from serving.sandbox.launch import LockedProcess
    close = LockedProcess.close
    def noted(process):
        global sandbox
        if process.socket is not None:
            sandbox = max(sandbox, high(process.pid))
        close(process)
    LockedProcess.close = noted
started = time.perf_counter()
verify(Path(sys.argv[1]), root, now, policy, replay=sys.argv[3] == "replay").raise_if_failed()
seconds = time.perf_counter() - started
print(json.dumps([seconds, high("self"), sandbox]))
"""


def hash_once(bundle: Path) -> float:
    """Seconds for one pass of SHA-256 in blocks of 1 MiB."""
    started = time.perf_counter()
    for path in sorted(bundle.rglob("*")):
        if path.is_file():
            digest = hashlib.sha256()
            with path.open("rb", buffering=0) as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    return time.perf_counter() - started


def verify_once(bundle: Path, root: Path, mode: str) -> tuple[float, float, float]:
    """(seconds, peak MiB, the sandboxed process' peak MiB or 0) of one verification."""
    done = subprocess.run(
        [sys.executable, "-c", _VERIFY, str(bundle), str(root), mode],
        capture_output=True,
        check=True,
    )
    seconds, peak, sandbox = json.loads(done.stdout)
    return seconds, peak, sandbox


def serve_once(bundle: Path, root: Path) -> float:
    """Seconds from the start of the process to the line that says it serves."""
    started = time.perf_counter()
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "registry.cli.main",
            "serve",
            str(bundle),
            "--no-status",
            "--root",
            str(root),
            "--port",
            "0",
            "--state",
            str(root.parent / "state"),
        ],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        ready = next(
            time.perf_counter() - started for line in process.stderr if line.startswith("serving")
        )
        process.terminate()
    return ready


def median(rounds: int, measure: Callable[[], float]) -> float:
    """The median of `rounds` measurements."""
    return statistics.median(measure() for _ in range(rounds))


def compare(bundle: Path, root: Path, mode: str, rounds: int) -> str:
    """Hashing and verifying in turns, in words."""
    hashing, seconds, peaks, sandboxes, ratios = [], [], [], [], []
    for _ in range(rounds):
        once = hash_once(bundle)
        taken, peak, sandbox = verify_once(bundle, root, mode)
        once = (once + hash_once(bundle)) / 2  # before and after: the machine drifts
        hashing.append(once)
        seconds.append(taken)
        peaks.append(peak)
        sandboxes.append(sandbox)
        ratios.append(taken / once)
    ratio = statistics.median(ratios)
    return (
        f"hash once {statistics.median(hashing):.3f} s, verify {statistics.median(seconds):.3f} s: "
        f"{ratio:.2f} x ({min(ratios):.2f} to {max(ratios):.2f}), peak {max(peaks):.0f} MiB"
        + (f", of the sandbox {max(sandboxes):.0f} MiB" if mode == "replay" else "")
    )


def main() -> None:
    """Make the bundles, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    tef = certified.facility()
    golden = certified.golden_of({"model.onnx": certified.model()})  # the ballast adds nothing
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "root.pem"
        root.write_bytes(pem_of(tef.root.certificate))
        bundles = {}
        for megabytes in (0, 20, 200, given.megabytes // 10, given.megabytes):
            data = certified.model(extra=megabytes * 250_000)
            files = certified.packed(data, golden=golden)
            use = certified.predicate(files, tef.log).use
            remember(root.parent / "state", use, "Clara", certified.NOW)
            now = {"at": dt.datetime.now(dt.UTC)}
            bundles[megabytes] = write_bundle(
                certified.signed(files, tef.log, tef.ada, tef.ben, logged=now),
                Path(place) / str(megabytes),
            )
            del data, files
        for megabytes in (given.megabytes // 10, given.megabytes):
            said = compare(bundles[megabytes], root, "skip", given.rounds)
            print(f"{megabytes} MB, without golden replay: {said}", flush=True)
        for megabytes in (20, 200, given.megabytes):
            said = compare(bundles[megabytes], root, "replay", given.rounds)
            print(f"{megabytes} MB, with golden replay: {said}", flush=True)
            if megabytes == given.megabytes:
                continue
            of = bundles[megabytes]
            ready = median(given.rounds, lambda of=of: serve_once(of, root))  # type: ignore[misc]
            print(f"{megabytes} MB: served after {ready:.2f} s", flush=True)


if __name__ == "__main__":
    main()
